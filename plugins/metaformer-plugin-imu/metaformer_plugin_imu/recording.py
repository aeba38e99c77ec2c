"""One recording as it is given: numbers, and when they were taken."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float64

from metaformer.errors import DataError
from metaformer.files.numbers import read_numbers
from metaformer.files.ts import read_ts

UNITS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
CELL = 64
"""Bytes that a number may take in a text file that is read whole."""


class Recording(NamedTuple):
    """Steps in rows."""

    values: Float64[np.ndarray, "L C"]
    """NaN where missing."""
    times: Float64[np.ndarray, " L"] | None
    """Seconds, in any order, NaN where unknown; None where steps are evenly spaced."""
    rate: float | None
    """Steps per second, where the recording says so itself."""


class Reader(NamedTuple):
    """How values become recordings."""

    channels: int
    longest: int
    """Rows; a recording with more is refused."""
    columns: tuple[str, ...]
    time_column: str
    time_unit: str

    def read(self, value: Any) -> Recording:
        """An array [length, channels], {values, rate | timestamps}, or a .csv, .tsv, .parquet, .npy or .ts file.
        Raises DataError."""
        if isinstance(value, Path):
            return self._file(value)
        times, rate = None, None
        if isinstance(value, Mapping):
            unknown = sorted(map(str, value.keys() - {"values", "rate", "timestamps"}))
            if "values" not in value or unknown or len(value) > 2:
                raise DataError(
                    "a recording {values, rate} or {values, timestamps}",
                    f"keys {', '.join(map(str, value)) or 'none'}",
                    "give the numbers, and their rate in Hz or their times in seconds",
                )
            times = None if value.get("timestamps") is None else _numbers(value["timestamps"])
            rate = None if value.get("rate") is None else _rate(value["rate"])
            value = value["values"]
        return self._checked(_numbers(value), times, rate, "")

    def _file(self, path: Path) -> Recording:
        suffix = path.suffix.lower()
        source = f" of {path}"
        if suffix == ".ts":
            return self._checked(_only_case(path, self.longest * self.channels * CELL), None, None, source)
        if self.columns and self.time_column:
            wanted: Sequence[str] = (self.time_column, *self.columns)
        elif self.time_column:
            raise DataError(
                f"times out of column {self.time_column!r}", "no `columns`", "name the channels' columns too"
            )
        else:
            wanted = self.columns
        if suffix == ".parquet":
            table = _read_parquet(path, wanted, self.longest)
        else:
            table = read_numbers(path, wanted, self.longest)
        if not self.time_column:
            return self._checked(table, None, None, source)
        return self._checked(table[:, 1:], table[:, 0] * UNITS[self.time_unit], None, source)

    def _checked(self, values: np.ndarray, times: np.ndarray | None, rate: float | None, source: str) -> Recording:
        if values.ndim == 1 and self.channels == 1:
            values = values[:, None]
        if values.ndim != 2 or values.shape[1] != self.channels:
            turned = values.ndim == 2 and values.shape[0] == self.channels
            raise DataError(
                f"a recording{source} of shape [length, {self.channels}]",
                f"shape {list(values.shape)}",
                "transpose it" if turned else "name its channels in `channels`",
            )
        if not 0 < len(values) <= self.longest:
            raise DataError(
                f"a recording{source} of 1 to {self.longest} samples",
                "none" if not len(values) else "more",
                "leave an empty one out (a missing stream); for longer ones raise max_samples",
            )
        if times is not None and (times.shape != (len(values),) or np.isinf(times).any()):
            raise DataError(
                f"a time for each of {len(values)} samples{source}",
                f"{list(times.shape)} times, some infinite" if np.isinf(times).any() else f"{list(times.shape)} times",
                "give seconds; NaN is unknown",
            )
        return Recording(values, times, rate)


def _numbers(value: Any) -> Float64[np.ndarray, ...]:
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().numpy()
    if not isinstance(value, (np.ndarray, list, tuple)) or (
        isinstance(value, np.ndarray) and value.dtype.kind not in "biufO"
    ):
        raise DataError(
            "a recording of numbers",
            f"{type(value).__name__}: {value!r:.80}",
            "give an array [length, channels], or a .csv, .tsv, .parquet, .npy or .ts file of one",
        )
    try:
        return np.array(value, dtype=np.float64)
    except (ValueError, TypeError, OverflowError) as error:
        raise DataError("a recording of numbers", f"{error}"[:200], "None and NaN are missing") from error


def _rate(value: Any) -> float:
    try:
        rate = float(value)
    except (TypeError, ValueError, OverflowError):
        rate = float("nan")
    if not 1e-6 < rate < 1e9:
        raise DataError("a rate in Hz", f"{value!r:.80}", "give samples per second")
    return rate


def _only_case(path: Path, most: int) -> Float64[np.ndarray, "L C"]:
    if path.is_file() and path.stat().st_size > most:
        raise DataError(f"a recording in {path}", f"{path.stat().st_size} bytes", "raise max_samples")
    found = read_ts(path).series
    if len(found) != 1:
        raise DataError(f"one recording in {path}", f"{len(found)}", "use a data set of .ts files for several")
    return found[0]


def _read_parquet(path: Path, columns: Sequence[str], longest: int) -> Float64[np.ndarray, "L C"]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise DataError(
            f"Parquet file {path}", "pyarrow is absent", "pip install 'metaformer-plugin-imu[parquet]'"
        ) from error
    try:
        with path.open("rb") as stream, pq.ParquetFile(stream) as file:
            names = list(columns) or file.schema_arrow.names
            absent = [name for name in names if name not in file.schema_arrow.names]
            if absent:
                raise ValueError(f"no column {', '.join(absent)}; there is: {', '.join(file.schema_arrow.names)}")
            if file.metadata.num_rows > longest:
                raise ValueError(f"{file.metadata.num_rows} rows, and {longest} are the most: raise max_samples")
            table = file.read(names)
            chosen = (table.column(name) for name in names)
            return np.stack([column.cast(pa.float64()).to_numpy(zero_copy_only=False) for column in chosen], axis=1)
    except (OSError, ValueError, TypeError, KeyError, pa.ArrowException) as error:
        raise DataError(f"a recording in {path}", f"{error}"[:200], "give a Parquet file of numbers") from error
