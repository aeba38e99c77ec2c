"""Batch normalisation over the entries that are there.

Source: arXiv 1502.03167.
Ours differs: padding counts in no statistic; ranks agree on the running statistics, which evaluation reads; a batch
of fewer than two entries is normalised by the running statistics and leaves them alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool, Float, Float32
from torch import Tensor, distributed, nn

MOMENTUM = 0.1
EPSILON = 1e-5


class MaskedBatchNorm(nn.Module):
    """[*S C] and mask [*S] → [*S C]. In training by the batch's own statistics on each rank."""

    mean: Float32[Tensor, " C"]
    variance: Float32[Tensor, " C"]

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("variance", torch.ones(channels))

    def forward(self, x: Float[Tensor, "*S C"], mask: Bool[Tensor, "*S"]) -> Float[Tensor, "*S C"]:
        exact = x.float()
        if not self.training:
            return self._scaled(exact, self.mean, self.variance).to(x.dtype)
        there = mask.unsqueeze(-1).float()
        axes = tuple(range(x.ndim - 1))
        count = there.sum()
        mean = (exact * there).sum(axes) / count.clamp(min=1)
        spread = ((exact - mean).square() * there).sum(axes)
        enough = count > 1
        out = self._scaled(
            exact,
            torch.where(enough, mean, self.mean),
            torch.where(enough, spread / count.clamp(min=1), self.variance),
        )
        self._follow(mean.detach(), (spread / (count - 1).clamp(min=1)).detach(), count * enough)
        return out.to(x.dtype)

    def _scaled(self, x: Float[Tensor, "*S C"], mean: Tensor, variance: Tensor) -> Float[Tensor, "*S C"]:
        return (x - mean) * ((variance + EPSILON).rsqrt() * self.weight.float()) + self.bias.float()

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        """The running statistics, one step on; the same on all ranks, weighed by what each has seen."""
        total = torch.stack([mean * count, variance * count, count.expand_as(mean)])
        if distributed.is_initialized() and not total.is_meta:
            distributed.all_reduce(total)
        seen = total[2].clamp(min=1)
        pace = MOMENTUM * (total[2] > 1)
        self.mean += pace * (total[0] / seen - self.mean)
        self.variance += pace * (total[1] / seen - self.variance)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> MaskedBatchNorm:
        # `model.bfloat16()` rounds buffers too; statistics follow to another device, not to another precision.
        exact = {"mean": self.mean, "variance": self.variance}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, buffer in exact.items():
            moved = self._buffers[name]
            if moved is not None and moved.dtype != buffer.dtype:
                self._buffers[name] = buffer.to(moved.device)
        return self
