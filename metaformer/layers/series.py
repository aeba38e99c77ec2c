"""Steps of a series → tokens: overlapping patches or a circular convolution, gaps, a class token, positions.

Source: `patch` is PatchTST's (arXiv 2211.14730), a linear map of each patch; `conv` is Meta-Transformer's
(arXiv 2307.10802, after arXiv 2012.07436), a circular convolution over 3 steps.
Ours differs: a patch holds all channels, where PatchTST runs each alone; gaps have an embedding of their own;
the convolution wraps around at each series' own end, so that padding changes nothing.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from metaformer.errors import MetaformerError
from metaformer.layers.patches import Positions
from metaformer.layers.positions import sinusoid
from metaformer.types import TokenBatch

LARGEST = 1e6
"""Normalised values stop here: far beyond any that means something, and far below infinity in float32."""


class SeriesEmbedding(nn.Module):
    """values, observed [B L C], mask [B L] → TokenBatch [B T D]: a class token, and one token per patch or step.

    A series of L steps has 1 + ceil((L - patch_length) / stride) patches, and at least one; what the last one
    has past the end counts as missing.
    """

    positions: Float[Tensor, "T D"] | None
    class_token: Float[Tensor, "1 D"] | None

    def __init__(
        self,
        dim: int,
        *,
        channels: int,
        max_length: int,
        patch_length: int = 16,
        stride: int | None = None,
        stem: Literal["patch", "conv"] = "patch",
        missing_indicator: bool = True,
        positions: Positions = "learned",
        class_token: bool = True,
    ) -> None:
        super().__init__()
        if stride is not None and stride > patch_length:
            raise MetaformerError(
                f"patches of {patch_length} steps", f"stride {stride} leaves steps out", "lower the stride"
            )
        self.stem = stem
        self.patch_length, self.stride = patch_length, stride or patch_length
        self.num_prefix = int(class_token)
        self.window = (3 if stem == "conv" else patch_length) * channels
        # A linear map of the window [steps, channels]; for `conv` it is the convolution: weight [D, C, 3] of a
        # Conv1d is this weight [D, 3C] after `weight.unflatten(1, (3, C)).transpose(1, 2)`.
        self.project = nn.Linear(self.window, dim, bias=stem == "patch")
        if stem == "conv":
            nn.init.kaiming_normal_(self.project.weight, mode="fan_in", nonlinearity="leaky_relu")
        self.missing = nn.Linear(self.window, dim, bias=False) if missing_indicator else None
        if self.missing is not None:
            nn.init.trunc_normal_(self.missing.weight, std=0.02)
        self.register_parameter("class_token", nn.Parameter(torch.randn(1, dim) * 0.02) if class_token else None)
        tokens = self.num_windows(max_length)
        if positions == "learned":
            self.positions = nn.Parameter(nn.init.trunc_normal_(torch.empty(tokens, dim), std=0.02))
        else:
            self.register_buffer("positions", sinusoid(tokens, dim) if positions == "sinusoidal" else None)

    def num_windows(self, length: int) -> int:
        """Tokens of a series of `length` steps, without the class token."""
        if self.stem == "conv":
            return length
        return 1 + math.ceil(max(length - self.patch_length, 0) / self.stride)

    def forward(
        self, values: Float[Tensor, "B L C"], observed: Bool[Tensor, "B L C"], mask: Bool[Tensor, "B L"]
    ) -> TokenBatch:
        """Values on a unit scale; what is NaN becomes 0, their mean. `mask`: steps that are real."""
        x = self.project(self.windows(values, mask))
        if self.missing is not None:
            x = x + self.missing(self._cut((~observed).to(x.dtype), mask, outside=1.0).to(x.dtype))
        return self._assemble(x, self.window_mask(mask))

    def windows(self, values: Float[Tensor, "B L C"], mask: Bool[Tensor, "B L"]) -> Float[Tensor, "B T W"]:
        """The numbers behind each token: [B T steps*C]."""
        values = values.nan_to_num(nan=0.0).clamp(-LARGEST, LARGEST)
        return self._cut(values.to(self.project.weight.dtype), mask, outside=0.0)

    def window_mask(self, mask: Bool[Tensor, "B L"]) -> Bool[Tensor, "B T"]:
        """True for the windows a series of each row's length has by itself."""
        if self.stem == "conv":
            return mask
        window = torch.arange(self.num_windows(mask.shape[1]), device=mask.device)
        length = mask.sum(dim=1, keepdim=True)
        return (window == 0) | ((window - 1) * self.stride + self.patch_length < length)

    def describe(self) -> str:
        """How it cuts, in a few words."""
        return f"patches of {self.patch_length}, stride {self.stride}" if self.stem == "patch" else "steps"

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
        return TokenBatch(x, mask, "", grid=grid, num_prefix=self.num_prefix, positions=positions)

    def _cut(self, x: Float[Tensor, "B L C"], mask: Bool[Tensor, "B L"], outside: float) -> Float[Tensor, "B T W"]:
        return self._neighbours(x, mask) if self.stem == "conv" else self._patches(x, mask, outside)

    def _patches(self, x: Float[Tensor, "B L C"], mask: Bool[Tensor, "B L"], outside: float) -> Float[Tensor, "B T W"]:
        """[B T patch_length*C]; `outside` is what steps past a series' end hold."""
        x = x.masked_fill(~mask.unsqueeze(-1), outside)
        reach = (self.num_windows(x.shape[1]) - 1) * self.stride + self.patch_length
        x = F.pad(x, (0, 0, 0, reach - x.shape[1]), value=outside)
        return x.unfold(1, self.patch_length, self.stride).transpose(2, 3).flatten(2)

    def _neighbours(self, x: Float[Tensor, "B L C"], mask: Bool[Tensor, "B L"]) -> Float[Tensor, "B L W"]:
        """[B L 3*C]: each step between the one before and the one after, in the circle of its own series."""
        length = mask.sum(dim=1, keepdim=True).clamp(min=1)
        step = torch.arange(x.shape[1], device=x.device)
        circle = torch.stack([(step - 1) % length, step.expand(len(x), -1), (step + 1) % length], dim=2)
        index = circle.flatten(1).unsqueeze(-1).expand(-1, -1, x.shape[2])
        return x.gather(1, index).view(len(x), x.shape[1], -1)
