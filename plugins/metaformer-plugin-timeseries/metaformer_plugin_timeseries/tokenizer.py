"""Time series tokenizer: patches of steps, or single steps, → tokens.

Source: `patch` is PatchTST's (arXiv 2211.14730), a linear map of each patch after instance normalisation;
`conv` is Meta-Transformer's (arXiv 2307.10802, after arXiv 2012.07436), a circular convolution over 3 steps.
Ours differs: a patch holds all channels, where PatchTST runs each alone; gaps have an embedding of their own;
the convolution wraps around at each series' own end, so that padding changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from metaformer.base import Tokenizer
from metaformer.errors import DataError, MetaformerError
from metaformer.layers.positions import sinusoid
from metaformer.types import Raw, TokenBatch
from metaformer_plugin_timeseries.series import Normalize, SeriesPreprocess

LARGEST = 1e6
"""Normalised values stop here: far beyond any that means something, and far below infinity in float32."""


class TimeSeriesTokenizer(Tokenizer):
    """{values, observed [B L C], mask [B L]} → tokens [B T D]: a class token, and one per patch or step.

    A series of L steps has 1 + ceil((L - patch_length) / stride) patches, and at least one; what the last one
    has past the end counts as missing.
    """

    fits: ClassVar[bool] = True
    preprocess: SeriesPreprocess
    mean: Float64[Tensor, " C"]
    std: Float64[Tensor, " C"]
    positions: Float[Tensor, "T D"] | None
    class_token: Float[Tensor, "1 D"] | None

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
    ) -> None:
        super().__init__()
        if columns and len(columns) != channels:
            raise MetaformerError(
                f"time series of {channels} channels",
                f"{len(columns)} columns",
                "name one column per channel",
            )
        if stride is not None and stride > patch_length:
            raise MetaformerError(
                f"patches of {patch_length} steps", f"stride {stride} leaves steps out", "lower the stride"
            )
        self.preprocess = SeriesPreprocess(channels, max_length, normalize, fill, too_long == "truncate", columns)
        self.normalize, self.stem = normalize, stem
        self.patch_length, self.stride = patch_length, stride or patch_length
        self.num_prefix = int(class_token)
        width = (3 if stem == "conv" else patch_length) * channels
        # A linear map of the window [steps, channels]; for `conv` it is the convolution: weight [D, C, 3] of a
        # Conv1d is this weight [D, 3C] after `weight.unflatten(1, (3, C)).transpose(1, 2)`.
        self.project = nn.Linear(width, dim, bias=stem == "patch")
        if stem == "conv":
            nn.init.kaiming_normal_(self.project.weight, mode="fan_in", nonlinearity="leaky_relu")
        self.missing = nn.Linear(width, dim, bias=False) if missing_indicator else None
        if self.missing is not None:
            nn.init.trunc_normal_(self.missing.weight, std=0.02)
        self.register_parameter("class_token", nn.Parameter(torch.randn(1, dim) * 0.02) if class_token else None)
        tokens = self.num_windows(max_length)
        if positions == "learned":
            self.positions = nn.Parameter(nn.init.trunc_normal_(torch.empty(tokens, dim), std=0.02))
        else:
            self.register_buffer("positions", sinusoid(tokens, dim) if positions == "sinusoidal" else None)
        self.register_buffer("mean", torch.zeros(channels, dtype=torch.float64))
        self.register_buffer("std", torch.ones(channels, dtype=torch.float64))

    def num_windows(self, length: int) -> int:
        """Tokens of a series of `length` steps, without the class token."""
        if self.stem == "conv":
            return length
        return 1 + math.ceil(max(length - self.patch_length, 0) / self.stride)

    def forward(self, raw: Raw) -> TokenBatch:
        values, observed, mask = raw["values"], raw["observed"], raw["mask"]
        if self.normalize == "dataset":
            values = (values - self.mean) / self.std
        # Gaps that were not filled are the mean.
        values = values.nan_to_num(nan=0.0).clamp(-LARGEST, LARGEST)
        values = values.to(self.project.weight.dtype)
        windows = self._neighbours if self.stem == "conv" else self._patches
        x = self.project(windows(values, mask))
        if self.missing is not None:
            x = x + self.missing(windows((~observed).to(values.dtype), mask, outside=1.0))
        return self._assemble(x, self._window_mask(mask))

    def _assemble(self, x: Float[Tensor, "B T D"], mask: Bool[Tensor, "B T"]) -> TokenBatch:
        """Positions on, class token in front."""
        positions = None if self.positions is None else self.positions[: x.shape[1]]
        if positions is not None:
            x = x + positions
        if self.class_token is not None:
            x = torch.cat([self.class_token.expand(len(x), -1, -1).to(x.dtype), x], dim=1)
            mask = F.pad(mask, (1, 0), value=True)
            positions = None if positions is None else F.pad(positions, (0, 0, 1, 0))
        grid = (x.shape[1] - self.num_prefix,)
        return TokenBatch(x, mask, self.modality, grid=grid, num_prefix=self.num_prefix, positions=positions)

    def _patches(
        self, x: Float[Tensor, "B L C"], mask: Bool[Tensor, "B L"], outside: float = 0.0
    ) -> Float[Tensor, "B T W"]:
        """[B T patch_length*C]; `outside` is what steps past a series' end hold."""
        x = x.masked_fill(~mask.unsqueeze(-1), outside)
        reach = (self.num_windows(x.shape[1]) - 1) * self.stride + self.patch_length
        x = F.pad(x, (0, 0, 0, reach - x.shape[1]), value=outside)
        return x.unfold(1, self.patch_length, self.stride).transpose(2, 3).flatten(2)

    def _neighbours(
        self, x: Float[Tensor, "B L C"], mask: Bool[Tensor, "B L"], outside: float = 0.0
    ) -> Float[Tensor, "B L W"]:
        """[B L 3*C]: each step between the one before and the one after, in the circle of its own series."""
        length = mask.sum(dim=1, keepdim=True).clamp(min=1)
        step = torch.arange(x.shape[1], device=x.device)
        circle = torch.stack([(step - 1) % length, step.expand(len(x), -1), (step + 1) % length], dim=2)
        index = circle.flatten(1).unsqueeze(-1).expand(-1, -1, x.shape[2])
        return x.gather(1, index).view(len(x), x.shape[1], -1)

    def _window_mask(self, mask: Bool[Tensor, "B L"]) -> Bool[Tensor, "B T"]:
        """True for the windows a series of each row's length has by itself."""
        if self.stem == "conv":
            return mask
        window = torch.arange(self.num_windows(mask.shape[1]), device=mask.device)
        length = mask.sum(dim=1, keepdim=True)
        return (window == 0) | ((window - 1) * self.stride + self.patch_length < length)

    def fit(self, values: Iterable[Any]) -> None:
        """Mean and deviation per channel over the training set, for `normalize: dataset` only.

        Missing and unusable series are left out: the loader meets the latter again, and there the recipe's
        policy for bad samples holds. Raises DataError where none is left."""
        if self.normalize != "dataset":
            return
        # Chan's pairwise update: one pass, and exact where the mean is far from zero.
        count, mean, square = np.zeros((3, self.preprocess.channels))
        for series in self._usable(values):
            there = ~np.isnan(series)
            new = there.sum(axis=0)
            own = np.where(there, series, 0).sum(axis=0) / new.clip(min=1)
            spread = (np.where(there, series - own, 0) ** 2).sum(axis=0)
            total = (count + new).clip(min=1)
            square += spread + (own - mean) ** 2 * count * new / total
            mean += (own - mean) * new / total
            count += new
        if not count.any():
            raise DataError("time series to fit the normalisation on", "none that can be used")
        std = np.sqrt(square / count.clip(min=1))
        # A constant channel's deviation is rounding noise, which must not be divided by.
        std = np.where(std <= 1e-12 * np.abs(mean), 1.0, std)
        self.mean.copy_(torch.from_numpy(mean))
        self.std.copy_(torch.from_numpy(std))

    def _usable(self, values: Iterable[Any]) -> Iterator[Float64[np.ndarray, "L C"]]:
        for value in values:
            if value is None:
                continue
            try:
                yield self.preprocess.read(value)[0]
            except DataError:
                continue

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> TimeSeriesTokenizer:
        # `model.bfloat16()` rounds buffers too; statistics follow to another device, not to another precision.
        exact = {"mean": self.mean, "std": self.std}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, buffer in exact.items():
            moved = self._buffers[name]
            if moved is not None and moved.dtype != buffer.dtype:
                self._buffers[name] = buffer.to(moved.device)
        return self

    def describe(self) -> str:
        how = f"patches of {self.patch_length}, stride {self.stride}" if self.stem == "patch" else "steps"
        most = self.preprocess.max_length
        return (
            f"timeseries: {self.preprocess.channels} channels, {how}, at most {most} steps"
            f" = {self.num_windows(most)} tokens, {self.normalize} normalisation"
        )
