"""Dates and times as numbers: how long ago, and where in the year, the week and the day."""

from __future__ import annotations

import datetime
import math
from typing import Any

import numpy as np

from metaformer.errors import DataError

FEATURES = 7
"""Days since 1970, then sine and cosine of the place in the year, the week and the day."""
DAY = 86400.0


def date_features(cell: Any, column: str, missing: frozenset[str]) -> list[float]:
    """The `FEATURES` numbers of a cell, all NaN where it is missing.

    A cell is an ISO 8601 text (`2024-02-29`, `2024-02-29T12:30`, with or without offset), a date, a datetime or a
    numpy.datetime64. Times with an offset become UTC, others are taken as they are."""
    if isinstance(cell, np.datetime64):
        cell = None if np.isnat(cell) else cell.astype("datetime64[us]").item()
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return [math.nan] * FEATURES
    if isinstance(cell, str):
        if cell.strip().lower() in missing:
            return [math.nan] * FEATURES
        try:
            cell = datetime.datetime.fromisoformat(cell.strip())
        except ValueError:
            do = "write it as 2024-02-29 or 2024-02-29T12:30, or leave it empty"
            raise DataError(f"a date in column {column!r}", f"the text {cell!r:.80}", do) from None
    if isinstance(cell, datetime.datetime):
        when = cell.astimezone(datetime.UTC).replace(tzinfo=None) if cell.tzinfo is not None else cell
    elif isinstance(cell, datetime.date):
        when = datetime.datetime(cell.year, cell.month, cell.day)
    else:
        found = f"{type(cell).__name__}: {cell!r:.80}"
        raise DataError(f"a date in column {column!r}", found, "give an ISO 8601 text or a date")
    days = (when - datetime.datetime(1970, 1, 1)).total_seconds() / DAY
    start = datetime.datetime(when.year, 1, 1)
    length = 366 if when.year % 4 == 0 and (when.year % 100 or when.year % 400 == 0) else 365
    year = (when - start).total_seconds() / DAY / length
    day = days % 1
    week = (when.weekday() + day) / 7
    circles = [2 * math.pi * share for share in (year, week, day)]
    return [days, *(part(angle) for angle in circles for part in (math.sin, math.cos))]
