"""IMU tokenizer: recordings of motion, on an even grid of time, → tokens.

Source: `conv` is Meta-Transformer's (arXiv 2307.10802), which takes an IMU for a time series of its channels; `patch`
is PatchTST's (arXiv 2211.14730); `imagebind` is the published stem of ImageBind (arXiv 2305.05665).
Ours differs: time stamps, units, gaps and the sensor's frame are dealt with here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float, Float64
from pydantic import Field
from torch import Tensor

from metaformer.arrays.series import Normalize, moments
from metaformer.base import Tokenizer
from metaformer.errors import DataError, MetaformerError
from metaformer.layers.series import SeriesEmbedding
from metaformer.types import Raw, TokenBatch
from metaformer_plugin_imu.preprocess import Augment, Grid, ImuPreprocess
from metaformer_plugin_imu.recording import Reader
from metaformer_plugin_imu.stem import ImageBindEmbedding

Share = Annotated[float, Field(ge=0, lt=1)]
Hertz = Annotated[float, Field(gt=1e-6, lt=1e9)]


class ImuTokenizer(Tokenizer):
    """{values, observed [B L C], mask [B L]} → tokens [B T D]: a class token, and one per patch, step or window."""

    fits: ClassVar[bool] = True
    preprocess: ImuPreprocess
    mean: Float64[Tensor, " C"]
    std: Float64[Tensor, " C"]

    def __init__(
        self,
        dim: int,
        *,
        max_length: Annotated[int, Field(gt=0)],
        channels: tuple[str, ...] = ("acc_x", "acc_y", "acc_z", "gyro_x", "gyro_y", "gyro_z"),
        stem: Literal["patch", "conv", "imagebind"] = "patch",
        patch_length: Annotated[int, Field(gt=0)] = 16,
        stride: Annotated[int, Field(gt=0)] | None = None,
        normalize: Normalize = "dataset",
        missing_indicator: bool = True,
        positions: Literal["learned", "sinusoidal", "none"] = "learned",
        class_token: bool = True,
        rate: Hertz | None = None,
        input_rate: Hertz | None = None,
        max_gap: Annotated[float, Field(gt=0)] = 0.5,
        accelerometer_unit: Literal["m/s2", "g"] = "m/s2",
        gyroscope_unit: Literal["rad/s", "deg/s"] = "rad/s",
        gravity_window: Annotated[float, Field(ge=0)] = 0.0,
        too_long: Literal["truncate", "error"] = "truncate",
        max_samples: Annotated[int, Field(gt=0)] = 1_000_000,
        columns: tuple[str, ...] = (),
        time_column: str = "",
        time_unit: Literal["s", "ms", "us", "ns"] = "s",
        rotate: Annotated[float, Field(ge=0, le=180)] = 0.0,
        jitter: Annotated[float, Field(ge=0)] = 0.0,
        scale: Share = 0.0,
        crop: Annotated[float, Field(gt=0, le=1)] | None = None,
    ) -> None:
        super().__init__()
        if not channels or len(set(channels)) < len(channels) or (columns and len(columns) != len(channels)):
            raise MetaformerError(
                f"an IMU with channels {', '.join(channels) or 'none'}",
                f"columns {', '.join(columns)}" if columns else "no channel, or one named twice",
                "name each channel once, and one column per channel",
            )
        if stem == "imagebind" and (not class_token or positions != "learned"):
            raise MetaformerError(
                "stem: imagebind",
                f"positions {positions}, class_token {class_token}",
                "it has learned ones and a class",
            )
        self.preprocess = ImuPreprocess(
            channels,
            max_length,
            Reader(len(channels), max(max_samples, max_length), columns, time_column, time_unit),
            Grid(rate, input_rate, max_gap, gravity_window),
            Augment(rotate, jitter, scale, crop),
            normalize,
            too_long == "truncate",
            accelerometer_unit == "g",
            gyroscope_unit == "deg/s",
        )
        self.normalize = normalize
        self.embed: SeriesEmbedding | ImageBindEmbedding
        if stem == "imagebind":
            self.embed = ImageBindEmbedding(dim, channels=len(channels), max_length=max_length)
        else:
            self.embed = SeriesEmbedding(
                dim,
                channels=len(channels),
                max_length=max_length,
                patch_length=patch_length,
                stride=stride,
                stem=stem,
                missing_indicator=missing_indicator,
                positions=positions,
                class_token=class_token,
            )
        self.num_contents = self.embed.window
        self.register_buffer("mean", torch.zeros(len(channels), dtype=torch.float64))
        self.register_buffer("std", torch.ones(len(channels), dtype=torch.float64))

    def forward(self, raw: Raw) -> TokenBatch:
        tokens: TokenBatch = self.embed(self._scaled(raw), raw["observed"], raw["mask"])
        return tokens._replace(modality=self.modality)

    def contents(self, raw: Raw) -> Float[Tensor, "B P E"]:
        return self.embed.windows(self._scaled(raw), raw["mask"])

    def _scaled(self, raw: Raw) -> Float[Tensor, "B L C"]:
        values = raw["values"]
        return (values - self.mean) / self.std if self.normalize == "dataset" else values

    def fit(self, values: Iterable[Any]) -> None:
        """Mean and deviation per channel over the training set, for `normalize: dataset` only.

        Missing and unusable recordings are left out: the loader meets the latter again, and there the recipe's policy
        for bad samples holds. Raises DataError where none is left."""
        if self.normalize == "dataset":
            mean, std = moments(self._usable(values), len(self.preprocess.channels))
            self.mean.copy_(torch.from_numpy(mean))
            self.std.copy_(torch.from_numpy(std))

    def _usable(self, values: Iterable[Any]) -> Iterator[Float64[np.ndarray, "L C"]]:
        for value in values:
            if value is None:
                continue
            try:
                yield self.preprocess.read(value)
            except DataError:
                continue

    def translate(self, source: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Out of ImageBind's model, for `stem: imagebind`; our own names as they are."""
        if "embed.project.weight" in source or not isinstance(self.embed, ImageBindEmbedding):
            return source
        # The published model has no statistics; ours stay.
        theirs = {f"embed.{name}": tensor for name, tensor in self.embed.translate(source).items()}
        return {**theirs, "mean": self.mean, "std": self.std}

    def describe(self) -> str:
        most, grid = self.preprocess.max_length, self.preprocess.grid
        return (
            f"imu: {len(self.preprocess.channels)} channels"
            f"{f' at {grid.rate:g} Hz' if grid.rate else ''}, {self.embed.describe()}, at most {most} steps"
            f" = {self.embed.num_windows(most)} tokens, {self.normalize} normalisation"
        )
