"""The same batch, looked at differently: with other contents in some streams, or with rows put beside other rows.

What a change does not touch is computed once, for the batch itself, and shared by every view of it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import cast

import torch
from jaxtyping import Int
from torch import Tensor

from metaformer.ranks import gather_tokens
from metaformer.types import Batch, Raw, TokenBatch, View

Compute = Callable[[Batch, str], TokenBatch]
"""Something of a batch by name: `MetaFormer.tokens` or `MetaFormer.stream`."""


def altered(batch: Batch, streams: Mapping[str, Raw]) -> Batch:
    """The batch with other raw tensors in some streams; a sample that lacks a stream goes on lacking it."""
    return replace(batch, streams={**batch.streams, **streams}, memo={}, view=View(batch, changed=frozenset(streams)))


def repaired(batch: Batch, rows: Mapping[str, Int[Tensor, N]], everywhere: bool = False) -> Batch:
    """A batch of N samples, each put together of rows of this one: stream → which. Streams that move together have to
    be given one and the same tensor. `everywhere`: rows are counted over the batches of all ranks."""
    count = len(next(iter(rows.values())))
    return Batch(
        batch.task,
        streams={},
        present={},
        targets={},
        ids=[""] * count,
        view=View(batch, rows=dict(rows), everywhere=everywhere),
    )


def inherited(batch: Batch, name: str, sources: Collection[str], compute: Compute) -> TokenBatch | None:
    """What a view has from its origin, given the raw streams that `name` is made of; None where it has to be computed
    from what changed."""
    view = batch.view
    if view is None:
        return None
    if not view.rows:
        return None if view.changed & set(sources) else compute(view.origin, name)
    rows = [view.rows[source] for source in sources]
    if any(row is not rows[0] for row in rows):
        return None
    return select(_pool(view, name, compute), rows[0])


def _pool(view: View, name: str, compute: Compute) -> TokenBatch:
    if not view.everywhere:
        return compute(view.origin, name)
    key = (f"everywhere/{compute.__name__}", name)
    if key not in view.origin.memo:
        view.origin.memo[key] = gather_tokens(compute(view.origin, name))
    return cast(TokenBatch, view.origin.memo[key])


def select(tokens: TokenBatch, rows: Int[Tensor, N]) -> TokenBatch:
    """Some rows of a batch of tokens, in the order given; a row may come twice."""
    positions = tokens.positions
    if positions is not None and positions.dim() == 3 and len(positions) == len(tokens.x) > 1:
        positions = positions[rows]
    return tokens._replace(
        x=tokens.x[rows],
        mask=tokens.mask[rows],
        ids=None if tokens.ids is None else tokens.ids[rows],
        positions=positions,
        dense=None,
        units=None if tokens.units is None else (tokens.units[0][rows], tokens.units[1][rows]),
    )


def chunks(batch: Batch, size: int) -> list[Batch]:
    """The batch cut into pieces of at most so many samples, for passes over a piece at a time."""
    out = []
    for start in range(0, len(batch), size):
        at = slice(start, start + size)
        out.append(
            replace(
                batch,
                streams={name: {key: t[at] for key, t in raw.items()} for name, raw in batch.streams.items()},
                present={name: p[at] for name, p in batch.present.items()},
                targets={name: t[at] for name, t in batch.targets.items()},
                ids=batch.ids[at],
                bad=[],
                memo={},
                view=None,
            )
        )
    return out


def equal_rows(numbers: Int[Tensor, M], others: Int[Tensor, N]) -> Tensor:
    """[M N] whether two identities are known and the same."""
    return (numbers[:, None] == others[None, :]) & (numbers >= 0)[:, None]


def text_numbers(tokens: TokenBatch) -> Int[Tensor, B]:
    """A number per row that is the same where the ids of its real tokens are; -1 where there are no ids.

    A sum of ids times fixed odd numbers, modulo 2^63: two texts of one batch share it by chance once in 10^18 times."""
    if tokens.ids is None:
        return tokens.mask.new_full((len(tokens.mask),), -1, dtype=torch.int64)
    places = torch.arange(1, tokens.ids.shape[1] + 1, device=tokens.ids.device, dtype=torch.int64)
    factors = places * 0x5851F42D4C957F2D + 0x14057B7EF767814F  # wraps around, as it should
    factors = (factors ^ (factors >> 29)) * 0x2545F4914F6CDD1D | 1
    total = ((tokens.ids + 1) * tokens.mask * factors).sum(dim=1)
    return total & 0x7FFF_FFFF_FFFF_FFFF
