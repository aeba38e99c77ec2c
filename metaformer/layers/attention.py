"""Multi-head attention: self or cross, masked by booleans (true = may attend), by whichever kernel is fastest here.

Source: Vaswani et al. 2017, arXiv 1706.03762; parameter layout of timm's `Attention` (one `qkv` projection).
Ours differs: rows that may attend to nothing give 0, not NaN. In half precision on CPU the scores are plain matrix
products of a few heads at a time, which stay in the cache, where the fused kernel is slow.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

# All constants from `python benchmarks/attention.py`, which prints what each kernel takes by dtype and length: on CPU
# the fused kernel is the fastest in fp32 at every length, and blocks are in half precision.
_HALF = (torch.bfloat16, torch.float16)
_BLOCK_BYTES = 2 << 20
"""Scores worked on at a time, about the second-level cache of a core; fewer than this are not cut at all."""
_KEEP_CELLS = 2048 * 2048
"""Up to this many scores per head the probabilities are kept for the backward pass, beyond they are computed again:
a tenth to a quarter more time, and memory that grows with the length, not with its square."""


def attend(
    q: Float[Tensor, "B H T K"],
    k: Float[Tensor, "B H S K"],
    v: Float[Tensor, "B H S K"],
    mask: Bool[Tensor, "#B #H #T S"] | None = None,
    bias: Float[Tensor, "#B #H #T S"] | None = None,
    dropout: float = 0.0,
) -> Float[Tensor, "B H T K"]:
    """Softmax(q kᵀ / √K + bias) v over the keys that `mask` allows; rows that allow none give 0."""
    if q.device.type != "meta" and q.dtype != torch.float64 and torch.is_autocast_enabled(q.device.type):
        # As autocast does before matrix products: it does not look inside a `Function`.
        dtype = torch.get_autocast_dtype(q.device.type)
        q, k, v = q.to(dtype), k.to(dtype), v.to(dtype)
    if q.device.type == "cpu" and q.dtype in _HALF:
        if bias is None and not dropout and q.shape[:3].numel() * k.shape[2] * q.element_size() > _BLOCK_BYTES:
            out: Tensor = _Blocked.apply(q, k, v, mask)  # type: ignore[no-untyped-call]
            return out
        weights = attention_weights(q, k, mask, bias)
        return F.dropout(weights, dropout).to(v.dtype) @ v
    if mask is None:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout)
    # A row that allows nothing is NaN in some fused kernels: let it attend to everything, then set it to 0.
    some = mask.any(dim=-1, keepdim=True)
    allowed = mask | ~some
    merged: Tensor = allowed if bias is None else bias.masked_fill(~allowed, float("-inf"))
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=merged, dropout_p=dropout)
    return out.masked_fill(~some, 0.0)


def attention_weights(
    q: Float[Tensor, "B H T K"],
    k: Float[Tensor, "B H S K"],
    mask: Bool[Tensor, "#B #H #T S"] | None = None,
    bias: Float[Tensor, "#B #H #T S"] | None = None,
) -> Float[Tensor, "B H T S"]:
    """The attention probabilities themselves; rows that may attend to nothing are 0."""
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    if bias is not None:
        scores = scores + bias
    if mask is None:
        return scores.softmax(dim=-1)
    # The smallest finite number instead of -inf: a row of -inf has NaN gradients even where its output is unused.
    weights = scores.masked_fill(~mask, torch.finfo(scores.dtype).min).softmax(dim=-1)
    return weights.masked_fill(~mask, 0.0)


class _Blocked(torch.autograd.Function):
    """Attention in blocks of a few heads; scores live one block at a time, in memory that the next block uses again."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        # Heads are strided views of one projection, and a product of matrices copies what is strided: once, here,
        # and not in every block of both passes.
        q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
        trained, cells = any(ctx.needs_input_grad), q.shape[2] * k.shape[2]
        kept = q.new_empty(*q.shape[:3], k.shape[2]) if trained and cells <= _KEEP_CELLS else None
        ctx.save_for_backward(q, k, v, mask, kept)
        return _forward(q, k, v, mask, kept)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, mask, kept = ctx.saved_tensors
        return *_backward(q, k, v, mask, kept, grad), None


