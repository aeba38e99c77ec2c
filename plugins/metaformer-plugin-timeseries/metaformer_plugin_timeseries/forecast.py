"""Forecasting: windows of one long table of steps, what comes after each is the target.

Source: windows, splits and scaling of Informer's benchmark (arXiv 2012.07436), which later papers keep; its
time features.
"""

from __future__ import annotations

import csv
import datetime
import hashlib
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from jaxtyping import Float64
from pydantic import Field

from metaformer.base import Dataset
from metaformer.errors import DataError
from metaformer.files.numbers import MISSING_TEXT
from metaformer.types import Sample
from metaformer_plugin_timeseries.datasets import aeon_folder

Count = Annotated[int, Field(gt=0)]
Split = Literal["train", "valid", "test"]
CALENDAR = 4
"""Time features of a step: hour of the day, day of the week, of the month, of the year, each from -0.5 to 0.5."""
MAX_CELLS = 2**27
ETT = {"hourly": (8640, 2880, 2880), "quarterly": (34560, 11520, 11520)}
"""Twelve, four and four months of 30 days: the published split of ETTh and ETTm."""


class Windows(Dataset):
    """{`stream`: float64 [length, C (+ 4)], `target`: [horizon * C], step by step}, NaN where missing.

    Every window of the split whose targets lie in it; inputs of the first ones reach back into the split before, as
    published, targets never do. Columns are brought to mean 0 and deviation 1 of the training part (`standardize`)."""

    def __init__(
        self,
        table: Float64[np.ndarray, "L C"],
        calendar: Float64[np.ndarray, "L 4"] | None,
        parts: tuple[int, int, int],
        split: Split,
        length: int,
        horizon: int,
        step: int,
        standardize: bool,
        stream: str,
        target: str,
    ) -> None:
        if standardize:
            known = table[: parts[0]]
            std = np.nanstd(known, axis=0)
            table = (table - np.nanmean(known, axis=0)) / np.where(std > 0, std, 1.0)
        self.table, self.calendar = table, calendar
        index = ("train", "valid", "test").index(split)
        end = sum(parts[: index + 1])
        first = max(sum(parts[:index]), length)
        self.starts = range(first - length, end - length - horizon + 1, step)
        self.length, self.horizon, self.split, self.stream, self.target = length, horizon, split, stream, target
        if not len(self.starts):
            found = f"{end - first} steps in the {split} part"
            raise DataError(f"windows of {length} and {horizon} steps", found, "lower `length` or `horizon`")

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: int) -> Sample:
        start = self.starts[index]
        middle = start + self.length
        inputs = self.table[start:middle]
        if self.calendar is not None:
            inputs = np.concatenate([inputs, self.calendar[start:middle]], axis=1)
        return {self.stream: inputs, self.target: self.table[middle : middle + self.horizon].ravel()}

    def sample_id(self, index: int) -> str:
        return f"{self.split}-{self.starts[index]}"

    def fingerprint(self) -> str:
        told = f"{self.split} {self.starts} {self.length} {self.horizon}".encode()
        return hashlib.sha256(told + self.table.tobytes()).hexdigest()


class ForecastDataset(Windows):
    """A CSV file with one row per step: a first column of dates, then numbers, as ETT, Weather, Exchange, Traffic.

    `parts`: steps for training, validation and test; default 70, 10 and 20 percent. `hourly` and `quarterly` are the
    published splits of ETTh1/2 and ETTm1/2. `calendar` adds four time features to the inputs (as the tokenizer's
    `calendar` says)."""

    def __init__(
        self,
        *,
        path: Path,
        split: Split,
        length: Count = 96,
        horizon: Count = 96,
        columns: tuple[str, ...] = (),
        parts: Literal["hourly", "quarterly"] | tuple[Count, Count, Count] | None = None,
        step: Count = 1,
        calendar: bool = False,
        standardize: bool = True,
        stream: str = "series",
        target: str = "future",
    ) -> None:
        dates, table = read_steps(path, columns)
        rows = len(table)
        cut = ETT[parts] if isinstance(parts, str) else parts
        if cut is None:
            cut = (int(rows * 0.7), rows - int(rows * 0.7) - int(rows * 0.2), int(rows * 0.2))
        if sum(cut) > rows:
            raise DataError(f"{path}: parts of {cut} steps", f"{rows} steps", "lower `parts`")
        features = np.array([time_features(date, path) for date in dates]) if calendar else None
        super().__init__(table, features, cut, split, length, horizon, step, standardize, stream, target)


