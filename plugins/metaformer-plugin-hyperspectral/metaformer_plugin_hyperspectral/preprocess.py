"""One pixel with its neighbourhood → tensors: reading, checking, augmentation."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float64

from metaformer.base import Preprocess
from metaformer.errors import DataError
from metaformer.types import Raw
from metaformer_plugin_hyperspectral.cube import read_cube

LARGEST = 1e30
"""What lies beyond is damage or a code for "missing", and soon too large for float32."""


class SpectrumPreprocess(Preprocess):
    """Array [patch_size, patch_size, bands] ([bands] for one pixel), or a file of one → {values: float32, observed:
    bool, both [bands, patch_size²]}. NaN is missing, and 0 in `values`."""

    reads_files: ClassVar[bool] = True

    def __init__(
        self,
        num_bands: int,
        patch_size: int,
        variable: str = "",
        flips: bool = False,
        band_dropout: float = 0.0,
        illumination: float = 0.0,
    ) -> None:
        self.num_bands, self.patch_size, self.variable = num_bands, patch_size, variable
        self.flips, self.band_dropout, self.illumination = flips, band_dropout, illumination

    def __call__(self, value: Any, train: bool) -> Raw:
        values = self.read(value)
        if train:
            values = self._augment(values)
        observed = ~np.isnan(values)
        tensor = torch.from_numpy(np.where(observed, values, 0).reshape(self.num_bands, -1).astype(np.float32))
        return {"values": tensor, "observed": torch.from_numpy(observed.reshape(self.num_bands, -1))}

    def read(self, value: Any) -> Float64[np.ndarray, "bands P P"]:
        """The numbers as they are, NaN where missing. Raises DataError."""
        source = f" of {value}" if isinstance(value, Path) else ""
        # A damaged file may hold NaNs that signal.
        with np.errstate(invalid="ignore"):
            patch = self._shaped(self._as_array(value), source)
            beyond = np.abs(patch) > LARGEST
        if beyond.any():
            raise DataError(
                f"a spectrum{source} of numbers up to {LARGEST:g}",
                f"{patch[beyond][0]:g} in band {int(np.argwhere(beyond)[0][0])}",
                "repair it, or make it NaN, which means missing",
            )
        if np.isnan(patch).all():
            raise DataError(
                f"a spectrum{source} with values in it",
                f"{self.num_bands} bands, all missing",
                "leave the value out (a missing stream)",
            )
        return patch

    def _as_array(self, value: Any) -> np.ndarray:
        if isinstance(value, Path):
            most = self.num_bands * self.patch_size**2
            array = np.asarray(read_cube(value, self.variable, most, axes=(1, 2, 3)))
            # MATLAB has no lists, only matrices of one row or column.
            return array.ravel() if array.ndim == 2 and 1 in array.shape else array
        if isinstance(value, torch.Tensor):
            value = value.detach().cpu().numpy()
        if not isinstance(value, (np.ndarray, list, tuple)):
            raise DataError(
                "a spectrum",
                f"{type(value).__name__}: {value!r:.80}",
                "give an array [rows, columns, bands] or [bands], or a .mat, .hdr, .tif or .npy file of one",
            )
        try:
            array = np.asarray(value)
            if array.dtype.kind not in "biufO":
                raise ValueError(f"an array of {array.dtype}")
            return array.astype(np.float64)
        except (ValueError, TypeError, OverflowError) as error:
            raise DataError("a spectrum of numbers", f"{error}"[:200], "None and NaN are missing") from error

    def _shaped(self, array: np.ndarray, source: str) -> Float64[np.ndarray, "bands P P"]:
        side = self.patch_size
        if array.ndim == 1 and side == 1:
            array = array[None, None, :]
        if array.shape != (side, side, self.num_bands):
            turned = array.shape == (self.num_bands, side, side)
            raise DataError(
                f"a spectrum{source} of shape [{side}, {side}, {self.num_bands}]",
                f"shape {list(array.shape)}",
                "move the bands to the last axis" if turned else "set num_bands and patch_size to what the data have",
            )
        return np.moveaxis(array, 2, 0).astype(np.float64)

    def _augment(self, values: Float64[np.ndarray, "bands P P"]) -> Float64[np.ndarray, "bands P P"]:
        if self.illumination:
            values = values * np.random.uniform(1 - self.illumination, 1 + self.illumination)
        if self.flips:
            values = np.rot90(values, np.random.randint(4), axes=(1, 2))
            values = values[:, :, ::-1] if np.random.randint(2) else values
        if self.band_dropout:
            kept = np.random.rand(self.num_bands) >= self.band_dropout
            left = np.where(kept[:, None, None], values, np.nan)
            # At least one number stays.
            values = values if np.isnan(left).all() else left
        return values

    def blank(self) -> Raw:
        raw = self.example()
        raw["observed"][1:] = False
        return raw

    def example(self) -> Raw:
        shape = (self.num_bands, self.patch_size**2)
        return {"values": torch.zeros(shape), "observed": torch.ones(shape, dtype=torch.bool)}
