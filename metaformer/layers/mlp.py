"""The feed-forward sub-layer, with the activation as a parameter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

Activation = Literal["gelu", "quick_gelu", "relu", "relu2", "swiglu"]


def quick_gelu(x: Tensor) -> Tensor:
    """x · sigmoid(1.702 x), as in OpenAI's CLIP weights."""
    return x * torch.sigmoid(1.702 * x)


def squared_relu(x: Tensor) -> Tensor:
    """relu(x)², as in Flamingo's feed-forward."""
    return F.relu(x).square()


def swiglu(x: Tensor) -> Tensor:
    """silu(a)·b over the two halves of the last axis (arXiv 2002.05202)."""
    gate, value = x.chunk(2, dim=-1)
    return F.silu(gate) * value


_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "quick_gelu": quick_gelu,
    "relu": F.relu,
    "relu2": squared_relu,
    "swiglu": swiglu,
}


class MLP(nn.Module):
    """[B T D] → [B T D] through `hidden` units (`swiglu` doubles the first projection)."""

    def __init__(
        self, dim: int, hidden: int, *, activation: Activation = "gelu", bias: bool = True, drop: float = 0.0
    ) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden * (2 if activation == "swiglu" else 1), bias=bias)
        self.fc2 = nn.Linear(hidden, dim, bias=bias)
        self.activation = _ACTIVATIONS[activation]
        self.drop = nn.Dropout(drop)

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        return self.drop(self.fc2(self.activation(self.fc1(x))))
