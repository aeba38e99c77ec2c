"""One class, or several at once, per sample."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from metaformer.base import Head
from metaformer.heads.pool import Pool, pool
from metaformer.layers.init import init_transformer
from metaformer.types import TokenBatch


class ClassificationHead(Head):
    """TokenBatch [B T D] → logits [B C]: pool, norm, linear. The objective decides how logits are read."""

    predicts: ClassVar[Literal["class"]] = "class"

    def __init__(
        self,
        dim: int,
        *,
        num_classes: Annotated[int, Field(gt=0)],
        pool: Pool = "auto",
        norm: bool = True,
        drop: Annotated[float, Field(ge=0, lt=1)] = 0.0,
    ) -> None:
        super().__init__()
        self.size = num_classes
        self.pool = pool
        self.norm = nn.LayerNorm(dim) if norm else nn.Identity()
        self.drop = nn.Dropout(drop)
        self.linear = nn.Linear(dim, num_classes)
        init_transformer(self)

    def forward(self, tokens: TokenBatch) -> Float[Tensor, "B C"]:
        return self.linear(self.drop(self.norm(pool(tokens, self.pool))))
