"""Time series tokenizer: patches of steps, or single steps, → tokens.

Source: PatchTST (arXiv 2211.14730) and Meta-Transformer (arXiv 2307.10802): see `metaformer.layers.series`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float, Float64
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from metaformer.arrays.series import Normalize, SeriesPreprocess, moments
from metaformer.base import Preprocess, Tokenizer
from metaformer.errors import DataError, MetaformerError
from metaformer.layers.series import SeriesEmbedding
from metaformer.types import Raw, TokenBatch
from metaformer_plugin_timeseries.calendar import CalendarPreprocess


class TimeSeriesTokenizer(Tokenizer):
    """{values, observed [B L C], mask [B L]} → tokens [B T D]: a class token, and one per patch or step."""

    fits: ClassVar[bool] = True
    preprocess: Preprocess
    mean: Float64[Tensor, " C"]
    std: Float64[Tensor, " C"]

    def __init__(
        self,
        dim: int,
        *,
        channels: Annotated[int, Field(gt=0)],
        max_length: Annotated[int, Field(gt=0)],
        patch_length: Annotated[int, Field(gt=0)] = 16,
        stride: Annotated[int, Field(gt=0)] | None = None,
        stem: Literal["patch", "conv"] = "patch",
        normalize: Normalize = "instance",
        fill: Literal["interpolate", "zero"] = "interpolate",
        missing_indicator: bool = True,
        positions: Literal["learned", "sinusoidal", "none"] = "learned",
        class_token: bool = True,
        too_long: Literal["truncate", "error"] = "truncate",
        columns: tuple[str, ...] = (),
        calendar: Annotated[int, Field(ge=0)] = 0,
    ) -> None:
        super().__init__()
        if columns and len(columns) != channels:
            raise MetaformerError(
                f"time series of {channels} channels",
                f"{len(columns)} columns",
                "name one column per channel",
            )
        self.series = SeriesPreprocess(channels, max_length, normalize, fill, too_long == "truncate", columns)
        self.preprocess = CalendarPreprocess(self.series, calendar) if calendar else self.series
        self.normalize = normalize
        self.embed = SeriesEmbedding(
            dim,
            channels=channels,
            max_length=max_length,
            patch_length=patch_length,
            stride=stride,
            stem=stem,
            missing_indicator=missing_indicator,
            positions=positions,
            class_token=class_token,
        )
        self.num_contents = self.embed.window
        steps = 1 if stem == "conv" else patch_length
        self.calendar = nn.Linear(steps * calendar, dim, bias=False) if calendar else None
        self.register_buffer("mean", torch.zeros(channels, dtype=torch.float64))
        self.register_buffer("std", torch.ones(channels, dtype=torch.float64))

    def forward(self, raw: Raw) -> TokenBatch:
        tokens: TokenBatch = self.embed(self._scaled(raw), raw["observed"], raw["mask"])
        if self.calendar is not None:
            features = raw["calendar"].to(self.calendar.weight.dtype)
            if self.embed.stem == "patch":
                features = self.embed.windows(features, raw["mask"])
            known = F.pad(self.calendar(features), (0, 0, tokens.num_prefix, 0))
            tokens = tokens.with_x(tokens.x + known)
        return tokens._replace(modality=self.modality, units=self._units(raw))

    def _units(self, raw: Raw) -> tuple[Float[Tensor, "B C"], Float[Tensor, "B C"]]:
        """What turns normalised numbers back into the series'."""
        if self.normalize == "dataset":
            rows = len(raw["values"])
            return self.mean.float().expand(rows, -1), self.std.float().expand(rows, -1)
        return raw["mean"], raw["std"]

    def contents(self, raw: Raw) -> Float[Tensor, "B P E"]:
        return self.embed.windows(self._scaled(raw), raw["mask"])

    def _scaled(self, raw: Raw) -> Float[Tensor, "B L C"]:
        values = raw["values"]
        return (values - self.mean) / self.std if self.normalize == "dataset" else values

    def fit(self, values: Iterable[Any]) -> None:
        """Mean and deviation per channel over the training set, for `normalize: dataset` only.

        Missing and unusable series are left out: the loader meets the latter again, and there the recipe's
        policy for bad samples holds. Raises DataError where none is left."""
        if self.normalize == "dataset":
            mean, std = moments(self._usable(values), self.series.channels)
            self.mean.copy_(torch.from_numpy(mean))
            self.std.copy_(torch.from_numpy(std))

    def _usable(self, values: Iterable[Any]) -> Iterator[Float64[np.ndarray, "L C"]]:
        for value in values:
            if value is None:
                continue
            try:
                yield self.series.read(self._values(value))[0]
            except DataError:
                continue

    def _values(self, value: Any) -> Any:
        return self.preprocess.split(value)[0] if isinstance(self.preprocess, CalendarPreprocess) else value

    def describe(self) -> str:
        most = self.series.max_length
        return (
            f"timeseries: {self.series.channels} channels, {self.embed.describe()}, at most {most} steps"
            f" = {self.embed.num_windows(most)} tokens, {self.normalize} normalisation"
        )
