"""A class for every token: segmentation of points and patches, tagging of words."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from metaformer.base import Head
from metaformer.layers.init import init_transformer
from metaformer.types import TokenBatch


class TokenClassificationHead(Head):
    """TokenBatch [B T D] → logits [B T' C], T' being the tokens after the prefix."""

    predicts: ClassVar[Literal["classes"]] = "classes"

    def __init__(
        self,
        dim: int,
        *,
        num_classes: Annotated[int, Field(gt=0)],
        norm: bool = True,
        drop: Annotated[float, Field(ge=0, lt=1)] = 0.0,
    ) -> None:
        super().__init__()
        self.size = num_classes
        self.norm = nn.LayerNorm(dim) if norm else nn.Identity()
        self.drop = nn.Dropout(drop)
        self.linear = nn.Linear(dim, num_classes)
        init_transformer(self)

    def forward(self, tokens: TokenBatch) -> Float[Tensor, "B T C"]:
        return self.linear(self.drop(self.norm(tokens.x[:, tokens.num_prefix :])))
