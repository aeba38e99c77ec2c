"""Tables of numbers: `.csv`, `.tsv` and `.npy`, rows are steps; nothing that a file says is run."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from metaformer.errors import DataError
from metaformer.files.array import map_npy

MISSING_TEXT = frozenset({"", "na", "n/a", "nan", "null", "none", "?"})
"""Cells that mean nothing is there, in lower case."""


def read_numbers(path: Path, columns: Sequence[str] = (), longest: int | None = None) -> np.ndarray:
    """[L] or [L, C] of float64, NaN where missing; at most `longest` + 1 rows (enough to tell that there are more).

    `columns`: names of a CSV file's columns to use, in order; none means all."""
    suffix = path.suffix.lower()
    if suffix == ".npy":
        table = map_npy(path)
        return np.array(table[: _end(longest)] if table.ndim else table, dtype=np.float64)
    if suffix not in (".csv", ".tsv"):
        raise DataError(f"numbers in {path}", f"suffix {suffix!r}", "give a .csv, .tsv or .npy file")
    try:
        return _read_csv(path, columns, longest, "," if suffix == ".csv" else "\t")
    # All of these come out of the csv module for damaged files.
    except (OSError, ValueError, ArithmeticError, csv.Error) as error:
        raise DataError(f"numbers in {path}", str(error)[:200], "give a readable file") from error


def _end(longest: int | None) -> int | None:
    return None if longest is None else longest + 1


def _read_csv(path: Path, columns: Sequence[str], longest: int | None, delimiter: str) -> Float64[np.ndarray, "L C"]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = (row for row in csv.reader(file, delimiter=delimiter) if row)
        first = next(rows, None)
        if first is None:
            raise ValueError("an empty file")
        header = None if all(_is_number(cell) for cell in first) else [cell.strip() for cell in first]
        use = _columns(header, columns, len(first))
        table: list[list[float]] = [] if header else [[_number(first[i]) for i in use]]
        for row in rows:
            if len(row) != len(first):
                raise ValueError(f"row {len(table) + 1} has {len(row)} cells, the first line {len(first)}")
            table.append([_number(row[i]) for i in use])
            if longest is not None and len(table) > longest:
                break
    return np.array(table, dtype=np.float64).reshape(len(table), len(use))


def _columns(header: list[str] | None, columns: Sequence[str], width: int) -> list[int]:
    if not columns:
        return list(range(width))
    absent = [column for column in columns if column not in (header or [])]
    if absent:
        there = ", ".join(header) if header else "no header line"
        raise ValueError(f"no column {', '.join(absent)}; there is: {there}")
    return [(header or []).index(column) for column in columns]


def _is_number(cell: str) -> bool:
    try:
        _number(cell)
    except ValueError:
        return False
    return True


def _number(cell: str) -> float:
    return float("nan") if cell.strip().lower() in MISSING_TEXT else float(cell)
