"""What every rank holds a part of, put together on all of them, with gradients where there are any.

Source: the gathered features of CLIP (arXiv 2103.00020) and open_clip. Ours differs: ranks may hold different numbers
of rows and of tokens, as they do where each has another task's batch.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, distributed
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from metaformer.types import TokenBatch


def world() -> int:
    """How many ranks there are; 1 without a process group."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def rank() -> int:
    """Which of them this is."""
    return distributed.get_rank() if world() > 1 else 0


class _Everywhere(torch.autograd.Function):
    """x of equal shape on all ranks → [W *x]. The gradient of a rank's x is the sum of what all ranks make of it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        parts = [torch.empty_like(x) for _ in range(world())]
        distributed.all_gather(parts, x.contiguous())
        return torch.stack(parts)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        # Summed everywhere, where a scattering sum would do: gloo has none.
        grad = grad.contiguous().clone()
        distributed.all_reduce(grad)
        return grad[rank()]


def largest(count: int, device: torch.device) -> int:
    """The largest of all ranks' counts."""
    if world() == 1:
        return count
    most = torch.tensor([count], device=device)
    distributed.all_reduce(most, op=distributed.ReduceOp.MAX)
    return int(most)


def gather(rows: Shaped[Tensor, "B ..."], value: int = 0, most: int | None = None) -> Shaped[Tensor, "R ..."]:
    """The rows of all ranks, rank after rank, each rank's filled up with `value` to the largest number of them
    (`most`, where it is known): R = ranks x most. Called on all ranks alike."""
    if world() == 1:
        return rows
    most = largest(len(rows), rows.device) if most is None else most
    if len(rows) < most:
        rows = torch.cat([rows, rows.new_full((most - len(rows), *rows.shape[1:]), value)])
    boolean = rows.dtype == torch.bool
    out: Tensor = _Everywhere.apply(rows.to(torch.uint8) if boolean else rows)  # type: ignore[no-untyped-call]
    out = out.flatten(0, 1)
    return out.bool() if boolean else out


def gather_tokens(tokens: TokenBatch) -> TokenBatch:
    """Tokens of all ranks as one batch; rows and places that only fill up are masked out."""
    if world() == 1:
        return tokens
    x: Float[Tensor, "B T D"] = tokens.x
    ids: Int[Tensor, "B T"] | None = tokens.ids
    mask: Bool[Tensor, "B T"] = tokens.mask
    rows, length = largest(len(x), x.device), largest(x.shape[1], x.device)
    more = length - x.shape[1]
    return tokens._replace(
        x=gather(F.pad(x, (0, 0, 0, more)), most=rows),
        mask=gather(F.pad(mask, (0, more)), most=rows),
        ids=None if ids is None else gather(F.pad(ids, (0, more)), most=rows),
        positions=None,
        dense=None,
        units=None,
    )
