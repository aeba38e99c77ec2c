"""Hyperspectral tokenizer: a pixel's bands, each with its neighbourhood in space and spectrum, → tokens.

Source: SpectralFormer (arXiv 2107.02988) as Meta-Transformer (arXiv 2307.10802) ran it: a linear map of each band's
patch_size² · near_bands numbers, scaled band by band to 0..1; a class token and positions drawn from N(0, 1).
Ours differs: scaling is fitted on training pixels only; bands next to the ends are mirrored (`ends: wrap` takes those
from the other end, as published code does); `band_stride` makes one token of several bands; missing bands are masked.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from metaformer.base import Tokenizer
from metaformer.errors import DataError, MetaformerError
from metaformer.layers.positions import sinusoid
from metaformer.types import Raw, TokenBatch
from metaformer_plugin_hyperspectral.preprocess import SpectrumPreprocess

LARGEST = 1e6
"""Scaled values stop here: far beyond any that means something, and far below infinity in float32."""


class HyperspectralTokenizer(Tokenizer):
    """{values, observed [B bands P²]} → tokens [B T D]: a class token, and one per `band_stride` bands.

    Token t is a linear map of the near_bands · patch_size² numbers around its middle band, t · band_stride +
    (band_stride - 1) // 2: band by band, pixels in reading order. A number that is missing counts as the mean of the
    token's others; a token without any is masked.
    """

    fits: ClassVar[bool] = True
    preprocess: SpectrumPreprocess
    shift: Float64[Tensor, " bands"]
    scale: Float64[Tensor, " bands"]
    window: Int64[Tensor, "T near"]
    positions: Float[Tensor, "T D"] | None
    class_token: Float[Tensor, "1 D"] | None

    def __init__(
        self,
        dim: int,
        *,
        num_bands: Annotated[int, Field(gt=0, le=100_000)],
        patch_size: Annotated[int, Field(gt=0, le=255)] = 1,
        near_bands: Annotated[int, Field(gt=0)] = 1,
        band_stride: Annotated[int, Field(gt=0)] = 1,
        ends: Literal["mirror", "wrap"] = "mirror",
        scaling: Literal["minmax", "standard", "none"] = "minmax",
        init: Literal["vit", "as_coded"] = "vit",
        positions: Literal["learned", "sinusoidal", "none"] = "learned",
        class_token: bool = True,
        flips: bool = False,
        band_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0,
        illumination: Annotated[float, Field(ge=0, lt=1)] = 0.0,
        variable: str = "",
    ) -> None:
        super().__init__()
        if patch_size % 2 == 0 or near_bands % 2 == 0:
            raise MetaformerError(
                "a neighbourhood around each pixel and band",
                f"patch_size {patch_size}, near_bands {near_bands}",
                "give odd numbers",
            )
        if not band_stride <= near_bands <= num_bands:
            raise MetaformerError(
                f"tokens that cover {num_bands} bands",
                f"band_stride {band_stride}, near_bands {near_bands}",
                "band_stride is at most near_bands, which is at most num_bands",
            )
        self.preprocess = SpectrumPreprocess(num_bands, patch_size, variable, flips, band_dropout, illumination)
        self.scaling, self.num_prefix = scaling, int(class_token)
        window = _windows(num_bands, near_bands, band_stride, ends)
        self.num_tokens, self.num_contents = len(window), near_bands * patch_size**2
        self.register_buffer("window", torch.from_numpy(window), persistent=False)
        self.project = nn.Linear(self.num_contents, dim)
        std = 1.0 if init == "as_coded" else 0.02
        self.register_parameter("class_token", nn.Parameter(torch.randn(1, dim) * std) if class_token else None)
        length = self.num_prefix + self.num_tokens
        if positions == "learned":
            self.positions = nn.Parameter(torch.randn(length, dim) * std)
        else:
            self.register_buffer("positions", sinusoid(length, dim) if positions == "sinusoidal" else None)
        self.register_buffer("shift", torch.zeros(num_bands, dtype=torch.float64))
        self.register_buffer("scale", torch.ones(num_bands, dtype=torch.float64))

    def forward(self, raw: Raw) -> TokenBatch:
        contents, mask = self._windowed(raw)
        x = self.project(contents.to(self.project.weight.dtype))
        if self.class_token is not None:
            x = torch.cat([self.class_token.expand(len(x), -1, -1).to(x.dtype), x], dim=1)
            mask = F.pad(mask, (1, 0), value=True)
        positions = None if self.positions is None else self.positions[:].to(x.dtype)
        if positions is not None:
            x = x + positions
        grid, prefix = (self.num_tokens,), self.num_prefix
        return TokenBatch(x, mask, self.modality, grid=grid, num_prefix=prefix, positions=positions)

    def contents(self, raw: Raw) -> Float[Tensor, "B P E"]:
        """The scaled numbers that every token after the class token is made of."""
        return self._windowed(raw)[0]

    def _windowed(self, raw: Raw) -> tuple[Float[Tensor, "B T E"], Bool[Tensor, "B T"]]:
        observed = raw["observed"]
        values = (raw["values"] - self.shift[:, None]) / self.scale[:, None]
        values = values.clamp(-LARGEST, LARGEST).float() * observed
        values = values[:, self.window].flatten(2)
        there = observed[:, self.window].flatten(2)
        count = there.sum(dim=2, keepdim=True)
        filled = torch.where(there, values, values.sum(dim=2, keepdim=True) / count.clamp(min=1))
        return filled, count.squeeze(2) > 0

    def fit(self, values: Iterable[Any]) -> None:
        """Range, or mean and deviation, of each band over all pixels of the training set.

        Missing and unusable values are left out: the loader meets the latter again, and there the recipe's policy for
        bad samples holds. Raises DataError where none is left."""
        if self.scaling == "none":
            return
        bands = self.preprocess.num_bands
        low, high = np.full(bands, np.inf), np.full(bands, -np.inf)
        count, mean, square = np.zeros((3, bands))
        for patch in self._usable(values):
            there = ~np.isnan(patch)
            low = np.minimum(low, np.where(there, patch, np.inf).min(axis=1))
            high = np.maximum(high, np.where(there, patch, -np.inf).max(axis=1))
            # Chan's pairwise update: one pass, and exact where the mean is far from zero.
            new = there.sum(axis=1)
            own = np.where(there, patch, 0).sum(axis=1) / new.clip(min=1)
            total = (count + new).clip(min=1)
            square += (np.where(there, patch - own[:, None], 0) ** 2).sum(axis=1)
            square += (own - mean) ** 2 * count * new / total
            mean += (own - mean) * new / total
            count += new
        if not count.any():
            raise DataError("spectra to fit the scaling on", "none that can be used")
        if self.scaling == "minmax":
            shift, scale = np.where(count > 0, low, 0), np.where(count > 0, high - low, 1)
        else:
            shift, scale = mean, np.sqrt(square / count.clip(min=1))
        # What does not vary is rounding noise, which must not be divided by.
        scale = np.where(scale <= 1e-12 * np.abs(shift), 1.0, scale)
        self.shift.copy_(torch.from_numpy(shift))
        self.scale.copy_(torch.from_numpy(scale))

    def _usable(self, values: Iterable[Any]) -> Iterator[Float64[np.ndarray, "bands _"]]:
        for value in values:
            if value is None:
                continue
            try:
                patch = self.preprocess.read(value)
            except DataError:
                continue
            yield patch.reshape(len(patch), -1)

    def describe(self) -> str:
        side, bands = self.preprocess.patch_size, self.preprocess.num_bands
        return (
            f"hyperspectral: {bands} bands of {side} x {side} pixels, {self.window.shape[1]} bands a token"
            f" = {self.num_tokens} tokens, {self.scaling} scaling"
        )


def _windows(bands: int, near: int, stride: int, ends: Literal["mirror", "wrap"]) -> Int64[np.ndarray, "T near"]:
    """Which bands each token is made of."""
    middle = np.arange((stride - 1) // 2, bands + (stride - 1) // 2, stride)
    window = middle[:, None] + np.arange(-(near // 2), near // 2 + 1)
    if ends == "wrap":
        return window % bands
    window = window % (2 * bands)
    return np.where(window < bands, window, 2 * bands - 1 - window)
