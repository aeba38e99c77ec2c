"""The shared encoder: a stack of transformer blocks and, at will, a norm before and after.

Source: ViT (arXiv 2010.11929); Meta-Transformer's shared encoder is this one with both norms off.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from torch import nn

from metaformer.base import Encoder
from metaformer.layers import Block
from metaformer.layers.attention import key_mask
from metaformer.layers.init import init_transformer, width_std
from metaformer.layers.mlp import Activation
from metaformer.types import TokenBatch

Share = Annotated[float, Field(ge=0, lt=1)]


class TransformerEncoder(Encoder):
    """TokenBatch [B T D] → TokenBatch [B T D]; padding changes nothing.

    `causal`: a token sees itself and those before it, as in CLIP's text tower. `bias_kv`: every block has one learned
    key and value beside those of the tokens, as ImageBind's towers for sound, depth, heat and motion.
    `positions_each_block` adds what says where a token is before every block again, as for point clouds in
    Meta-Transformer.
    """

    def __init__(
        self,
        *,
        dim: Annotated[int, Field(gt=0)] = 768,
        depth: Annotated[int, Field(ge=0)] = 12,
        num_heads: Annotated[int, Field(gt=0)] = 12,
        mlp_ratio: Annotated[float, Field(gt=0)] = 4.0,
        norm: Literal["pre", "post"] = "pre",
        norm_eps: Annotated[float, Field(gt=0)] = 1e-5,
        activation: Activation = "gelu",
        qkv_bias: bool = True,
        norm_in: bool = False,
        norm_out: bool = False,
        drop: Share = 0.0,
        drop_path: Share = 0.0,
        layer_scale: float | None = None,
        positions_each_block: bool = False,
        causal: bool = False,
        bias_kv: bool = False,
    ) -> None:
        super().__init__()
        self.dim = dim
        self.causal = causal
        self.positions_each_block = positions_each_block
        self.norm_in = nn.LayerNorm(dim, eps=norm_eps) if norm_in else None
        # Stochastic depth grows linearly with depth, as in timm.
        rates = [drop_path * i / max(depth - 1, 1) for i in range(depth)]
        self.blocks = nn.ModuleList(
            Block(
                dim,
                num_heads,
                mlp_ratio=mlp_ratio,
                norm=norm,
                norm_eps=norm_eps,
                activation=activation,
                qkv_bias=qkv_bias,
                drop=drop,
                drop_path=rate,
                layer_scale=layer_scale,
                bias_kv=bias_kv,
            )
            for rate in rates
        )
        self.norm_out = nn.LayerNorm(dim, eps=norm_eps) if norm_out else None
        init_transformer(self, width_std(dim))

    def forward(self, tokens: TokenBatch) -> TokenBatch:
        x, mask = tokens.x, key_mask(tokens.mask, self.causal)
        if self.norm_in is not None:
            x = self.norm_in(x)
        for i, block in enumerate(self.blocks):
            # The first block's are in the tokens already.
            if self.positions_each_block and i > 0 and tokens.positions is not None:
                x = x + tokens.positions.to(x.dtype)
            x = block(x, mask)
        if self.norm_out is not None:
            x = self.norm_out(x)
        return tokens.with_x(x)
