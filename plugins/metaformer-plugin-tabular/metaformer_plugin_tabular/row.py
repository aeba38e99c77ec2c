"""One row of a table → tensors, cell by cell."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from metaformer.base import Preprocess
from metaformer.errors import DataError
from metaformer.types import Raw
from metaformer_plugin_tabular.date import FEATURES, date_features

MISSING, UNKNOWN = 0, 1
"""Category indices before the known ones."""

LARGEST = 1e30
"""What lies beyond is damage or a code for "missing", and soon too large for float32."""

MISSING_TEXT = frozenset({"", "na", "n/a", "nan", "null", "none", "?"})
"""Cells of text files that mean that nothing is there, in lower case. One that is listed among a column's
categories is that category."""


class RowPreprocess(Preprocess):
    """Mapping column → cell, or sequence of cells in column order (numeric, categorical, dates)
    → {numeric: float64 [N], NaN where missing; categories: int64 [K], 0 where missing, 1 where unknown;
    dates: float64 [M 7], NaN where missing}.

    float64, because standardising must come before rounding: a timestamp loses its digits in float32.
    """

    def __init__(
        self,
        numeric: Sequence[str],
        categorical: Mapping[str, Sequence[str]],
        dates: Sequence[str] = (),
        cell_dropout: float = 0.0,
    ) -> None:
        self.numeric, self.dates = tuple(numeric), tuple(dates)
        self.columns = (*numeric, *categorical, *dates)
        self.categories = {
            column: {name: i for i, name in enumerate(names, start=UNKNOWN + 1)}
            for column, names in categorical.items()
        }
        self.cell_dropout = cell_dropout

    def __call__(self, value: Any, train: bool) -> Raw:
        row = self._row(value)
        numeric = np.array([_number(row.get(column), column) for column in self.numeric], dtype=np.float64)
        categories = np.array(
            [_category(row.get(column), column, known) for column, known in self.categories.items()],
            dtype=np.int64,
        )
        dates = np.array(
            [date_features(row.get(column), column, MISSING_TEXT) for column in self.dates], dtype=np.float64
        ).reshape(len(self.dates), FEATURES)
        if train and self.cell_dropout:
            dates[np.random.random(len(dates)) < self.cell_dropout] = np.nan
            numeric[np.random.random(len(numeric)) < self.cell_dropout] = np.nan
            hidden = np.random.random(len(categories)) < self.cell_dropout
            # Both tokens must be learned: half of the hidden categories are missing, half unknown.
            categories[hidden] = np.random.choice([MISSING, UNKNOWN], size=int(hidden.sum()))
        return {
            "numeric": torch.from_numpy(numeric),
            "categories": torch.from_numpy(categories),
            "dates": torch.from_numpy(dates),
        }

    def _row(self, value: Any) -> Mapping[str, Any]:
        if isinstance(value, Mapping):
            if not any(column in value for column in self.columns):
                raise DataError(
                    f"a row with columns {_some(self.columns)}",
                    f"none of them, but {_some([str(key) for key in value])}",
                    "name the table's own columns in `numeric`, `categorical` and `dates`",
                )
            return value
        if isinstance(value, (Sequence, np.ndarray, torch.Tensor)) and not isinstance(value, (str, bytes)):
            cells = list(value)
            if len(cells) != len(self.columns):
                raise DataError(
                    f"a row of {len(self.columns)} cells: {_some(self.columns)}",
                    f"{len(cells)} cells",
                    "give every column in this order, or a mapping from column to cell",
                )
            return dict(zip(self.columns, cells, strict=True))
        raise DataError(
            "a row of a table", f"{type(value).__name__}: {value!r:.80}", "give a mapping from column to cell"
        )

    def blank(self) -> Raw:
        return {
            "numeric": torch.full((len(self.numeric),), torch.nan, dtype=torch.float64),
            "categories": torch.full((len(self.categories),), MISSING, dtype=torch.int64),
            "dates": torch.full((len(self.dates), FEATURES), torch.nan, dtype=torch.float64),
        }


def _number(cell: Any, column: str) -> float:
    """The cell's number, NaN where it is missing."""
    if isinstance(cell, (np.generic, np.ndarray, torch.Tensor)) and _scalar(cell):
        cell = cell.item()
    if cell is None:
        return math.nan
    if isinstance(cell, str):
        if cell.strip().lower() in MISSING_TEXT:
            return math.nan
        try:
            number = float(cell)
        except ValueError:
            raise DataError(
                f"a number in column {column!r}",
                f"the text {cell!r:.80}",
                "make it a number or leave it empty",
            ) from None
    elif isinstance(cell, numbers.Real):
        try:
            number = float(cell)
        except OverflowError:
            number = math.inf
    else:
        raise DataError(
            f"a number in column {column!r}", f"{type(cell).__name__}: {cell!r:.80}", "give a number or None"
        )
    if abs(number) > LARGEST:
        raise DataError(
            f"a number up to {LARGEST:g} in column {column!r}",
            f"{cell!r:.80}",
            "repair the cell or leave it empty",
        )
    return number


def _category(cell: Any, column: str, known: Mapping[str, int]) -> int:
    if isinstance(cell, (np.generic, np.ndarray, torch.Tensor)) and _scalar(cell):
        cell = cell.item()
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return MISSING
    if isinstance(cell, bool):
        spellings: tuple[str, ...] = (str(cell), str(cell).lower(), str(int(cell)))
    elif isinstance(cell, float) and cell.is_integer():
        spellings = (str(cell), str(int(cell)))  # whole numbers arrive as floats where some are missing
    elif isinstance(cell, (str, int, float)):
        spellings = (str(cell), str(cell).strip())
    else:
        raise DataError(
            f"a category in column {column!r}", f"{type(cell).__name__}: {cell!r:.80}", "give a text or None"
        )
    index = next((known[spelling] for spelling in spellings if spelling in known), None)
    if index is not None:
        return index
    return MISSING if spellings[-1].lower() in MISSING_TEXT else UNKNOWN


def _scalar(cell: np.generic | np.ndarray | torch.Tensor) -> bool:
    return math.prod(cell.shape) == 1


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
