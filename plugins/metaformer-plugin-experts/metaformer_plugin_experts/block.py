"""A block of experts: self-attention for all tokens, and an MLP with its norm for those of each expert.

Source: the blocks of VLMo (arXiv 2111.02358), which calls them mixture-of-modality-experts; attention as in BEiT (arXiv
2106.08254).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from metaformer.layers import MLP, Attention, DropPath, attend
from metaformer.layers.mlp import Activation

Route = tuple[tuple[str, int], ...]
"""Which expert takes how many tokens, from the first to the last."""


class UnkeyedAttention(nn.Module):
    """Self-attention [B T D] → [B T D] with a bias for queries and values and none for keys.

    Parameters: `qkv` (rows q, k, v; without bias), `q_bias` [D], `v_bias` [D], `proj`."""

    def __init__(self, dim: int, num_heads: int, *, drop: float = 0.0) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"dim {dim} is not divisible by num_heads {num_heads}")
        self.num_heads, self.drop = num_heads, drop
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(dim))
        self.v_bias = nn.Parameter(torch.zeros(dim))
        self.proj = nn.Linear(dim, dim)

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        mask: Bool[Tensor, "#B #H #T T"] | None = None,
        bias: Float[Tensor, "#B #H #T T"] | None = None,
    ) -> Float[Tensor, "B T D"]:
        qkv = self.qkv(x)
        # Added outside of the projection, which may have got a low-rank update in the meantime.
        qkv = qkv + torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias]).to(qkv.dtype)
        q, k, v = qkv.unflatten(-1, (3, self.num_heads, -1)).unbind(-3)
        drop = self.drop if self.training else 0.0
        out = attend(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), mask, bias, drop)
        return self.proj(out.transpose(1, 2).flatten(2))


class ExpertBlock(nn.Module):
    """[B T D] → [B T D]: x + attention(norm1 x), then y + mlp(norm2 y) by the expert that a token belongs to.

    Parameters: `norm1`, `attn`, `norm2.EXPERT`, `mlp.EXPERT.{fc1,fc2}`, and with LayerScale `gamma1` and `gamma2`,
    which all experts share. Stochastic depth is drawn anew for each stretch of an expert's tokens.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        experts: Sequence[str],
        *,
        mlp_ratio: float,
        norm_eps: float,
        activation: Activation,
        key_bias: bool,
        drop: float,
        drop_path: float,
        layer_scale: float | None,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=norm_eps)
        self.attn = Attention(dim, num_heads, drop=drop) if key_bias else UnkeyedAttention(dim, num_heads, drop=drop)
        self.norm2 = nn.ModuleDict({name: nn.LayerNorm(dim, eps=norm_eps) for name in experts})
        hidden = int(dim * mlp_ratio)
        self.mlp = nn.ModuleDict({name: MLP(dim, hidden, activation=activation, drop=drop) for name in experts})
        self.drop_path = DropPath(drop_path)
        self.gamma1 = None if layer_scale is None else nn.Parameter(torch.full((dim,), layer_scale))
        self.gamma2 = None if layer_scale is None else nn.Parameter(torch.full((dim,), layer_scale))

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        mask: Bool[Tensor, "#B #H #T T"] | None,
        bias: Float[Tensor, "1 H T T"] | None,
        route: Route,
    ) -> Float[Tensor, "B T D"]:
        """`route`: the experts of all T tokens."""
        y = self.attn(self.norm1(x), mask, bias)
        x = x + self.drop_path(y if self.gamma1 is None else y * self.gamma1)
        if len(route) == 1:
            return self._feed(x, route[0][0])
        pieces = x.split([length for _, length in route], dim=1)
        return torch.cat([self._feed(piece, name) for piece, (name, _) in zip(pieces, route, strict=True)], dim=1)

    def _feed(self, x: Float[Tensor, "B T D"], name: str) -> Float[Tensor, "B T D"]:
        y = self.mlp[name](self.norm2[name](x))
        return x + self.drop_path(y if self.gamma2 is None else y * self.gamma2)
