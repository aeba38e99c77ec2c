"""Features of nodes, or of edges, as vectors: a row of a table per category, a linear map of the numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor, nn
from torch.nn import functional as F

LARGEST = 1e6
"""Normalised values stop here: far beyond any that means something, and far below infinity in float32."""


class Features(nn.Module):
    """Sum over the columns [B n D]; zeros where there are none. Missing numbers are the mean, plus a vector."""

    mean: Float64[Tensor, " k"]
    std: Float64[Tensor, " k"]

    def __init__(self, dim: int, width: int, numeric: int) -> None:
        """`width`: rows of the table of categories; `numeric`: columns of numbers."""
        super().__init__()
        self.dim, self.width, self.numeric = dim, width, numeric
        self.num_contents = width + numeric
        self.table = nn.Embedding(width, dim) if width else None
        self.linear = nn.Linear(numeric, dim, bias=False) if numeric else None
        self.missing = nn.Linear(numeric, dim, bias=False) if numeric else None
        if numeric:
            self.register_buffer("mean", torch.zeros(numeric, dtype=torch.float64))
            self.register_buffer("std", torch.ones(numeric, dtype=torch.float64))

    def forward(
        self,
        mask: Bool[Tensor, "B n"],
        codes: Int64[Tensor, "B n c"] | None,
        values: Float64[Tensor, "B n k"] | None,
        dtype: torch.dtype,
    ) -> Float[Tensor, "B n D"]:
        """`dtype` is that of the zeros."""
        x: Tensor | None = None
        if self.table is not None:
            assert codes is not None
            x = self.table(codes).sum(dim=2)
        if self.linear is not None and self.missing is not None:
            assert values is not None
            unit = self.scaled(values).to(self.linear.weight.dtype)
            numbers = self.linear(unit) + self.missing(values.isnan().to(unit.dtype))
            x = numbers if x is None else x + numbers
        return mask.new_zeros((*mask.shape, self.dim), dtype=dtype) if x is None else x

    def contents(
        self,
        mask: Bool[Tensor, "B n"],
        codes: Int64[Tensor, "B n c"] | None,
        values: Float64[Tensor, "B n k"] | None,
    ) -> Float[Tensor, "B n E"]:
        """One number per row of the table and per numeric column."""
        parts = [torch.zeros((*mask.shape, 0), device=mask.device)]
        if self.width:
            assert codes is not None
            parts.append(F.one_hot(codes, self.width).sum(dim=2).float())
        if self.numeric:
            assert values is not None
            parts.append(self.scaled(values).float())
        return torch.cat(parts, dim=-1)

    def scaled(self, values: Float64[Tensor, "B n k"]) -> Float64[Tensor, "B n k"]:
        """About unit scale; missing is 0."""
        return ((values - self.mean) / self.std).nan_to_num(nan=0.0).clamp(-LARGEST, LARGEST)

    def begin(self) -> None:
        """Forget the statistics; `observe` and `end` make new ones."""
        self.count, self.centre, self.square = np.zeros((3, self.numeric))

    def observe(self, values: Float64[np.ndarray, "n k"]) -> None:
        # Chan's pairwise update: one pass, and exact where the mean is far from zero.
        there = ~np.isnan(values)
        new = there.sum(axis=0)
        own = np.where(there, values, 0).sum(axis=0) / new.clip(min=1)
        spread = (np.where(there, values - own, 0) ** 2).sum(axis=0)
        total = (self.count + new).clip(min=1)
        self.square += spread + (own - self.centre) ** 2 * self.count * new / total
        self.centre += (own - self.centre) * new / total
        self.count += new

    def end(self) -> None:
        if not self.numeric:
            return
        std = np.sqrt(self.square / self.count.clip(min=1))
        # A constant column's deviation is rounding noise, which must not be divided by.
        std = np.where(std <= 1e-12 * np.abs(self.centre), 1.0, std)
        self.mean.copy_(torch.from_numpy(self.centre))
        self.std.copy_(torch.from_numpy(std))

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Features:
        # `model.bfloat16()` rounds buffers too; statistics follow to another device, not to another precision.
        exact = {name: buffer for name, buffer in self._buffers.items() if buffer is not None}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, buffer in exact.items():
            moved = self._buffers[name]
            if moved is not None and moved.dtype != buffer.dtype:
                self._buffers[name] = buffer.to(moved.device)
        return self
