"""Several streams as one sequence, which one encoder reads.

Source: the joint passes of ViLT (arXiv 2102.03334), which tells its streams apart by a learned vector each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from metaformer.base import Weighted
from metaformer.errors import WeightsError
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


class TypeVectors(Weighted):
    """The streams of a pass, each with one learned vector added to all of its tokens.

    Parameter: `types` [n D], one row per stream in the order of the pass."""

    types: Float[Tensor, "n D"]

    def __init__(self, count: int, dim: int) -> None:
        super().__init__()
        self.types = nn.Parameter(nn.init.trunc_normal_(torch.empty(count, dim), std=0.02))

    def forward(self, tokens: Sequence[TokenBatch]) -> list[TokenBatch]:
        return [t.with_x(t.x + row.to(t.x.dtype)) for t, row in zip(tokens, self.types, strict=True)]

    def translate(self, source: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Out of ViLT and VLMo, which keep one row per kind of token: text first, then pictures."""
        if "types" in source:
            return source
        found = [key for key in source if key.endswith("token_type_embeddings.weight") and "text_embeddings" not in key]
        if len(found) != 1:
            text = f"{len(found)} tensors called token_type_embeddings.weight"
            raise WeightsError(f"type vectors {list(self.types.shape)}", text, "name other weights")
        table = source[found[0]]
        if len(table) < len(self.types):
            raise WeightsError(f"{len(self.types)} type vectors", f"{found[0]} has {len(table)}", "read fewer streams")
        return {"types": table[: len(self.types)]}
