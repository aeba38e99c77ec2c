"""Bridge `concatenate`: streams one after the other as one sequence, or their vectors side by side as one token.

Source: the sequences of ViLT (arXiv 2102.03334), and its head for two pictures (NLVR2), which reads their vectors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from metaformer.base import Bridge, masked_mean
from metaformer.errors import MetaformerError, WeightsError
from metaformer.layers.init import init_transformer
from metaformer.layers.join import join
from metaformer.types import TokenBatch


class ConcatenateBridge(Bridge):
    """Streams of any roles → one stream, in the recipe's order of roles.

    `by: tokens`: all tokens [B T1+T2+.. D], the streams being of one width. The places of a stream that a sample lacks
    are masked and 0, the first one's class token among them: where that may happen, let heads read the mean.

    `by: features`: one token [B 1 D1+D2+..] per sample, made of a vector per stream: by `pool` its class token, or the
    mean of its real tokens, or (`auto`) the class token where it has one. `pooler` sends each through BERT's pooler,
    linear and tanh, one for all roles. The vector of a stream that a sample lacks is 0.

    A sample that lacks every stream has no real token.
    """

    def __init__(
        self,
        widths: Mapping[str, int],
        *,
        by: Literal["tokens", "features"] = "tokens",
        pool: Literal["auto", "cls", "mean"] = "auto",
        pooler: bool = False,
    ) -> None:
        super().__init__()
        if not widths:
            raise MetaformerError("bridge 'concatenate'", "no roles", "reads: {left: STREAM, right: STREAM}")
        self.roles = tuple(widths)
        self.by = by
        self.pool = pool
        if by == "tokens" and (pooler or pool != "auto"):
            raise MetaformerError("bridge 'concatenate' by tokens", "a pool or pooler", "by: features")
        if (by == "tokens" or pooler) and len(set(widths.values())) != 1:
            asked = "one pooler for all roles" if pooler else "streams in one sequence have one width"
            raise MetaformerError(asked, f"widths: {dict(widths)}", "pooler: false" if pooler else "by: features")
        self.dim = sum(widths.values()) if by == "features" else next(iter(widths.values()))
        self.pooler: nn.Linear | None = None
        if pooler:
            width = next(iter(widths.values()))
            self.pooler = nn.Linear(width, width)
            init_transformer(self)

    def forward(self, streams: Mapping[str, TokenBatch]) -> TokenBatch:
        tokens = [streams[role] for role in self.roles]
        return _sequence(tokens) if self.by == "tokens" else self._token(tokens)

    def _token(self, tokens: Sequence[TokenBatch]) -> TokenBatch:
        x = torch.cat([self._vector(t) for t in tokens], dim=1)
        there = torch.stack([t.present for t in tokens]).any(dim=0)
        return TokenBatch(x[:, None], there[:, None], _name(tokens), num_prefix=1)

    def _vector(self, tokens: TokenBatch) -> Float[Tensor, "B D"]:
        first = self.pool == "cls" or (self.pool == "auto" and tokens.num_prefix > 0)
        x = tokens.x[:, 0] if first else masked_mean(tokens.x, tokens.mask)
        if self.pooler is not None:
            x = torch.tanh(self.pooler(x))
        return x.masked_fill(~tokens.present[:, None], 0.0)

    def translate(self, source: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Out of BERT, ViLT and VLMo, which call it `pooler.dense`."""
        found = [key for key in source if f".{key}".endswith(".pooler.dense.weight")]
        if not found:
            return source
        if len(found) > 1:
            raise WeightsError(
                "weights of a pooler", f"{len(found)} of them: {', '.join(found)}", "name a part by #PART"
            )
        prefix = found[0].removesuffix("weight")
        return {f"pooler.{part}": source[prefix + part] for part in ("weight", "bias") if prefix + part in source}


def _sequence(tokens: Sequence[TokenBatch]) -> TokenBatch:
    joined = join(tokens)
    return joined.with_x(joined.x.masked_fill(~joined.mask[:, :, None], 0.0))


def _name(tokens: Sequence[TokenBatch]) -> str:
    return "+".join(t.modality for t in tokens)
