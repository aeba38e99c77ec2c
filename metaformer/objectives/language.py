"""Language modelling: each word of a text, given those before it and whatever it is read with.

Source: the captioning and answering losses of ALBEF (arXiv 2107.07651) and BLIP (arXiv 2201.12086).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Literal, cast

from jaxtyping import Bool
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from metaformer.base import Head, Objective, Whole
from metaformer.objectives.ramp import Ramp
from metaformer.objectives.words import word_losses, words_of
from metaformer.types import Batch, Readout, Target, TokenBatch

if TYPE_CHECKING:
    from metaformer.model import MetaFormer


class Language(Objective):
    """A language head over a stream that the text goes into, in which no token sees a later one: `causal: true` of an
    encoder or of bridge `fusion`.

    reduction: `tokens`, the mean over all predicted words; `texts`, each text's sum, averaged over the texts (ALBEF).
    weights: a target of one number per sample that its text counts with; 1 where it is missing.
    teacher, alpha, alpha_steps: as of `masked_language`.
    The first token is given, and the last is predicted: with `end_token: true` a text knows where it ends.
    """

    def __init__(
        self,
        heads: Mapping[str, Head],
        vocabularies: Mapping[str, int],
        *,
        head: str,
        stream: str,
        label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0,
        reduction: Literal["tokens", "texts"] = "tokens",
        weights: str | None = None,
        teacher: Annotated[float, Field(ge=0, lt=1)] | None = None,
        alpha: Annotated[float, Field(ge=0, le=1)] = 0.4,
        alpha_steps: Annotated[int, Field(ge=0)] = 0,
    ) -> None:
        super().__init__()
        size = words_of("language", heads, vocabularies, head, stream)
        self.head, self.stream, self.reduction, self.weights = head, stream, reduction, weights
        self.label_smoothing = label_smoothing
        self.momentum, self.alpha = teacher, Ramp(alpha, alpha_steps)
        self.name = f"language_{stream}"
        self.uses = (head,)
        self.targets = {} if weights is None else {weights: Target("values", 1)}
        self.judged = {head: Readout(Target("classes", size), "classes")}

    def forward(self, model: MetaFormer, batch: Batch) -> dict[str, Tensor]:
        at = model.place(batch, cast(Head, model.heads[self.head]).reads, self.stream)
        right, counts = batch.streams[self.stream]["ids"].roll(-1, dims=1), self._counts(batch)
        teacher = None if self.momentum is None else self.alpha
        said, terms = word_losses(
            model, batch, self.head, lambda tokens: _only(tokens, at, counts), right, teacher, self.label_smoothing
        )
        if not self.training:
            batch.memo["judged", self.head] = (said[counts], right[counts])
        weight = counts * self._weights(batch, terms)
        total = counts.sum() if self.reduction == "tokens" else counts.any(dim=1).sum()
        return {self.name: (terms * weight).sum() / total.clamp(min=1)}

    def count(self, model: MetaFormer, batch: Batch) -> dict[str, float]:
        counts = self._counts(batch)
        return {self.name: float((counts if self.reduction == "tokens" else counts.any(dim=1)).sum())}

    def _counts(self, batch: Batch) -> Bool[Tensor, "B T"]:
        """Tokens that have another one after them, which they predict."""
        return F.pad(batch.streams[self.stream]["mask"][:, 1:], (0, 1)) & batch.present[self.stream][:, None]

    def _weights(self, batch: Batch, terms: Tensor) -> Tensor:
        if self.weights is None:
            return terms.new_ones(len(terms), 1)
        return batch.targets[self.weights].to(terms).nan_to_num(nan=1.0)

    def updated(self, model: MetaFormer, whole: Whole) -> None:
        self.alpha.move_on()


def _only(tokens: TokenBatch, at: slice, counts: Bool[Tensor, "B T"]) -> TokenBatch:
    """The text's tokens, the first of which says a word as well."""
    return TokenBatch(x=tokens.x[:, at], mask=counts, modality=tokens.modality)
