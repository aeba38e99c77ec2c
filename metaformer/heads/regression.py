"""Numbers per sample."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from metaformer.base import Head
from metaformer.heads.pool import Pool, pool
from metaformer.layers.init import init_transformer
from metaformer.types import TokenBatch


class RegressionHead(Head):
    """TokenBatch [B T D] → values [B C] in the target's units: pool, norm, linear, then `scale` and `shift`.

    The network works on a unit scale; give the targets' mean and deviation as `shift` and `scale` where they are
    far from 0 and 1.
    """

    predicts: ClassVar[Literal["values"]] = "values"

    def __init__(
        self,
        dim: int,
        *,
        num_outputs: Annotated[int, Field(gt=0)] = 1,
        pool: Pool = "auto",
        norm: bool = True,
        drop: Annotated[float, Field(ge=0, lt=1)] = 0.0,
        shift: float = 0.0,
        scale: Annotated[float, Field(gt=0)] = 1.0,
    ) -> None:
        super().__init__()
        self.size = num_outputs
        self.unit = float(scale)
        self.pool = pool
        self.norm = nn.LayerNorm(dim) if norm else nn.Identity()
        self.drop = nn.Dropout(drop)
        self.linear = nn.Linear(dim, num_outputs)
        init_transformer(self)
        self.register_buffer("shift", torch.tensor(float(shift)))
        self.register_buffer("scale", torch.tensor(float(scale)))

    def forward(self, tokens: TokenBatch) -> Float[Tensor, "B C"]:
        unit = self.linear(self.drop(self.norm(pool(tokens, self.pool)))).float()
        return unit * self.scale + self.shift
