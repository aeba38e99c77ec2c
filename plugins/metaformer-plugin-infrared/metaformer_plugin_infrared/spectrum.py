"""Infrared spectra → tokens: a common axis, preprocessing of chemometrics, patches of neighbouring wavelengths.

Source: patches of a series as in PatchTST (arXiv 2211.14730); autoscaling as is usual in multivariate calibration.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64
from pydantic import Field
from torch import Tensor

from metaformer.base import Preprocess, Tokenizer
from metaformer.errors import DataError, MetaformerError
from metaformer.files.numbers import read_numbers
from metaformer.layers.series import SeriesEmbedding
from metaformer.types import Raw, TokenBatch
from metaformer_plugin_infrared.curve import Curve, Unit
from metaformer_plugin_infrared.jcamp import read_jcamp
from metaformer_plugin_infrared.smooth import derivative, normal_variate

LARGEST = 1e30
"""What lies beyond is damage or a code for "missing", and soon too large for float32."""
MAX_POINTS = 2**20


@dataclass(frozen=True)
class SpectrumPreprocess(Preprocess):
    """A spectrum → {values float64 [P 1], observed bool [P 1], mask bool [P]}; what is missing is NaN.

    It is a .jdx, .dx, .csv, .tsv or .npy file, a mapping {axis, values}, an array [L 2] of both as columns, or values
    [P] that are on the common axis already. Files of numbers have two columns, or one row or column of values."""

    reads_files: ClassVar[bool] = True

    points: int
    axis: tuple[float, float] | None = None
    axis_unit: Unit = "as_is"
    absorbance: bool = False
    derivative: int = 0
    window: int = 0
    degree: int = 2
    snv: bool = True
    max_points: int = MAX_POINTS

    def __call__(self, value: Any, train: bool) -> Raw:
        values = torch.from_numpy(self.read(value))[:, None]
        return {"values": values, "observed": ~values.isnan(), "mask": torch.ones(self.points, dtype=torch.bool)}

    def read(self, value: Any) -> Float64[np.ndarray, " P"]:
        """On the common axis and preprocessed, before scaling. Raises DataError."""
        name = f"spectrum {value}" if isinstance(value, Path) else "a spectrum"
        curve = self._curve(value, name).in_unit(self.axis_unit, name)
        if self.absorbance:
            curve = curve.absorbance(name)
        if curve.axis is not None and self.axis is None:
            raise DataError(f"{name} on a common axis", "no `axis` is set", "set the tokenizer's `axis: [low, high]`")
        goal = np.linspace(*(self.axis or (0.0, 1.0)), self.points)
        values = curve.at(goal, name)
        beyond = np.abs(values) > LARGEST
        if beyond.any():
            do = "repair it, or make it NaN, which means missing"
            raise DataError(f"{name} of numbers up to {LARGEST:g}", f"{values[beyond][0]:g}", do)
        if self.window:
            values = derivative(values, self.derivative, self.window, self.degree)
        if np.isnan(values).all():
            found = "all missing" if curve.axis is None else f"nothing between {goal.min():g} and {goal.max():g}"
            raise DataError(f"{name} with values in it", found, "set `axis` to what it covers, or leave it out")
        return normal_variate(values) if self.snv else values

    def _curve(self, value: Any, name: str) -> Curve:
        if isinstance(value, Path):
            if value.suffix.lower() in (".jdx", ".dx", ".jcm"):
                return read_jcamp(value, self.max_points)
            return self._columns(read_numbers(value, longest=self.max_points), name)
        if isinstance(value, dict):
            if set(value) != {"axis", "values"}:
                raise DataError(f"{name} as axis and values", f"keys {list(value)}"[:200], "give both and no others")
            axis, values = _array(value["axis"], name), _array(value["values"], name)
            if axis.ndim != 1 or axis.shape != values.shape:
                raise DataError(name, f"an axis {axis.shape} and values {values.shape}", "give as many of both")
            return Curve(axis, values)
        return self._columns(_array(value, name), name)

    def _columns(self, table: np.ndarray, name: str) -> Curve:
        if table.size > 2 * self.max_points:
            raise DataError(f"{name} of at most {self.max_points} points", f"{table.size}", "raise `max_points`")
        if table.ndim == 1:
            return Curve(None, table)
        if table.ndim == 2 and table.shape[1] == 2 and len(table) > 1:
            return Curve(table[:, 0], table[:, 1])
        if table.ndim == 2 and 1 in table.shape:
            return Curve(None, table.reshape(-1))
        raise DataError(f"{name} as values, or an axis and values", f"shape {list(table.shape)}", "give one at a time")

    def blank(self) -> Raw:
        return self._zeros(1)

    def example(self) -> Raw:
        return self._zeros(self.points)

    def _zeros(self, length: int) -> Raw:
        there = torch.ones(length, dtype=torch.bool)
        return {"values": torch.zeros(length, 1, dtype=torch.float64), "observed": there[:, None], "mask": there}


class SpectrumTokenizer(Tokenizer):
    """{values, observed [B P 1], mask [B P]} → tokens [B T D]: a class token, and one per `patch_length` points.

    `axis: [low, high]` with `points` is the common axis that spectra with an axis of their own are brought to
    (linear between neighbours; what they do not cover is missing); `axis_unit` is its unit, for JCAMP-DX files that
    say theirs. `absorbance` makes it out of transmittance. `window` (odd) and `degree` smooth by Savitzky and
    Golay, `derivative` 1 or 2 needs them; then `snv`; then `scaling: standard`, each point by its mean and deviation
    over the training set, which are saved with the model.
    """

    fits: ClassVar[bool] = True
    preprocess: SpectrumPreprocess
    mean: Float64[Tensor, " P"]
    std: Float64[Tensor, " P"]

    def __init__(
        self,
        dim: int,
        *,
        points: Annotated[int, Field(gt=0, le=MAX_POINTS)],
        axis: tuple[float, float] | None = None,
        axis_unit: Unit = "as_is",
        absorbance: bool = False,
        derivative: Literal[0, 1, 2] = 0,
        window: Annotated[int, Field(ge=0)] = 0,
        degree: Annotated[int, Field(ge=0, le=8)] = 2,
        snv: bool = True,
        scaling: Literal["standard", "none"] = "standard",
        patch_length: Annotated[int, Field(gt=0)] = 16,
        stride: Annotated[int, Field(gt=0)] | None = None,
        missing_indicator: bool = True,
        positions: Literal["learned", "sinusoidal", "none"] = "learned",
        class_token: bool = True,
        max_points: Annotated[int, Field(gt=0)] = MAX_POINTS,
    ) -> None:
        super().__init__()
        if axis is not None and not axis[0] < axis[1]:
            raise MetaformerError(f"axis {list(axis)}", "the first is not smaller", "give [low, high]")
        fitting = window % 2 == 1 and degree < window <= points and derivative <= degree
        if (window or derivative) and not fitting:
            raise MetaformerError(
                f"derivative {derivative} of polynomials of degree {degree} over {window} of {points} points",
                "they do not fit",
                "derivative <= degree < window <= points, and window is odd",
            )
        self.preprocess = SpectrumPreprocess(
            points, axis, axis_unit, absorbance, derivative, window, degree, snv, max_points
        )
        self.scaling = scaling
        self.embed = SeriesEmbedding(
            dim,
            channels=1,
            max_length=points,
            patch_length=patch_length,
            stride=stride,
            missing_indicator=missing_indicator,
            positions=positions,
            class_token=class_token,
        )
        self.num_contents = self.embed.window
        self.register_buffer("mean", torch.zeros(points, dtype=torch.float64))
        self.register_buffer("std", torch.ones(points, dtype=torch.float64))

    def forward(self, raw: Raw) -> TokenBatch:
        tokens = self.embed(self._scaled(raw), raw["observed"], raw["mask"])
        return tokens._replace(modality=self.modality)

    def contents(self, raw: Raw) -> Float[Tensor, "B P E"]:
        """The scaled values of each patch; 0 where one is missing."""
        return self.embed.windows(self._scaled(raw), raw["mask"])

    def _scaled(self, raw: Raw) -> Float[Tensor, "B P 1"]:
        length = raw["values"].shape[1]
        return (raw["values"] - self.mean[:length, None]) / self.std[:length, None]

    def fit(self, values: Iterable[Any]) -> None:
        """Mean and deviation at every point over the training set, for `scaling: standard`.

        Missing and unusable spectra are left out: the loader meets the latter again, and there the recipe's policy
        for bad samples holds. Raises DataError where none is left."""
        if self.scaling == "none":
            return
        # Welford's update: one pass, and exact where the mean is far from zero.
        count, mean, square = np.zeros((3, self.preprocess.points))
        for spectrum, there in self._usable(values):
            count += there
            step = np.where(there, spectrum - mean, 0)
            mean += step / count.clip(min=1)
            square += step * np.where(there, spectrum - mean, 0)
        if not count.any():
            raise DataError("spectra to fit the scaling on", "none that can be used")
        std = np.sqrt(square / count.clip(min=1))
        # What does not vary is rounding noise, which must not be divided by.
        std = np.where(std <= 1e-12 * np.maximum(np.abs(mean), 1e-12), 1.0, std)
        self.mean.copy_(torch.from_numpy(mean))
        self.std.copy_(torch.from_numpy(std))

    def _usable(self, values: Iterable[Any]) -> Iterator[tuple[Float64[np.ndarray, " P"], Bool[np.ndarray, " P"]]]:
        for value in values:
            if value is None:
                continue
            try:
                spectrum = self.preprocess.read(value)
            except DataError:
                continue
            yield spectrum, ~np.isnan(spectrum)

    def describe(self) -> str:
        pre = self.preprocess
        axis = f" from {pre.axis[0]:g} to {pre.axis[1]:g}" if pre.axis else ""
        done = [f"derivative {pre.derivative} over {pre.window}"] if pre.window else []
        done += ["SNV"] if pre.snv else []
        count = self.embed.num_windows(pre.points) + self.embed.num_prefix
        what = ", ".join([*done, f"{self.scaling} scaling", self.embed.describe()])
        return f"spectrum: {pre.points} points{axis}, {what} = {count} tokens"


def _array(value: Any, name: str) -> np.ndarray:
    if isinstance(value, Tensor):
        value = value.detach().cpu().numpy()
    if isinstance(value, np.ndarray) and value.dtype.kind not in "biufO":
        raise DataError(f"{name} of numbers", f"an array of {value.dtype}", "convert it to numbers")
    if not isinstance(value, (np.ndarray, list, tuple)):
        found, do = f"{type(value).__name__}: {value!r:.80}", "give an array, {axis, values}, or a file's name"
        raise DataError(name, found, do)
    try:
        table = np.array(value, dtype=np.float64)
    except (ValueError, TypeError, OverflowError) as error:
        raise DataError(f"{name} of numbers", str(error)[:200], "None is missing") from error
    if table.size == 0:
        raise DataError(f"{name} with values in it", f"shape {list(table.shape)}", "leave it out")
    return table
