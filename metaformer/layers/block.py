"""A transformer block: attention and MLP, each in a residual that is pre- or post-norm, scaled, dropped or gated."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from metaformer.layers.attention import Attention
from metaformer.layers.mlp import MLP, Activation


class DropPath(nn.Module):
    """Drops the whole residual branch of a sample (stochastic depth, arXiv 1603.09382), rescaling the others."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        if not self.training or self.rate == 0:
            return x
        keep = torch.empty(x.shape[0], 1, 1, device=x.device, dtype=x.dtype).bernoulli_(1 - self.rate)
        return x * keep / (1 - self.rate)


class Block(nn.Module):
    """[B T D] → [B T D]. `pre`: x + f(norm x) (ViT); `post`: norm(x + f(x)) (BERT).

    With `context_dim`, cross-attention to a context [B S context_dim] stands between self-attention and MLP (ALBEF).
    `drop` is of attention's probabilities and of the MLP's output; post-norm also of what attention gives, as in BERT.
    `bias_kv` is the self-attention's.

    Parameter names are timm's: `norm1, attn.{qkv,proj}, norm2, mlp.{fc1,fc2}`; `gamma1, gamma2` with LayerScale; and
    `norm_cross, cross.{q,kv,proj}, gamma_cross`.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        mlp_ratio: float = 4.0,
        norm: Literal["pre", "post"] = "pre",
        norm_eps: float = 1e-5,
        activation: Activation = "gelu",
        qkv_bias: bool = True,
        drop: float = 0.0,
        drop_path: float = 0.0,
        layer_scale: float | None = None,
        context_dim: int | None = None,
        bias_kv: bool = False,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=norm_eps)
        self.attn = Attention(dim, num_heads, qkv_bias=qkv_bias, bias_kv=bias_kv, drop=drop)
        self.norm_cross: nn.LayerNorm | None = None
        self.cross: Attention | None = None
        if context_dim is not None:
            self.norm_cross = nn.LayerNorm(dim, eps=norm_eps)
            self.cross = Attention(dim, num_heads, qkv_bias=qkv_bias, context_dim=context_dim, drop=drop)
        self.norm2 = nn.LayerNorm(dim, eps=norm_eps)
        self.mlp = MLP(dim, int(dim * mlp_ratio), activation=activation, drop=drop)
        self.drop = nn.Dropout(drop if norm == "post" else 0.0)
        self.drop_path = DropPath(drop_path)
        self.pre = norm == "pre"
        self.gamma1 = None if layer_scale is None else nn.Parameter(torch.full((dim,), layer_scale))
        self.gamma2 = None if layer_scale is None else nn.Parameter(torch.full((dim,), layer_scale))
        scaled = layer_scale if context_dim is not None else None
        self.gamma_cross = None if scaled is None else nn.Parameter(torch.full((dim,), scaled))

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        mask: Bool[Tensor, "#B #H #T T"] | None = None,
        bias: Float[Tensor, "#B #H #T T"] | None = None,
        context: Float[Tensor, "B S E"] | None = None,
        context_mask: Bool[Tensor, "#B #H #T S"] | None = None,
    ) -> Float[Tensor, "B T D"]:
        """`context` is required with cross-attention and refused without. Tokens that `context_mask` allows nothing
        pass as if there were no cross-attention."""
        if (self.cross is None) != (context is None):
            raise ValueError("context goes with cross-attention, and only with it")
        x = self._residual(x, self.norm1, lambda y: self.drop(self.attn(y, mask, bias)), self.gamma1)
        if self.cross is not None and self.norm_cross is not None:
            cross = self.cross
            y = self._residual(
                x, self.norm_cross, lambda y: self.drop(cross(y, context_mask, context=context)), self.gamma_cross
            )
            x = y if context_mask is None else torch.where(_some(context_mask), y, x)
        return self._residual(x, self.norm2, self.mlp, self.gamma2)

    def _residual(
        self, x: Tensor, norm: nn.LayerNorm, branch: Callable[[Tensor], Tensor], gamma: Tensor | None
    ) -> Tensor:
        y = branch(norm(x) if self.pre else x)
        if gamma is not None:
            y = y * gamma
        x = x + self.drop_path(y)
        return x if self.pre else norm(x)


def _some(mask: Bool[Tensor, "B H T S"]) -> Bool[Tensor, "B T 1"]:
    """Which tokens may attend to anything. Attention to nothing is 0, but the bias and the norm that follow it would
    still move a token."""
    return mask.any(dim=3).any(dim=1).unsqueeze(-1)
