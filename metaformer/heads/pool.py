"""From tokens to one vector per sample."""

from __future__ import annotations

from typing import Literal

from jaxtyping import Float
from torch import Tensor

from metaformer.base import masked_mean
from metaformer.types import TokenBatch

Pool = Literal["auto", "cls", "mean"]
"""`cls`: the first token; `mean`: over real tokens; `auto`: `cls` where the stream has a class token."""


def pool(tokens: TokenBatch, how: Pool) -> Float[Tensor, "B D"]:
    """[B T D] → [B D]; rows without real tokens give finite numbers."""
    if how == "cls" or (how == "auto" and tokens.num_prefix):
        return tokens.x[:, 0]
    return masked_mean(tokens.x, tokens.mask)
