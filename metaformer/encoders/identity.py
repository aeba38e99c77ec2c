"""No encoder: tokens go straight to the heads."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import nn

from metaformer.base import Encoder
from metaformer.types import TokenBatch


class IdentityEncoder(Encoder):
    """TokenBatch → the same TokenBatch."""

    def __init__(self, *, dim: Annotated[int, Field(gt=0)] = 768) -> None:
        super().__init__()
        self.dim = dim
        self.blocks = nn.ModuleList()

    def forward(self, tokens: TokenBatch) -> TokenBatch:
        return tokens
