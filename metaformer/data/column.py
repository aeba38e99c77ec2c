"""Columns of a table as streams and targets: which column a name means, and what a cell becomes in a sample.

Shared by the manifest and the Hugging Face reader, so that both give the same sample for the same table.
"""

from __future__ import annotations

import datetime
import decimal
import difflib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from metaformer.errors import DataError
from metaformer.types import Sample

ROW = "*"
"""As a column: all the columns that nothing else uses, as one mapping."""

MAX_CLASSES = 10_000
"""A column with more distinct texts is not offered as class names; a recipe may still list them."""


def suggestion(name: str, names: Iterable[str]) -> str:
    """`did you mean 'x'?`, or nothing."""
    close = difflib.get_close_matches(name, list(names), n=1)
    return f"did you mean {close[0]!r}? " if close else ""


def listing(names: Iterable[str], limit: int = 20) -> str:
    """The names, quoted, cut after `limit` with a count of the rest."""
    names = list(names)
    shown = ", ".join(repr(name) for name in names[:limit])
    return shown + (f" and {len(names) - limit} more" if len(names) > limit else "")


class Columns:
    """Names of a sample → columns of a table, checked against the columns there are.

    Without `asked`, every column goes under its own name. Columns in `aside` (an id, a split) are left out of
    a row stream.
    """

    def __init__(
        self, asked: Mapping[str, str], available: Sequence[str], source: str, aside: Iterable[str] = ()
    ) -> None:
        for name, column in asked.items():
            if column != ROW or ROW in available:
                check_column(column, available, source, f"column {column!r} for {name!r}")
        self._single = {name: column for name, column in asked.items() if column != ROW or ROW in available}
        if not asked:
            self._single = {column: column for column in available}
        used = {*self._single.values(), *aside}
        rest = tuple(column for column in available if column not in used)
        self._rows = {name: rest for name in asked if name not in self._single}
        if self._rows and not rest:
            raise DataError(
                f"{source}: {next(iter(self._rows))!r} asks for all columns not otherwise used ('*')",
                f"nothing is left: every one of {listing(available)} is used",
                "take a column out of the other entries of `columns`",
            )

    @property
    def single(self) -> Mapping[str, str]:
        """Names that are one column each, and that column."""
        return self._single

    def read(self) -> list[str]:
        """The columns that samples need, each once."""
        rest = (column for columns in self._rows.values() for column in columns)
        return list(dict.fromkeys([*self._single.values(), *rest]))

    def sample(self, cell: Callable[[str], Any]) -> Sample:
        """The sample of one row, whose cells `cell` returns by column."""
        sample: Sample = {name: as_value(cell(column)) for name, column in self._single.items()}
        for name, columns in self._rows.items():
            sample[name] = {column: as_value(cell(column)) for column in columns}
        return sample


def check_column(column: str, available: Sequence[str], source: str, asked: str, knob: str = "columns") -> None:
    """DataError naming the columns there are, unless `column` is one of them."""
    if column in available:
        return
    only = available[0] if len(available) == 1 else ""
    separator = next((mark for mark in (";", "\t", "|") if mark in only), None)
    do = f"{suggestion(column, available)}correct `{knob}`"
    if separator:
        do = f"the columns look separated by {separator!r}: set `delimiter: {separator!r}`"
    raise DataError(f"{source}: {asked}", f"no such column; there are {listing(available)}", do)


def as_value(cell: Any) -> Any:
    """A cell as a sample holds it: NaN is missing, nested lists of numbers are arrays, dates are ISO text."""
    if isinstance(cell, float):
        return None if math.isnan(cell) else cell
    if isinstance(cell, list):
        return as_array(cell)
    if isinstance(cell, decimal.Decimal):
        return float(cell)
    if isinstance(cell, (datetime.date, datetime.time)):
        return cell.isoformat()
    return cell


def as_array(cells: list[Any]) -> Any:
    """Nested lists of numbers of one length per axis as an array (a null is NaN); other lists unchanged."""
    shape, level = [], cells
    while level and isinstance(level[0], list):
        shape.append(len(level))
        if any(not isinstance(row, list) or len(row) != len(level[0]) for row in level):
            return cells
        level = [item for row in level for item in row]
    if not all(item is None or isinstance(item, (int, float)) for item in level):
        return cells
    try:
        flat = np.array([math.nan if item is None else item for item in level])
    except OverflowError:
        return cells
    if flat.dtype == object:  # an integer beyond 64 bits
        return cells
    return flat.reshape(*shape, -1) if level else flat.reshape(*shape, 0)


class Classes(Mapping[str, Sequence[str]]):
    """Name → class names: what the recipe lists, else the sorted texts of the column, found when first asked.

    `texts` returns the distinct texts of a column, or None where it holds other things or too many.
    """

    def __init__(
        self,
        listed: Mapping[str, Sequence[str]],
        columns: Mapping[str, str],
        texts: Callable[[str], Iterable[str] | None],
    ) -> None:
        self._found: dict[str, tuple[str, ...] | None] = {key: tuple(names) for key, names in listed.items()}
        self._columns, self._texts = dict(columns), texts

    def __getitem__(self, name: str) -> tuple[str, ...]:
        if name not in self._found:
            texts = self._texts(self._columns[name])
            self._found[name] = None if texts is None else tuple(sorted(texts))
        names = self._found[name]
        if names is None:
            raise KeyError(name)
        return names

    def __iter__(self) -> Iterator[str]:
        for name in dict.fromkeys([*self._found, *self._columns]):
            if self.get(name) is not None:
                yield name

    def __len__(self) -> int:
        return sum(1 for _ in self)
