"""Low-rank adaptation of linear layers.

Source: Hu et al. 2021, arXiv 2106.09685: W x + (alpha/r) B A x, A uniform (Kaiming), B zero.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn


class LoraLinear(nn.Linear):
    """A linear layer [.. I] → [.. O] with a low-rank update; equal to the layer it replaces until trained.

    It keeps the names `weight` and `bias`, so weights load as before; the update is `lora_a` [r I], `lora_b` [O r].
    """

    lora_a: nn.Parameter
    lora_b: nn.Parameter

    @classmethod
    def replace(cls, linear: nn.Linear, rank: int, alpha: float, dropout: float) -> LoraLinear:
        """A LoRA layer that shares the given layer's parameters."""
        out = cls.__new__(cls)
        nn.Module.__init__(out)
        out.in_features, out.out_features = linear.in_features, linear.out_features
        out.weight, out.bias = linear.weight, linear.bias
        out.lora_a = nn.Parameter(linear.weight.new_empty(rank, linear.in_features))
        out.lora_b = nn.Parameter(linear.weight.new_zeros(linear.out_features, rank))
        if not linear.weight.is_meta:
            nn.init.kaiming_uniform_(out.lora_a, a=math.sqrt(5))
        out.scaling = alpha / rank
        out.drop = nn.Dropout(dropout)
        return out

    scaling: float
    drop: nn.Dropout

    def forward(self, x: Float[Tensor, "*B I"]) -> Float[Tensor, "*B O"]:
        update = nn.functional.linear(nn.functional.linear(self.drop(x), self.lora_a), self.lora_b)
        return super().forward(x) + self.scaling * update

    @torch.no_grad()
    def merged_weight(self) -> Float[Tensor, "O I"]:
        """The weight of the plain linear layer that computes the same (without dropout)."""
        return self.weight + self.scaling * self.lora_b @ self.lora_a
