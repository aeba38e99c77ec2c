"""One series → tensors: checking, normalising, filling gaps; of time, of wavelengths, of anything in order."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float64

from metaformer.base import Preprocess
from metaformer.errors import DataError
from metaformer.files.numbers import read_numbers
from metaformer.types import Raw

Normalize = Literal["instance", "dataset", "none"]
LARGEST = 1e30
"""What lies beyond is damage or a code for "missing", and soon too large for float32."""

EPSILON = 1e-5
"""Added to an instance's variance, as in RevIN and PatchTST: a constant channel becomes 0."""


class SeriesPreprocess(Preprocess):
    """Array [length, channels] ([length] for one channel), or a `.csv`, `.tsv` or `.npy` file of one →
    {values [L, C], observed: bool [L, C], mask: bool [L], mean, std [C]}; what is missing and not filled is NaN.

    `instance` normalisation happens here, over the values that are there, and `dataset` in the tokenizer.
    """

    reads_files: ClassVar[bool] = True

    def __init__(
        self,
        channels: int,
        max_length: int,
        normalize: Normalize = "instance",
        fill: Literal["interpolate", "zero"] = "interpolate",
        truncate: bool = True,
        columns: Sequence[str] = (),
    ) -> None:
        self.channels, self.max_length, self.normalize = channels, max_length, normalize
        self.fill, self.truncate, self.columns = fill, truncate, tuple(columns)
        # What the tokenizer will still subtract a mean from must not be rounded before.
        self.dtype = torch.float64 if normalize == "dataset" else torch.float32

    def __call__(self, value: Any, train: bool) -> Raw:
        series, observed = self.read(value)
        mean, std = np.zeros(self.channels), np.ones(self.channels)
        if self.normalize == "instance":
            mean, std = statistics(series, observed)
            series = np.where(observed, (series - mean) / std, np.nan)
        if self.fill == "interpolate":
            series = interpolate(series, observed)
        return {
            "values": torch.from_numpy(series).to(self.dtype),
            "observed": torch.from_numpy(observed),
            "mask": torch.ones(len(series), dtype=torch.bool),
            "mean": torch.from_numpy(mean).float(),
            "std": torch.from_numpy(std).float(),
        }

    def read(self, value: Any) -> tuple[Float64[np.ndarray, "L C"], Bool[np.ndarray, "L C"]]:
        """The series as it is, NaN where missing, and where it is not; at most `max_length` steps."""
        source = f" of {value}" if isinstance(value, Path) else ""
        series = as_array(value, self.columns, self.max_length)
        series = self._shaped(series, source)
        if len(series) > self.max_length and not self.truncate:
            raise DataError(
                f"a time series{source} of at most {self.max_length} steps",
                "more than that",
                "raise max_length, or let too_long: truncate cut the end off",
            )
        series = series[: self.max_length]
        beyond = np.abs(series) > LARGEST
        if beyond.any():
            raise DataError(
                f"a time series{source} of numbers up to {LARGEST:g}",
                f"{series[beyond][0]:g} at step {int(beyond.any(axis=1).argmax())}",
                "repair it, or make it NaN, which means missing",
            )
        observed = ~np.isnan(series)
        if not observed.any():
            raise DataError(
                f"a time series{source} with values in it",
                f"{len(series)} steps, all missing",
                "leave the value out (a missing stream)",
            )
        return series, observed

    def _shaped(self, series: np.ndarray, source: str) -> Float64[np.ndarray, "L C"]:
        if series.ndim == 1 and self.channels == 1:
            series = series[:, None]
        if series.ndim != 2 or series.shape[1] != self.channels:
            turned = series.ndim == 2 and series.shape[0] == self.channels
            raise DataError(
                f"a time series{source} of shape [length, {self.channels}]",
                f"shape {list(series.shape)}",
                "transpose it" if turned else "set `channels` to the number of columns",
            )
        return series

    def blank(self) -> Raw:
        return self._zeros(1)

    def example(self) -> Raw:
        return self._zeros(self.max_length)

    def _zeros(self, length: int) -> Raw:
        shape = (length, self.channels)
        return {
            "values": torch.zeros(shape, dtype=self.dtype),
            "observed": torch.ones(shape, dtype=torch.bool),
            "mask": torch.ones(length, dtype=torch.bool),
            "mean": torch.zeros(self.channels),
            "std": torch.ones(self.channels),
        }


def as_array(value: Any, columns: Sequence[str], longest: int) -> np.ndarray:
    if isinstance(value, Path):
        return read_numbers(value, columns, longest)
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().numpy()
    if isinstance(value, np.ndarray) and value.dtype.kind not in "biufO":
        raise DataError("a time series of numbers", f"an array of {value.dtype}", "convert it to numbers")
    if not isinstance(value, (np.ndarray, list, tuple)):
        raise DataError(
            "a time series",
            f"{type(value).__name__}: {value!r:.80}",
            "give an array or nested lists [length, channels], or a .csv, .tsv or .npy file",
        )
    try:
        return np.array(value, dtype=np.float64)
    except (ValueError, TypeError, OverflowError) as error:
        raise DataError(
            "a time series of numbers",
            str(error),
            "give every step the same number of numbers; None is missing",
        ) from error


def statistics(
    series: Float64[np.ndarray, "L C"], observed: Bool[np.ndarray, "L C"]
) -> tuple[Float64[np.ndarray, " C"], Float64[np.ndarray, " C"]]:
    """Mean and deviation of every channel over its observed steps; a deviation is never 0."""
    count = observed.sum(axis=0).clip(min=1)
    mean = np.where(observed, series, 0).sum(axis=0) / count
    variance = (np.where(observed, series - mean, 0) ** 2).sum(axis=0) / count
    return mean, np.sqrt(variance + EPSILON)


def interpolate(series: Float64[np.ndarray, "L C"], observed: Bool[np.ndarray, "L C"]) -> Float64[np.ndarray, "L C"]:
    """Gaps bridged linearly; ends carry the nearest value; a channel without any stays NaN."""
    if observed.all():
        return series
    filled = series.copy()
    steps = np.arange(len(series))
    for channel, there in enumerate(observed.T):
        if there.any() and not there.all():
            filled[:, channel] = np.interp(steps, steps[there], series[there, channel])
    return filled


def moments(
    series: Iterable[Float64[np.ndarray, "L C"]], channels: int
) -> tuple[Float64[np.ndarray, " C"], Float64[np.ndarray, " C"]]:
    """Mean and deviation per channel over all observed steps; raises DataError where there are none.

    Chan's pairwise update: one pass, and exact where the mean is far from zero."""
    count, mean, square = np.zeros((3, channels))
    for one in series:
        there = ~np.isnan(one)
        new = there.sum(axis=0)
        own = np.where(there, one, 0).sum(axis=0) / new.clip(min=1)
        spread = (np.where(there, one - own, 0) ** 2).sum(axis=0)
        total = (count + new).clip(min=1)
        square += spread + (own - mean) ** 2 * count * new / total
        mean += (own - mean) * new / total
        count += new
    if not count.any():
        raise DataError("series to fit the normalisation on", "none that can be used")
    std = np.sqrt(square / count.clip(min=1))
    # A constant channel's deviation is rounding noise, which must not be divided by.
    return mean, np.where(std <= 1e-12 * np.abs(mean), 1.0, std)
