"""The next steps of a series.

Source: the flatten head of PatchTST (arXiv 2211.14730), and its instance normalisation that is undone at the end
(RevIN, Kim et al., ICLR 2022).
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from metaformer.base import Head
from metaformer.errors import MetaformerError
from metaformer.heads.pool import Pool, pool
from metaformer.layers.init import init_transformer
from metaformer.types import TokenBatch

Count = Annotated[int, Field(gt=0)]


class ForecastHead(Head):
    """TokenBatch [B T D] → values [B horizon·channels], step by step, in the series' own units.

    With `num_tokens`, that many tokens after the prefix are flattened, each with weights of its own, as a place in time
    needs; without, they are pooled. Mean and deviation that the tokenizer has taken out of a sample are put back.
    """

    predicts: ClassVar[Literal["values"]] = "values"

    def __init__(
        self,
        dim: int,
        *,
        horizon: Count,
        channels: Count = 1,
        num_tokens: Count | None = None,
        pool: Pool = "mean",
        drop: Annotated[float, Field(ge=0, lt=1)] = 0.0,
        scale: Annotated[float, Field(gt=0)] = 1.0,
    ) -> None:
        super().__init__()
        self.size = horizon * channels
        self.unit = float(scale)
        self.horizon, self.channels, self.num_tokens, self.pool = horizon, channels, num_tokens, pool
        self.norm = nn.LayerNorm(dim)
        self.drop = nn.Dropout(drop)
        self.linear = nn.Linear(dim * (num_tokens or 1), self.size)
        init_transformer(self)

    def forward(self, tokens: TokenBatch) -> Float[Tensor, "B C"]:
        out = self.linear(self.drop(self._read(tokens))).float().view(-1, self.horizon, self.channels)
        if tokens.units is None:
            return (out * self.unit).flatten(1)
        mean, std = (part.float().unsqueeze(1) for part in tokens.units)
        if mean.shape[2] != self.channels:
            raise MetaformerError(
                f"head forecast of {self.channels} channels", f"a series of {mean.shape[2]}", "set `channels` to that"
            )
        return (out * std + mean).flatten(1)

    def _read(self, tokens: TokenBatch) -> Float[Tensor, "B E"]:
        if self.num_tokens is None:
            return self.norm(pool(tokens, self.pool))
        n = tokens.num_prefix
        x, mask = self.norm(tokens.x[:, n:]), tokens.mask[:, n:]
        if x.shape[1] > self.num_tokens:
            raise MetaformerError(
                f"head forecast of {self.num_tokens} tokens", f"a series of {x.shape[1]}", "raise `num_tokens`"
            )
        x = x * mask.unsqueeze(-1)
        return F.pad(x, (0, 0, 0, self.num_tokens - x.shape[1])).flatten(1)
