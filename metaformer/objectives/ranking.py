"""Answers ranked by how likely a model that says words is to say them.

Source: VQA of ALBEF (arXiv 2107.07651): the candidates whose first words are likeliest are read whole.
Ours differs: an answer's score is the log-likelihood of its words; published code adds that of the first word twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, cast

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from metaformer.base import Head, Objective
from metaformer.errors import MetaformerError
from metaformer.objectives.words import words_of
from metaformer.types import IGNORE, Answer, Batch, Raw, Readout, Target, TokenBatch
from metaformer.views import altered, repaired

if TYPE_CHECKING:
    from metaformer.model import MetaFormer

AT_ONCE = 32
"""Candidates read with every sample at a time. Not pairs: ranks with batches of several sizes run the same modules."""


class Ranking(Objective):
    """Every candidate as the text of `stream`, read with each sample's other streams; metrics judge it as
    `head: ranking`.

    num_answers: how many candidates the data's classes of `target` are; `answers` gives them instead.
    scores: a target of a score per candidate, as VQA has them, which is judged in place of `target`.
    shortlist: how many candidates are read whole, those whose first words are likeliest; default: all.
    Loss: cross-entropy over the candidates. A task with `data.valid` only is evaluated and trains nothing.
    """

    def __init__(
        self,
        heads: Mapping[str, Head],
        vocabularies: Mapping[str, int],
        *,
        head: str,
        stream: str,
        target: str,
        num_answers: Annotated[int, Field(gt=1)] | None = None,
        answers: Annotated[tuple[str, ...], Field(min_length=2)] | None = None,
        scores: str | None = None,
        shortlist: Annotated[int, Field(gt=0)] | None = None,
    ) -> None:
        super().__init__()
        words_of("ranking", heads, vocabularies, head, stream)
        if (num_answers is None) == (answers is None):
            found = "neither" if answers is None else "both"
            raise MetaformerError("ranking by num_answers or by answers", found, "give one of them")
        self.head, self.stream, self.target, self.scores = head, stream, target, scores
        self.answers = answers
        self.size = num_answers if answers is None else len(answers)
        assert self.size is not None
        self.shortlist = min(shortlist or self.size, self.size)
        self.uses = (head,)
        form = Target("class", self.size)
        self.targets = {target: form}
        self.judged = {"ranking": Readout(form, "class")}
        if scores is not None:
            self.targets = {**self.targets, scores: Target("scores", self.size)}
            self.judged = {"ranking": Readout(Target("scores", self.size), "classes")}
        self._known: Raw | None = None

    def forward(self, model: MetaFormer, batch: Batch) -> dict[str, Tensor]:
        there = self._there(model, batch)
        said = self.say(model, batch)
        right = batch.targets[self.target].masked_fill(~there, IGNORE)
        counts = right != IGNORE
        if not self.training:
            if self.scores is None:
                batch.memo["judged", "ranking"] = (said[counts], right[counts])
            else:
                given = batch.targets[self.scores]
                judged = there & ~given.isnan().any(dim=1)
                batch.memo["judged", "ranking"] = (said[judged], given[judged])
        total = F.cross_entropy(said, right, ignore_index=IGNORE, reduction="sum")
        return {"ranking": total / counts.sum().clamp(min=1)}

    def count(self, model: MetaFormer, batch: Batch) -> dict[str, float]:
        return {"ranking": float(((batch.targets[self.target] != IGNORE) & self._there(model, batch)).sum())}

    def answer(self, model: MetaFormer, batch: Batch) -> Answer | None:
        if not set(self._others(model)) <= batch.streams.keys():
            return None
        return Answer(self.say(model, batch), self._there(model, batch), self._names())

    def say(self, model: MetaFormer, batch: Batch) -> Float[Tensor, "B C"]:
        """Log-likelihood of each candidate. Those that are not shortlisted are behind all that are, in the order of
        their first words."""
        raw = self._candidates(model, batch)
        count = len(raw["ids"])
        if self.shortlist < count:
            first = self._first(model, batch, raw)
            chosen = first.topk(self.shortlist, dim=1).indices
        else:
            first = None
            chosen = torch.arange(count, device=raw["ids"].device).expand(len(batch), -1)
        parts = torch.split(chosen, AT_ONCE, dim=1)
        likely = torch.cat([self._whole(model, batch, raw, part) for part in parts], dim=1)
        lowest = likely.amin(dim=1, keepdim=True).detach()
        rest = lowest.expand(-1, count) if first is None else lowest + first
        said = rest.scatter(1, chosen, likely)
        # Classes that the data do not have.
        return F.pad(said, (0, cast(int, self.size) - count), value=torch.finfo(said.dtype).min / 2)

    def _first(self, model: MetaFormer, batch: Batch, raw: Raw) -> Float[Tensor, "B C"]:
        """Log-likelihood of each candidate's first word, of each sample."""
        begin = {key: tensor[:1, :1].expand(len(batch), 1, *tensor.shape[2:]) for key, tensor in raw.items()}
        said = self._said(model, self._with(batch, begin, len(batch)), raw["mask"].new_ones(len(batch), 1))
        return said[:, 0][:, raw["ids"][:, 1]]

    def _whole(self, model: MetaFormer, batch: Batch, raw: Raw, chosen: Int[Tensor, "B K"]) -> Float[Tensor, "B K"]:
        """Log-likelihood of all words of the chosen candidates."""
        which = chosen.flatten()
        rows = torch.arange(len(batch), device=which.device).repeat_interleave(chosen.shape[1])
        pairs = repaired(batch, dict.fromkeys(self._others(model), rows))
        text = {key: tensor[which] for key, tensor in raw.items()}
        said = self._said(model, self._with(pairs, text, len(which)), text["mask"][:, :-1])
        each = said.gather(2, text["ids"][:, 1:, None])[:, :, 0]
        return (each * text["mask"][:, 1:]).sum(dim=1).view_as(chosen)

    def _with(self, batch: Batch, text: Raw, count: int) -> Batch:
        """The batch with a text for every sample, whether it came with one or not."""
        here = text["mask"].new_ones(count)
        return replace(altered(batch, {self.stream: text}), present={**batch.present, self.stream: here})

    def _said(self, model: MetaFormer, batch: Batch, mask: Bool[Tensor, "N K"]) -> Float[Tensor, "N K V"]:
        """Log-likelihood of every word at the first places of the text."""
        reads = cast(Head, model.heads[self.head]).reads
        at = model.place(batch, reads, self.stream)
        tokens = model.stream(batch, reads)
        x = tokens.x[:, at][:, : mask.shape[1]]
        read = model.read(self.head, TokenBatch(x=x, mask=mask, modality=tokens.modality))
        return read.value.float().log_softmax(dim=-1)

    def _others(self, model: MetaFormer) -> list[str]:
        """The streams that a text is read with."""
        return sorted(model.sources(self.head) - {self.stream})

    def _there(self, model: MetaFormer, batch: Batch) -> Bool[Tensor, B]:
        """Samples that have all that a text is read with."""
        others = self._others(model)
        if not others:
            asked = f"ranking texts of {self.stream!r}"
            raise MetaformerError(asked, "its head reads nothing else", "name another head")
        return torch.stack([batch.present[name] for name in others]).all(dim=0)

    def _candidates(self, model: MetaFormer, batch: Batch) -> Raw:
        """Tokens of all candidates, made once."""
        device = next(iter(batch.present.values())).device
        if self._known is None:
            names = self._names()
            preprocess = model.tokenizer(self.stream).preprocess
            raw = preprocess.collate([preprocess(name, False) for name in names])
            first, lengths = raw["ids"][:, 0], raw["mask"].sum(dim=1)
            if (first != first[0]).any() or (lengths < 2).any():
                found = "texts that begin with different tokens, or have no second"
                do = f"set class_token: true for tokenizer {self.stream!r}"
                raise MetaformerError("candidates that begin with one and the same token", found, do)
            self._known = raw
        return {key: tensor.to(device) for key, tensor in self._known.items()}

    def _names(self) -> Sequence[str]:
        names = self.answers or self.class_names.get(self.target)
        if not names:
            found = f"the data set does not say how the classes of {self.target!r} are called"
            raise MetaformerError("candidates to rank", found, "give `answers`, in the order of the classes")
        return names
