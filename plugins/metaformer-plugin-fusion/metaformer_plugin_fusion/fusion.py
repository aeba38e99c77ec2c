"""Bridge `fusion`: the tokens of one stream read those of another by cross-attention.

Source: the multimodal half of ALBEF's text encoder (arXiv 2107.07651): BERT's layers with cross-attention between
self-attention and MLP. BLIP (arXiv 2201.12086) has the same.
Ours differs: the context may have any width, and a sample that lacks it goes through BERT's layers as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor, nn

from metaformer.base import Bridge
from metaformer.errors import MetaformerError, WeightsError
from metaformer.layers import Block
from metaformer.layers.attention import key_mask
from metaformer.layers.init import init_transformer, width_std
from metaformer.layers.mlp import Activation
from metaformer.types import TokenBatch
from metaformer_plugin_fusion.published import translate_blocks

ROLES, OTHER = ("queries", "context"), "other"
Count = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0, lt=1)]


class FusionBridge(Bridge):
    """Streams `queries` [B T D] and `context` [B S E] → the tokens of `queries` with what they read in the context.

    Ids, mask, grid, prefix and modality are those of `queries`. Every `cross_every`-th block has cross-attention,
    beginning with the first. `causal`: no query sees a later one, as in a decoder (ALBEF's answers). A sample without
    context passes as if no block had any; one without queries has no real token.

    With a third stream `other` [B R E] blocks take turns: even ones read `context`, odd ones `other`, and each two have
    one and the same projection to keys and values, as ALBEF for two pictures (NLVR2); `depth` counts all of them.
    """

    def __init__(
        self,
        widths: Mapping[str, int],
        *,
        depth: Count = 6,
        num_heads: Count = 12,
        mlp_ratio: Annotated[float, Field(gt=0)] = 4.0,
        norm: Literal["post", "pre"] = "post",
        norm_eps: Annotated[float, Field(gt=0)] = 1e-12,
        activation: Activation = "gelu",
        drop: Share = 0.0,
        drop_path: Share = 0.0,
        cross_every: Count = 1,
        causal: bool = False,
    ) -> None:
        super().__init__()
        if set(widths) - {OTHER} != set(ROLES):
            asked, found = f"bridge 'fusion' reads {' and '.join(ROLES)}", f"roles: {', '.join(widths) or 'none'}"
            raise MetaformerError(asked, found, "reads: {queries: STREAM, context: STREAM}, and `other`, if wanted")
        self.turns = OTHER in widths
        if self.turns and (depth % 2 or cross_every > 1 or widths[OTHER] != widths["context"]):
            found = f"depth {depth}, cross_every {cross_every}, widths {widths['context']} and {widths[OTHER]}"
            do = "give an even depth, cross_every: 1, and two contexts of one width"
            raise MetaformerError("blocks that read `context` and `other` in turn", found, do)
        self.dim = widths["queries"]
        self.norm, self.causal = norm, causal
        self.crosses = tuple(i % cross_every == 0 for i in range(depth))
        # Stochastic depth grows linearly with depth, as in the core's encoder.
        rates = [drop_path * i / max(depth - 1, 1) for i in range(depth)]
        self.blocks = nn.ModuleList(
            Block(
                self.dim,
                num_heads,
                mlp_ratio=mlp_ratio,
                norm=norm,
                norm_eps=norm_eps,
                activation=activation,
                drop=drop,
                drop_path=rate,
                context_dim=widths["context"] if crosses else None,
            )
            for rate, crosses in zip(rates, self.crosses, strict=True)
        )
        if self.turns:
            for even, odd in zip(self.blocks[::2], self.blocks[1::2], strict=True):
                odd.cross.kv = even.cross.kv  # type: ignore[union-attr]
        init_transformer(self, width_std(self.dim))

    def forward(self, streams: Mapping[str, TokenBatch]) -> TokenBatch:
        queries, contexts = streams["queries"], [streams[role] for role in ("context", OTHER) if role in streams]
        x, mask = queries.x, key_mask(queries.mask, self.causal)
        seen = [(tokens.x, key_mask(tokens.mask)) for tokens in contexts]
        for i, (block, crosses) in enumerate(zip(self.blocks, self.crosses, strict=True)):
            there, there_mask = seen[i % len(seen)]
            x = block(x, mask, context=there, context_mask=there_mask) if crosses else block(x, mask)
        return queries.with_x(x)

    def translate(self, source: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Out of BERT, BLIP's text models, ALBEF or torchmultimodal's ALBEF; names of ours pass unchanged.

        BERT has no cross-attention: its parameters are then missing, which the recipe's `allow_missing` may allow.
        With `other`, half as many blocks are taken for two each."""
        found = translate_blocks(source, len(self.blocks), self.turns)
        if found is None:
            return source
        if self.norm != "post":
            raise WeightsError(
                "weights of a fusion", "BERT's layers are post-norm, the recipe's pre-norm", "norm: post"
            )
        return found
