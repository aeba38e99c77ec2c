"""What language objectives share: a head that says words of a stream, and losses of what it says, a teacher's included.

Source: soft answers of a teacher as in ALBEF (arXiv 2107.07651).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, cast

from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from metaformer.base import Head
from metaformer.errors import MetaformerError
from metaformer.objectives.ramp import Ramp
from metaformer.types import Batch, TokenBatch

if TYPE_CHECKING:
    from metaformer.model import MetaFormer


def words_of(who: str, heads: Mapping[str, Head], vocabularies: Mapping[str, int], head: str, stream: str) -> int:
    """Size of the vocabulary of `stream`, whose words `head` says. Raises MetaformerError where it does not."""
    if stream not in vocabularies:
        raise MetaformerError(f"objective {who} of {stream!r}", f"streams: {', '.join(vocabularies)}", "name one")
    if not vocabularies[stream]:
        raise MetaformerError(f"objective {who} of {stream!r}", "its tokens have no ids", "name a text")
    if head not in heads or heads[head].predicts != "classes" or heads[head].size != vocabularies[stream]:
        found = f"heads: {', '.join(heads)}" if head not in heads else f"it is not of {vocabularies[stream]} words"
        do = f"use head: {{use: language, stream: {stream}}}"
        raise MetaformerError(f"objective {who} reads head {head!r}", found, do)
    return vocabularies[stream]


def word_losses(
    model: MetaFormer,
    batch: Batch,
    head: str,
    pick: Callable[[TokenBatch], TokenBatch],
    right: Int[Tensor, "B K"],
    teacher: Ramp | None = None,
    label_smoothing: float = 0.0,
) -> tuple[Float[Tensor, "B K V"], Float[Tensor, "B K"]]:
    """What `head` says about the tokens that `pick` takes out of its stream, and the loss of each given the right word.

    `teacher`: the share of each answer that comes from `model.teacher`, which sees the same batch."""
    reads = cast(Head, model.heads[head]).reads
    said = model.read(head, pick(model.stream(batch, reads))).value.float()
    smoothed = {"label_smoothing": label_smoothing, "reduction": "none"}
    terms = F.cross_entropy(said.flatten(0, 1), right.flatten(), **smoothed).view_as(right)  # type: ignore[arg-type]
    if teacher is not None:
        assert model.teacher is not None
        theirs = model.teacher.read(head, pick(model.teacher.stream(batch, reads))).value.float().softmax(dim=-1)
        share = teacher.now()
        terms = (1 - share) * terms - share * (theirs * said.log_softmax(dim=-1)).sum(dim=-1)
    return said, terms
