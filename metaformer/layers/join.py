"""Several streams as one sequence, which one encoder reads.

Source: the joint passes of ViLT (arXiv 2102.03334).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from metaformer.types import TokenBatch


def join(tokens: Sequence[TokenBatch]) -> TokenBatch:
    """Streams as one sequence [B T1+T2+.. D], in order; a single one passes as it is."""
    if len(tokens) == 1:
        return tokens[0]
    ids = [t.ids for t in tokens]
    positions = [_batched_positions(t) for t in tokens]
    return TokenBatch(
        x=torch.cat([t.x for t in tokens], dim=1),
        mask=torch.cat([t.mask for t in tokens], dim=1),
        modality="+".join(t.modality for t in tokens),
        ids=None if any(i is None for i in ids) else torch.cat(cast(list[Tensor], ids), dim=1),
        num_prefix=tokens[0].num_prefix,
        positions=None if any(p is None for p in positions) else torch.cat(cast(list[Tensor], positions), dim=1),
        joined=tuple(part for t in tokens for part in t.parts),
        expert=tokens[0].expert,
    )


def _batched_positions(tokens: TokenBatch) -> Tensor | None:
    if tokens.positions is None:
        return None
    return tokens.positions.expand_as(tokens.x)
