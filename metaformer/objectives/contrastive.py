"""Contrast: embeddings of one sample's streams belong together, those of different samples do not.

Source: InfoNCE as in CLIP (arXiv 2103.00020): symmetric cross entropy over cosines, a learned log scale that stays
below ln 100.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from metaformer.base import Head, Objective
from metaformer.errors import MetaformerError
from metaformer.types import Batch

if TYPE_CHECKING:
    from metaformer.model import MetaFormer

LARGEST = math.log(100.0)
"""CLIP's bound of the log scale."""


class Contrastive(Objective):
    """Two heads that predict embeddings; the negatives of a sample are the others of its micro-batch on its rank.

    Samples that lack either stream do not count; a batch with one pair has nothing to tell apart and loss 0."""

    def __init__(
        self,
        heads: Mapping[str, Head],
        *,
        between: tuple[str, str],
        temperature: Annotated[float, Field(gt=0)] = 0.07,
    ) -> None:
        super().__init__()
        for name in between:
            if name not in heads:
                raise MetaformerError(f"objective contrastive reads head {name!r}", f"heads: {', '.join(heads)}")
            if heads[name].predicts != "embedding":
                found = f"it predicts {heads[name].predicts!r}"
                raise MetaformerError(f"objective contrastive reads head {name!r}", found, "use head projection")
        one, other = (heads[name] for name in between)
        if one.size != other.size:
            raise MetaformerError(
                f"contrast between {between}", f"sizes {one.size} and {other.size}", "make them equal"
            )
        self.between = between
        self.uses, self.targets, self.pairs = between, {}, (between,)
        # One axis: DeepSpeed cannot partition a parameter without any.
        self.log_scale = nn.Parameter(torch.full((1,), math.log(1 / temperature)))

    def forward(self, model: MetaFormer, batch: Batch) -> dict[str, Tensor]:
        one, other = (model.predict(batch, name) for name in self.between)
        rows = one.present & other.present
        scores = one.value.float() @ other.value.float().T * self.log_scale.clamp(max=LARGEST).exp()
        scores = scores.masked_fill(~rows[None, :] & ~torch.eye(len(rows), dtype=torch.bool, device=rows.device), -1e4)
        back = scores.T.masked_fill(~rows[None, :] & ~torch.eye(len(rows), dtype=torch.bool, device=rows.device), -1e4)
        goal = torch.arange(len(rows), device=rows.device)
        both = F.cross_entropy(scores, goal, reduction="none") + F.cross_entropy(back, goal, reduction="none")
        return {"contrast": (both * rows).sum() / 2 / rows.sum().clamp(min=1)}

    def count(self, model: MetaFormer, batch: Batch) -> dict[str, float]:
        present = [
            torch.stack([batch.present[stream] for stream in model.sources(name)]).any(dim=0) for name in self.between
        ]
        return {"contrast": float((present[0] & present[1]).sum())}
