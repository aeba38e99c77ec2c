"""Retrieval: is the sample that belongs to a query among the nearest?

Source: recall at k as CLIP and ALBEF report it, over the whole validation set.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from metaformer.base import Metric

BLOCK = 1024
"""Queries compared at a time."""


class Recall(Metric):
    """Share of queries whose own partner is among the `top_k` nearest, 0 to 1. `there` asks with the first head of the
    pair, `back` with the second, `both` is their mean. Equal embeddings count half for and half against."""

    higher_is_better: ClassVar[bool] = True
    of_pairs: ClassVar[bool] = True

    def __init__(
        self,
        *,
        top_k: Annotated[int, Field(gt=0)] = 1,
        direction: Literal["there", "back", "both"] = "both",
    ) -> None:
        self.top_k, self.direction = top_k, direction
        self.rows: list[tuple[Tensor, Tensor]] = []

    def update(self, prediction: Tensor, target: Tensor) -> None:
        self.rows.append((prediction.detach().float().cpu(), target.detach().float().cpu()))

    def compute(self) -> float:
        one, other = _everywhere(self.rows)
        if not len(one):
            return float("nan")
        asks = {"there": [(one, other)], "back": [(other, one)], "both": [(one, other), (other, one)]}
        found = [_recall(queries, keys, self.top_k) for queries, keys in asks[self.direction]]
        return sum(found) / len(found)


def _everywhere(rows: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """The rows of all ranks, rank after rank."""
    empty = torch.zeros(0, 1)
    mine = [torch.cat([pair[i] for pair in rows]) if rows else empty for i in (0, 1)]
    if not torch.distributed.is_initialized():
        return mine[0], mine[1]
    every: list[list[Tensor]] = [[] for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather_object(every, mine)
    full = [pair for pair in every if len(pair[0])] or [mine]
    return torch.cat([pair[0] for pair in full]), torch.cat([pair[1] for pair in full])


def _recall(queries: Tensor, keys: Tensor, top_k: int) -> float:
    hits = 0.0
    for start in range(0, len(queries), BLOCK):
        scores = queries[start : start + BLOCK] @ keys.T
        own = scores.gather(1, torch.arange(start, start + len(scores))[:, None])
        above, beside = (scores > own).sum(dim=1), (scores == own).sum(dim=1) - 1
        # The partner's rank is drawn evenly among equals.
        hits += float(((top_k - above) / (beside + 1)).clamp(0, 1).sum())
    return hits / len(queries)
