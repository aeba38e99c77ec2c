"""Masked language modelling: which words are hidden in a text, given the rest of it and whatever it is read with?

Source: BERT (arXiv 1810.04805), whole words as in ViLT (arXiv 2102.03334) and VLMo; a teacher's soft answers as in
ALBEF (arXiv 2107.07651).
Ours differs: every text hides at least one word; special tokens are never hidden.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, cast

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor

from metaformer.base import Head, Objective, Whole
from metaformer.errors import MetaformerError
from metaformer.objectives.ramp import Ramp
from metaformer.objectives.words import word_losses, words_of
from metaformer.types import Batch, Raw, Readout, Target, TokenBatch
from metaformer.views import altered

if TYPE_CHECKING:
    from metaformer.model import MetaFormer

MASKED, RANDOM = 0.8, 0.1
"""Shares of the chosen tokens that become the mask token, and a random one; the others stay as they are."""


class MaskedLanguage(Objective):
    """A language head over a stream that the text goes into, alone or with others.

    mask_ratio: chance of each word, or token, to be chosen. `whole_words`: a word's tokens are chosen together.
    teacher: momentum of a teacher, from whom the share `alpha` of each answer comes; `alpha_steps` is the number of
    updates over which that share grows from 0.
    Loss: mean over the chosen tokens. In evaluation the same places are chosen in every run.
    """

    def __init__(
        self,
        heads: Mapping[str, Head],
        vocabularies: Mapping[str, int],
        *,
        head: str,
        stream: str,
        mask_ratio: Annotated[float, Field(gt=0, lt=1)] = 0.15,
        whole_words: bool = True,
        teacher: Annotated[float, Field(ge=0, lt=1)] | None = None,
        alpha: Annotated[float, Field(ge=0, le=1)] = 0.4,
        alpha_steps: Annotated[int, Field(ge=0)] = 0,
    ) -> None:
        super().__init__()
        self.head, self.stream, self.mask_ratio, self.whole_words = head, stream, mask_ratio, whole_words
        self.momentum, self.alpha = teacher, Ramp(alpha, alpha_steps)
        self.size = words_of("masked_language", heads, vocabularies, head, stream)
        self.name = f"masked_{stream}"
        self.uses, self.targets = (head,), {}
        self.judged = {head: Readout(Target("classes", self.size), "classes")}

    def forward(self, model: MetaFormer, batch: Batch) -> dict[str, Tensor]:
        raw = batch.streams[self.stream]
        hidden = self.choose(raw, batch.present[self.stream], model.tokens(batch, self.stream).num_prefix)
        view = altered(batch, {self.stream: {**raw, "ids": self.hide(raw["ids"], hidden, self._mask_id(model))}})
        reads = cast(Head, model.heads[self.head]).reads
        at = model.place(view, reads, self.stream)
        order, chosen = _first(hidden)
        right = raw["ids"].gather(1, order)
        count = chosen.sum().clamp(min=1)
        teacher = None if self.momentum is None else self.alpha
        said, terms = word_losses(
            model, view, self.head, lambda tokens: _picked(tokens, at, order, chosen), right, teacher
        )
        if not self.training:
            batch.memo["judged", self.head] = (said[chosen], right[chosen])
        return {self.name: (terms * chosen).sum() / count}

    def choose(self, raw: Raw, present: Bool[Tensor, B], num_prefix: int) -> Bool[Tensor, "B T"]:
        """Which tokens to ask for."""
        words = raw.get("words", torch.zeros_like(raw["ids"]))
        real = raw["mask"] & present[:, None] & (words >= 0)
        real[:, :num_prefix] = False
        draws = self._draws(real.shape, 0).to(real.device)
        if self.whole_words and "words" in raw:
            # Every token has the draw of its word's number.
            draws = draws.gather(1, words.clamp(min=0, max=draws.shape[1] - 1))
        draws = draws.masked_fill(~real, 2.0)
        least = draws.amin(dim=1, keepdim=True)
        return real & (draws < torch.maximum(least, torch.full_like(least, self.mask_ratio)).nextafter(least + 3))

    def hide(self, ids: Int[Tensor, "B T"], hidden: Bool[Tensor, "B T"], mask: int) -> Int[Tensor, "B T"]:
        """The ids that the model sees instead."""
        kind = self._draws(ids.shape, 1).to(ids.device)
        if self.training:
            random = torch.randint(self.size, ids.shape).to(ids)
        else:
            numbers = np.random.default_rng(2).integers(self.size, size=ids.shape[1])
            random = torch.from_numpy(numbers).to(ids).expand_as(ids)
        seen = torch.where(kind < MASKED, torch.full_like(ids, mask), ids)
        seen = torch.where((kind >= MASKED) & (kind < MASKED + RANDOM), random, seen)
        return torch.where(hidden, seen, ids)

    def _draws(self, shape: torch.Size, which: int) -> Float[Tensor, "B T"]:
        if self.training:
            return torch.rand(shape)
        # One line of numbers for all rows: a sample's loss must not depend on the batch it is in.
        return torch.from_numpy(np.random.default_rng(which).random(shape[1])).float().expand(shape)

    def _mask_id(self, model: MetaFormer) -> int:
        mask = model.tokenizer(self.stream).mask_id
        if mask is None:
            raise MetaformerError(
                f"hide words of {self.stream!r}", "its vocabulary has no mask token", "choose another"
            )
        return mask

    def updated(self, model: MetaFormer, whole: Whole) -> None:
        self.alpha.move_on()


def _first(hidden: Bool[Tensor, "B T"]) -> tuple[Int[Tensor, "B K"], Bool[Tensor, "B K"]]:
    """The places of each row's hidden tokens, as many as the row with most of them has; which of these are real."""
    most = max(int(hidden.sum(dim=1).max()), 1) if len(hidden) else 1
    order = hidden.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :most]
    return order, hidden.gather(1, order)


def _picked(tokens: TokenBatch, at: slice, order: Int[Tensor, "B K"], chosen: Bool[Tensor, "B K"]) -> TokenBatch:
    """The tokens that are asked for, alone: a language head reads each by itself, and its logits are wide."""
    x = tokens.x[:, at]
    x = x.gather(1, order[:, :, None].expand(-1, -1, x.shape[2]))
    return TokenBatch(x=x, mask=chosen, modality=tokens.modality)
