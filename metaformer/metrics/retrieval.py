"""Retrieval: is the sample that belongs to a query among the nearest?

Source: recall at k and median rank as CLIP and ALBEF report them, over the whole validation set. Where samples say what
they are (`same:` of the objective), all of one identity belong together: the five captions of a picture.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor

from metaformer.base import Metric
from metaformer.types import UNKNOWN

BLOCK = 1024
"""Queries compared at a time."""
Direction = Literal["there", "back", "both"]
"""`there` asks with the first head of the pair, `back` with the second, `both` is their mean."""


class Retrieval(Metric):
    """Keeps embeddings of all ranks, each thing once."""

    of_pairs: ClassVar[bool] = True

    def __init__(self, direction: Direction) -> None:
        self.direction = direction
        self.rows: list[tuple[Tensor, Tensor, Tensor]] = []

    def update(self, prediction: Tensor, target: Tensor, identity: Tensor | None = None) -> None:
        if identity is None:
            identity = torch.full((len(prediction),), UNKNOWN)
        self.rows.append((prediction.detach().float().cpu(), target.detach().float().cpu(), identity.cpu()))

    def ranks(self) -> list[Float[Tensor, "Q 2"]]:
        """Per direction, for each query: how many keys are nearer than its nearest partner, and how many as near."""
        one, other, identity = _everywhere(self.rows)
        own = things(identity)
        asks = {"there": [(one, other)], "back": [(other, one)], "both": [(one, other), (other, one)]}
        found = []
        for queries, keys in asks[self.direction]:
            asking, answering = distinct(queries, own), distinct(keys, own)
            found.append(rank_of_best(queries[asking], own[asking], keys[answering], own[answering]))
        return found


class Recall(Retrieval):
    """Share of queries with a partner among the `top_k` nearest, 0 to 1. Among equals the partner's place is drawn
    evenly: embeddings that are all the same find by chance."""

    higher_is_better: ClassVar[bool] = True

    def __init__(self, *, top_k: Annotated[int, Field(gt=0)] = 1, direction: Direction = "both") -> None:
        super().__init__(direction)
        self.top_k = top_k

    def compute(self) -> float:
        found = [recall(ranks, self.top_k) for ranks in self.ranks()]
        return sum(found) / len(found)


class MedianRank(Retrieval):
    """The median place of a query's best partner; 1 is the first."""

    higher_is_better: ClassVar[bool] = False

    def __init__(self, *, direction: Direction = "both") -> None:
        super().__init__(direction)

    def compute(self) -> float:
        found = [median_rank(ranks) for ranks in self.ranks()]
        return sum(found) / len(found)


def recall(ranks: Float[Tensor, "Q 2"], top_k: int) -> float:
    """Share of queries with a partner among the first `top_k`; NaN without any."""
    above, beside = ranks.double().unbind(dim=1)
    return float(((top_k - above) / (beside + 1)).clamp(0, 1).mean())


def median_rank(ranks: Float[Tensor, "Q 2"]) -> float:
    """Place of the median query's partner, from 1; NaN without any."""
    if not len(ranks):
        return float("nan")
    above, beside = ranks.double().unbind(dim=1)
    return float((above + beside / 2).quantile(0.5)) + 1


def things(identity: Int[Tensor, N]) -> Int[Tensor, N]:
    """Identities in which a sample that does not say what it is is a thing of its own."""
    return torch.where(identity == UNKNOWN, -2 - torch.arange(len(identity)), identity)


SAME = 1e-4
"""Embeddings of unit length nearer than this in every number are one: another batch rounds otherwise."""


def distinct(rows: Float[Tensor, "N E"], identity: Int[Tensor, N]) -> Int[Tensor, M]:
    """Which rows to look at, in order, so that equal ones of one identity (a picture that stands beside each of its
    captions) are looked at once."""
    if len(identity) == len(torch.unique(identity)):
        return torch.arange(len(identity))
    kept: list[int] = []
    mine: dict[int, list[int]] = defaultdict(list)
    for i, who in enumerate(identity.tolist()):
        if all(bool((rows[i] - rows[k]).abs().max() > SAME) for k in mine[who]):
            mine[who].append(i)
            kept.append(i)
    return torch.tensor(kept)


def rank_of_best(
    queries: Float[Tensor, "Q E"], asking: Int[Tensor, Q], keys: Float[Tensor, "K E"], answering: Int[Tensor, K]
) -> Float[Tensor, "Q 2"]:
    """How many keys are nearer than the nearest of a query's own identity, and how many as near."""
    return torch.cat([torch.zeros(0, 2), *_ranks(queries, asking, keys, answering)])


def _ranks(queries: Tensor, asking: Tensor, keys: Tensor, answering: Tensor) -> Iterator[Tensor]:
    for start in range(0, len(queries), BLOCK):
        at = slice(start, start + BLOCK)
        scores = queries[at] @ keys.T
        own = asking[at, None] == answering[None, :]
        yield rank_in(scores, own)


def rank_in(scores: Float[Tensor, "Q K"], own: Bool[Tensor, "Q K"]) -> Float[Tensor, "Q 2"]:
    """The same out of scores, given which keys are a query's own."""
    best = scores.masked_fill(~own, float("-inf")).amax(dim=1, keepdim=True)
    above = ((scores > best) & ~own).sum(dim=1)
    beside = ((scores == best) & ~own).sum(dim=1)
    return torch.stack([above, beside], dim=1).float()


def _everywhere(rows: list[tuple[Tensor, Tensor, Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
    """The rows of all ranks, rank after rank."""
    empty = (torch.zeros(0, 1), torch.zeros(0, 1), torch.zeros(0, dtype=torch.int64))
    mine = [torch.cat([row[i] for row in rows]) if rows else empty[i] for i in range(3)]
    full = [mine]
    if torch.distributed.is_initialized():
        every: list[list[Tensor]] = [[] for _ in range(torch.distributed.get_world_size())]
        torch.distributed.all_gather_object(every, mine)
        full = [part for part in every if len(part[0])] or [mine]
    one, other, identity = (torch.cat([part[i] for part in full]) for i in range(3))
    return one, other, identity