def _forward(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, kept: Tensor | None) -> Tensor:
    """The output; the probabilities go into `kept` where it is given."""
    out = _token_major(q, v.shape[3])
    scores = _room(q, k)
    spare = torch.empty_like(scores) if kept is None else None
    for at in _blocks(q, k):
        weights = _weights(q, k, mask, at, scores, kept, spare)
        out[at] = torch.bmm(weights, _flat(v[at])).view(out[at].shape)
    return out


def _backward(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, kept: Tensor | None, grad: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    scale = q.shape[3] ** -0.5
    dq, dk, dv = (_token_major(x, x.shape[3]) for x in (q, k, v))
    room = _room(q, k)
    spare = torch.empty_like(room) if kept is None else None
    for at in _blocks(q, k):
        g = _flat(grad[at])
        weights = kept[at].flatten(0, 1) if kept is not None else _weights(q, k, mask, at, room, None, spare)
        dv[at] = torch.bmm(weights.transpose(1, 2), g).view(dv[at].shape)
        ds = torch.bmm(g, _flat(v[at]).transpose(1, 2), out=room[: len(g)])
        # Where the mask forbids, the probability is 0 and so is what comes out here.
        torch._softmax_backward_data(ds, weights, -1, ds.dtype, grad_input=ds)
        dq[at] = _scaled(ds, _flat(k[at]), scale).view(dq[at].shape)
        dk[at] = _scaled(ds.transpose(1, 2), _flat(q[at]), scale).view(dk[at].shape)
    return dq, dk, dv


def _weights(
    q: Tensor, k: Tensor, mask: Tensor | None, at: _Part, scores: Tensor, kept: Tensor | None, spare: Tensor | None
) -> Tensor:
    """Probabilities of a part, written into `kept` or else `spare`; `scores` is where their logits go."""
    queries = _flat(q[at])
    scores = scores[: len(queries)]
    out = kept[at].flatten(0, 1) if spare is None else spare[: len(queries)]  # type: ignore[index]
    _scaled(queries, _flat(k[at]).transpose(1, 2), q.shape[3] ** -0.5, out=scores)
    if mask is None:
        return torch.softmax(scores, -1, out=out)
    forbidden = _flat(~mask.expand(*q.shape[:2], -1, -1)[at])
    torch.softmax(scores.masked_fill_(forbidden, torch.finfo(scores.dtype).min), -1, out=out)
    return out.masked_fill_(forbidden, 0.0)


def _scaled(a: Tensor, b: Tensor, scale: float, out: Tensor | None = None) -> Tensor:
    return torch.baddbmm(a.new_empty(1, 1, 1), a, b, beta=0, alpha=scale, out=out)


_Part = tuple[slice, slice]
"""Some samples and some of their heads: all heads of a few samples, or a few heads of one."""


def _blocks(q: Tensor, k: Tensor) -> Iterator[_Part]:
    batch, heads = q.shape[:2]
    fit = _fit(q, k)
    samples = max(fit // heads, 1)
    for i in range(0, batch, samples):
        for h in range(0, heads, min(fit, heads)):
            yield slice(i, i + samples), slice(h, h + fit)


def _fit(q: Tensor, k: Tensor) -> int:
    """How many heads' scores fill a block."""
    return max(_BLOCK_BYTES // max(q.shape[2] * k.shape[2] * q.element_size(), 1), 1)


def _room(q: Tensor, k: Tensor) -> Tensor:
    """Scores of one block."""
    fit, heads = _fit(q, k), q.shape[1]
    return q.new_empty(min(max(fit // heads, 1), q.shape[0]) * min(fit, heads), q.shape[2], k.shape[2])


def _flat(part: Tensor) -> Tensor:
    return part.reshape(-1, *part.shape[2:]) if part.numel() else part.flatten(0, 1)


def _token_major(x: Tensor, size: int) -> Tensor:
    """Room for [B H T size] in the memory order [B T H size]: joining the heads needs no copy then."""
    return x.new_empty(x.shape[0], x.shape[2], x.shape[1], size).transpose(1, 2)


def key_mask(mask: Bool[Tensor, "B S"], causal: bool = False) -> Bool[Tensor, "#B 1 #S S"] | None:
    """Padding mask → attention mask; None where nothing is padded, which spares a pass over every score matrix.
    `causal`: of a sequence's tokens to themselves, and none sees a later one."""
    whole = mask.is_meta or (not torch.compiler.is_compiling() and bool(mask.all()))
    keys = None if whole else mask[:, None, None, :]
    if not causal:
        return keys
    before = torch.ones(1, 1, mask.shape[1], mask.shape[1], dtype=torch.bool, device=mask.device).tril()
    return before if keys is None else before & keys


class Attention(nn.Module):
    """[B T D] → [B T D]; with `context_dim` keys and values come from a context [B S context_dim].

    Parameters: `qkv` (rows q, k, v) for self-attention, `q` and `kv` for cross-attention, and `proj`; with `bias_kv`
    also `bias_k` and `bias_v` [1 1 D], one learned key and value that every query may attend to, as in ImageBind and in
    `torch.nn.MultiheadAttention(add_bias_kv=True)`.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        qkv_bias: bool = True,
        context_dim: int | None = None,
        bias_kv: bool = False,
        drop: float = 0.0,
    ) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"dim {dim} is not divisible by num_heads {num_heads}")
        self.num_heads = num_heads
        self.drop = drop
        if context_dim is None:
            self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        else:
            self.q = nn.Linear(dim, dim, bias=qkv_bias)
            self.kv = nn.Linear(context_dim, 2 * dim, bias=qkv_bias)
        self.cross = context_dim is not None
        self.proj = nn.Linear(dim, dim)
        self.bias_k = nn.Parameter(nn.init.xavier_normal_(torch.empty(1, 1, dim))) if bias_kv else None
        self.bias_v = nn.Parameter(nn.init.xavier_normal_(torch.empty(1, 1, dim))) if bias_kv else None

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        mask: Bool[Tensor, "#B #H #T S"] | None = None,
        bias: Float[Tensor, "#B #H #T S"] | None = None,
        context: Float[Tensor, "B S E"] | None = None,
    ) -> Float[Tensor, "B T D"]:
        """`context` is required for cross-attention and refused otherwise. `mask` and `bias` are without the column of
        the learned key."""
        q, k, v = self.project(x, context)
        if self.bias_k is not None:
            mask = None if mask is None else F.pad(mask, (0, 1), value=True)
            bias = None if bias is None else F.pad(bias, (0, 1))
        out = attend(q, k, v, mask, bias, self.drop if self.training else 0.0)
        return self.proj(out.transpose(1, 2).flatten(2))

    def project(
        self, x: Float[Tensor, "B T D"], context: Float[Tensor, "B S E"] | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values per head: what `attention_weights` needs to show where a layer looks. A learned key
        and value come last."""
        if self.cross != (context is not None):
            raise ValueError("context goes with cross-attention, and only with it")
        # Unbound before the heads are moved: so the backward pass joins the three gradients in the layout of the
        # projection's output and spares it a copy.
        if context is None:
            q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).unbind(-3)
        else:
            q = self.q(x).unflatten(-1, (self.num_heads, -1))
            k, v = self.kv(context).unflatten(-1, (2, self.num_heads, -1)).unbind(-3)
        if self.bias_k is not None and self.bias_v is not None:
            k, v = self._append(k, self.bias_k), self._append(v, self.bias_v)
        return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)

    def _append(self, x: Float[Tensor, "B S H K"], learned: Float[Tensor, "1 1 D"]) -> Float[Tensor, "B S1 H K"]:
        row = learned.to(x.dtype).view(1, 1, self.num_heads, -1).expand(x.shape[0], -1, -1, -1)
        return torch.cat([x, row], dim=1)
