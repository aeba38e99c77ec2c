"""Features of nodes, or of edges, as given → category numbers and measured numbers, one row each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Float64, Int64

from metaformer.errors import DataError, MetaformerError
from metaformer_plugin_graph.graph import Rows

MISSING = frozenset({"", "na", "n/a", "nan", "null", "none", "?"})
"""Texts that mean nothing is there, in lower case."""
LARGEST = 1e30
"""What lies beyond is damage or a code for "missing", and soon too large for float32."""

Category = int | tuple[str, ...]
"""A column of categories: how many (values are 0, 1, ...), or the names of its values."""


class Columns:
    """First the categorical columns, then the numeric ones; `names` are those of attributes, in that order.

    Every categorical column has one number more than categories, for what is missing or has an unknown name.
    """

    def __init__(
        self, kind: Literal["node", "edge"], categorical: Sequence[Category], numeric: int, names: Sequence[str]
    ) -> None:
        self.kind, self.categorical, self.numeric, self.names = kind, tuple(categorical), numeric, tuple(names)
        self.sizes = [one if isinstance(one, int) else len(one) for one in categorical]
        if names and len(names) != self.count:
            raise MetaformerError(
                f"{kind}_columns for {self.count} columns",
                f"{len(names)} names",
                f"name one for each of {kind}_categorical and {kind}_numeric",
            )
        if min(self.sizes, default=1) < 1:
            raise MetaformerError(f"{kind}_categorical", "a column without categories", "leave the column out")
        # Columns lie behind one another in one table of vectors.
        self.offsets = [sum(self.sizes[:i]) + i for i in range(len(self.sizes))]
        self.lookup = [{} if isinstance(one, int) else {name: i for i, name in enumerate(one)} for one in categorical]

    @property
    def count(self) -> int:
        return len(self.categorical) + self.numeric

    @property
    def width(self) -> int:
        """Rows of the table of vectors."""
        return sum(self.sizes) + len(self.sizes)

    def encode(self, rows: Rows, count: int) -> tuple[Int64[np.ndarray, "N c"], Float64[np.ndarray, "N k"]]:
        """Rows of the table, one per categorical column, and numbers, NaN where missing. Raises DataError."""
        if not self.count or not count:
            return np.zeros((count, len(self.sizes)), np.int64), np.zeros((count, self.numeric))
        if isinstance(rows, np.ndarray):
            self._check_width(rows.shape[1])
            table = rows
        else:
            table = self._from_cells(rows or [])
        split = len(self.sizes)
        codes = [self._codes(table[:, i], i) for i in range(split)]
        return np.stack([np.zeros(count, np.int64), *codes], axis=1)[:, 1:], self._measured(table[:, split:])

    def _check_width(self, width: int) -> None:
        if width != self.count:
            raise DataError(
                f"{self.count} features of a {self.kind}",
                f"{width}",
                f"set {self.kind}_categorical and {self.kind}_numeric to what the graphs have",
            )

    def _from_cells(self, rows: Sequence[Any]) -> Float64[np.ndarray, "N C"]:
        """Attributes by name, or texts by column, as numbers."""
        if not rows or (not rows[0] and not any(rows)):
            raise DataError(f"{self.count} features of a {self.kind}", "none", f"or set no {self.kind}_categorical")
        if isinstance(rows[0], Mapping):
            absent = [name for name in self.names if not any(name in row for row in rows)]
            if absent or not self.names:
                there = ", ".join(str(name) for name in list(dict.fromkeys(key for row in rows for key in row))[:8])
                raise DataError(
                    f"attributes {', '.join(self.names) or 'by name'} of a {self.kind}",
                    f"a graph whose {self.kind}s have {there or 'none'}",
                    f"name those to use in {self.kind}_columns",
                )
            cells = [[row.get(name) for name in self.names] for row in rows]
        else:
            self._check_width(len(rows[0]))
            cells = [list(row) for row in rows]
        return np.array([[self._cell(cell, i) for i, cell in enumerate(row)] for row in cells], dtype=np.float64)

    def _cell(self, cell: Any, column: int) -> float:
        if cell is None or (isinstance(cell, str) and cell.strip().lower() in MISSING):
            return math.nan
        if column < len(self.lookup) and self.lookup[column]:
            return float(self.lookup[column].get(str(cell).strip(), math.nan))
        try:
            return float(cell)
        except (TypeError, ValueError, OverflowError) as error:
            name = self.names[column] if self.names else f"column {column}"
            do = f"list the names of its values in {self.kind}_categorical" if column < len(self.sizes) else "repair it"
            raise DataError(f"a number as {name} of a {self.kind}", f"{cell!r:.40}", do) from error

    def _codes(self, column: Float64[np.ndarray, " N"], index: int) -> Int64[np.ndarray, " N"]:
        size = self.sizes[index]
        missing = np.isnan(column)
        fits = missing | ((column >= 0) & (column < size) & (column == np.floor(column)))
        if not fits.all():
            raise DataError(
                f"a category of a {self.kind}, 0 to {size - 1} (column {index})",
                f"{column[~fits][0]:g}",
                f"raise its size in {self.kind}_categorical; None is missing",
            )
        return np.where(missing, size, column).astype(np.int64) + self.offsets[index]

    def _measured(self, values: Float64[np.ndarray, "N k"]) -> Float64[np.ndarray, "N k"]:
        beyond = np.abs(values) > LARGEST
        if beyond.any():
            raise DataError(
                f"features of a {self.kind} up to {LARGEST:g}", f"{values[beyond][0]:g}", "repair it; NaN is missing"
            )
        return values
