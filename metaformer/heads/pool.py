"""From tokens to one vector per sample."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from metaformer.base import masked_mean
from metaformer.types import TokenBatch

Pool = Literal["auto", "cls", "mean", "end"]
"""`cls`: the first token; `mean`: over real tokens; `end`: the last real token, which in CLIP's texts is the end token;
`auto`: `cls` where the stream has a class token, else `mean`."""


def pool(tokens: TokenBatch, how: Pool) -> Float[Tensor, "B D"]:
    """[B T D] → [B D]; rows without real tokens give finite numbers."""
    if how == "cls" or (how == "auto" and tokens.num_prefix):
        return tokens.x[:, 0]
    if how == "end":
        places = torch.arange(tokens.x.shape[1], device=tokens.x.device)
        last = (tokens.mask * places).argmax(dim=1)
        return tokens.x[torch.arange(len(last), device=last.device), last]
    return masked_mean(tokens.x, tokens.mask)
