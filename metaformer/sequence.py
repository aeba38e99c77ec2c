"""What tells the streams of a joint pass apart: a learned vector each.

Source: ViLT (arXiv 2102.03334)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from metaformer.base import Weighted
from metaformer.errors import WeightsError
from metaformer.types import TokenBatch


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
