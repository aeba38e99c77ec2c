"""One recording → tensors: units, an even grid, gravity, augmentation, normalisation."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from jaxtyping import Float64

from metaformer.arrays.series import Normalize, statistics
from metaformer.base import Preprocess
from metaformer.errors import DataError
from metaformer.types import Raw
from metaformer_plugin_imu.motion import STANDARD_GRAVITY, on_grid, random_rotation, triads, without_gravity
from metaformer_plugin_imu.recording import Reader

LARGEST = 1e30
"""What lies beyond is damage or a code for "missing", and soon too large for float32."""


class Grid(NamedTuple):
    """How a recording gets an even grid of time."""

    rate: float | None
    """Hz; None leaves steps as they are."""
    input_rate: float | None
    """Of recordings that do not say."""
    max_gap: float
    """Seconds that are bridged."""
    gravity_window: float
    """Seconds; 0 leaves gravity in."""


class Augment(NamedTuple):
    """What happens in training only; 0 and None are off."""

    rotate: float
    jitter: float
    scale: float
    crop: float | None


class ImuPreprocess(Preprocess):
    """A recording (see `Reader.read`) → {values [L, C], observed: bool [L, C], mask: bool [L]}, NaN where missing.

    `instance` normalisation happens here, over the values that are there, and `dataset` in the tokenizer.
    """

    reads_files: ClassVar[bool] = True

    def __init__(
        self,
        channels: tuple[str, ...],
        max_length: int,
        reader: Reader,
        grid: Grid,
        augment: Augment,
        normalize: Normalize,
        truncate: bool,
        in_g: bool,
        in_degrees: bool,
    ) -> None:
        self.channels, self.max_length, self.reader = channels, max_length, reader
        self.grid, self.augment = grid, augment
        self.normalize, self.truncate = normalize, truncate
        self.unit = np.ones(len(channels))
        for index, name in enumerate(channels):
            if in_g and "acc" in name:
                self.unit[index] = STANDARD_GRAVITY
            if in_degrees and "gyr" in name:
                self.unit[index] = np.pi / 180
        self.accelerometer = [index for index, name in enumerate(channels) if "acc" in name]
        self.triads = triads(channels)
        # What the tokenizer will still subtract a mean from must not be rounded before.
        self.dtype = torch.float64 if normalize == "dataset" else torch.float32

    def __call__(self, value: Any, train: bool) -> Raw:
        series = self.read(value, train)
        observed = ~np.isnan(series)
        if self.normalize == "instance":
            mean, std = statistics(series, observed)
            series = (series - mean) / std
        return {
            "values": torch.from_numpy(series).to(self.dtype),
            "observed": torch.from_numpy(observed),
            "mask": torch.ones(len(series), dtype=torch.bool),
        }

    def read(self, value: Any, train: bool = False) -> Float64[np.ndarray, "L C"]:
        """m/s² and rad/s on the grid, NaN where missing, at most `max_length` steps. Raises DataError."""
        source = f" of {value}" if isinstance(value, Path) else ""
        found = self.reader.read(value)
        # A damaged file may hold NaNs that signal.
        with np.errstate(invalid="ignore"):
            values = found.values * self.unit
        beyond = np.abs(values) > LARGEST
        if beyond.any():
            raise DataError(
                f"a recording{source} of numbers up to {LARGEST:g}",
                f"{values[beyond][0]:g} at sample {int(beyond.any(axis=1).argmax())}",
                "repair it, or make it NaN, which means missing",
            )
        series, times, rate = values, found.times, found.rate or self.grid.input_rate
        if self.grid.rate is not None:
            if times is None:
                if rate is None:
                    raise DataError(
                        f"a recording{source} at {self.grid.rate:g} Hz",
                        "neither time stamps nor a rate",
                        "set input_rate, or give {values, rate}",
                    )
                times = np.arange(len(series)) / rate
            series = on_grid(series, times, self.grid.rate, self.grid.max_gap, self.reader.longest)
            rate = self.grid.rate
        elif times is not None:
            raise DataError(f"a recording{source} with time stamps", "no rate to bring it to", "set `rate`")
        if self.grid.gravity_window and self.accelerometer:
            window = max(1, round(self.grid.gravity_window * (rate or 1.0)))
            series[:, self.accelerometer] = without_gravity(series[:, self.accelerometer], window)
        series = self._cut(series, source, train)
        if train:
            series = self._augmented(series)
        if np.isnan(series).all():
            raise DataError(
                f"a recording{source} with values in it",
                f"{len(series)} steps, all missing",
                "leave the value out (a missing stream); gaps longer than max_gap are not bridged",
            )
        return series

    def _cut(self, series: Float64[np.ndarray, "L C"], source: str, train: bool) -> Float64[np.ndarray, "N C"]:
        if len(series) > self.max_length and not self.truncate:
            raise DataError(
                f"a recording{source} of at most {self.max_length} steps",
                f"{len(series)}",
                "raise max_length, or let too_long: truncate cut the end off",
            )
        length = min(len(series), self.max_length)
        if not train or self.augment.crop is None:
            return series[:length]
        length = max(1, round(length * np.random.uniform(self.augment.crop, 1.0)))
        start = np.random.randint(len(series) - length + 1)
        cut = series[start : start + length]
        # A window that happens to lie in a gap says nothing.
        return series[: self.max_length] if np.isnan(cut).all() else cut

    def _augmented(self, series: Float64[np.ndarray, "L C"]) -> Float64[np.ndarray, "L C"]:
        rotate, jitter, scale, _ = self.augment
        if rotate and self.triads:
            # The sensors of a unit turn together.
            turn, series = random_rotation(rotate), series.copy()
            for axes in self.triads:
                series[:, list(axes)] = series[:, list(axes)] @ turn.T
        if scale:
            series = series * np.random.uniform(1 - scale, 1 + scale)
        if jitter:
            _, std = statistics(series, ~np.isnan(series))
            series = series + np.random.normal(size=series.shape) * jitter * std
        return series

    def blank(self) -> Raw:
        return self._zeros(1)

    def example(self) -> Raw:
        return self._zeros(self.max_length)

    def _zeros(self, length: int) -> Raw:
        shape = (length, len(self.channels))
        return {
            "values": torch.zeros(shape, dtype=self.dtype),
            "observed": torch.ones(shape, dtype=torch.bool),
            "mask": torch.ones(length, dtype=torch.bool),
        }