class PressureDataset(Windows):
    """A pig's arterial blood pressure, 7501 steps of one channel: {`series`: [length, 1], `future`: [horizon]}.

    Data: KDD-TSAD 135, "InternalBleeding16" of the UCR anomaly archive (Wu and Keogh 2021, arXiv 2009.13807), out of
    the aeon package (BSD-3-Clause; the set itself was published for research, cite it).
    Split: the first 60 percent train, the next 20 are valid, the rest test; targets of one part are never inputs of
    another but for the `length` steps before it.
    What it is not: a benchmark of forecasting. One animal; an anomaly was put into the last part by its makers."""

    def __init__(
        self,
        *,
        split: Split,
        length: Count = 96,
        horizon: Count = 24,
        step: Count = 1,
        stream: str = "series",
        target: str = "future",
    ) -> None:
        path = aeon_folder() / "KDD-TSAD_135" / "135_UCR_Anomaly_InternalBleeding16_TEST.csv"
        _, table = read_steps(path, ("value",))
        rows = len(table)
        parts = (rows * 6 // 10, rows * 2 // 10, rows - rows * 6 // 10 - rows * 2 // 10)
        super().__init__(table, None, parts, split, length, horizon, step, True, stream, target)


def read_steps(path: Path, columns: tuple[str, ...] = ()) -> tuple[list[str], Float64[np.ndarray, "L C"]]:
    """The first column as texts, the others (or those named) as numbers, NaN where missing. Raises DataError."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.reader(file)
            header = next(rows, [])
            use = [header.index(column) for column in columns] if columns else list(range(1, len(header)))
            dates: list[str] = []
            cells: list[list[float]] = []
            for row in rows:
                if len(row) != len(header):
                    raise ValueError(f"line {rows.line_num} has {len(row)} cells, the header {len(header)}")
                if len(cells) * len(use) > MAX_CELLS:
                    raise ValueError(f"more than {MAX_CELLS} cells")
                dates.append(row[0])
                cells.append([_number(row[i]) for i in use])
    except (OSError, ValueError, csv.Error) as error:
        do = "give a CSV file with a header, dates in the first column and numbers in the others"
        raise DataError(f"steps in {path}", str(error)[:200], do) from error
    if not cells or not use:
        raise DataError(f"steps in {path}", "no rows of numbers", "give a whole file")
    table = np.array(cells, dtype=np.float64)
    if np.isinf(table).any():
        raise DataError(f"steps in {path}", "an infinite number", "repair it, or leave the cell empty")
    return dates, table


def time_features(text: str, path: Path) -> list[float]:
    """Informer's: hour of the day, day of the week, of the month and of the year, each from -0.5 to 0.5."""
    try:
        when = datetime.datetime.fromisoformat(text.strip())
    except ValueError as error:
        raise DataError(
            f"dates in the first column of {path}", str(error), "write them as 2016-07-01 00:00:00"
        ) from error
    year = when.timetuple().tm_yday - 1
    return [when.hour / 23 - 0.5, when.weekday() / 6 - 0.5, (when.day - 1) / 30 - 0.5, year / 365 - 0.5]


def _number(cell: str) -> float:
    return float("nan") if cell.strip().lower() in MISSING_TEXT else float(cell)
