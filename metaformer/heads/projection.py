"""An embedding of unit length, for retrieval and contrast."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from metaformer.base import Head
from metaformer.heads.pool import Pool, pool
from metaformer.layers.init import init_transformer
from metaformer.types import TokenBatch


class ProjectionHead(Head):
    """TokenBatch [B T D] → [B C], rows of length 1."""

    predicts: ClassVar[Literal["embedding"]] = "embedding"

    def __init__(
        self,
        dim: int,
        *,
        size: Annotated[int, Field(gt=0)] = 256,
        pool: Pool = "auto",
        norm: bool = True,
        bias: bool = False,
    ) -> None:
        super().__init__()
        self.size = size
        self.pool = pool
        self.norm = nn.LayerNorm(dim) if norm else nn.Identity()
        self.linear = nn.Linear(dim, size, bias=bias)
        init_transformer(self)

    def forward(self, tokens: TokenBatch) -> Float[Tensor, "B C"]:
        return F.normalize(self.linear(self.norm(pool(tokens, self.pool))).float(), dim=-1)
