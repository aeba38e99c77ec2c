"""Matching: does this picture belong to this caption? Two classes, with wrong pairs made out of the batch.

Source: hard negatives by similarity as in ALBEF (arXiv 2107.07651), from all ranks as in VLMo (arXiv 2111.02358);
random replacement and word-patch alignment as in ViLT (arXiv 2102.03334).
Ours differs: what must not be drawn is left out before the softmax, so no batch can underflow; samples known to be the
same thing, and texts of the very same tokens, are never each other's wrong partners.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Literal, cast

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from metaformer.base import Head, Objective
from metaformer.errors import MetaformerError
from metaformer.objectives.contrastive import FAR, Contrastive, embedding_size
from metaformer.objectives.transport import transport_distance
from metaformer.ranks import gather, largest, rank
from metaformer.types import UNKNOWN, Batch, Readout, Target
from metaformer.views import equal_rows, repaired, text_numbers

if TYPE_CHECKING:
    from metaformer.model import MetaFormer

MATCH = 1
"""Class index of a pair that belongs together, as in the published heads."""


class Matching(Objective):
    """A head of two classes over what reads both sides of a pair.

    negatives: `hard` draws, for each sample, one wrong partner for either side by the softmax of the similarities of
    the heads `between`: of three pairs one is right. `random` draws them evenly. `replace` looks at each sample once
    and puts a random other first side in with probability one half. A sample that nothing wrong can be found for (alone
    in its batch, or beside equals only) has its right pair alone; the loss is a mean as if the others were there with
    loss 0, so that such a batch weighs less and not more.
    between: two embedding heads, whose streams are the two sides (needed for `hard`).
    streams: the two sides, where no embeddings are compared.
    gather: wrong partners from all ranks, with gradient.
    same: target of kind identity: samples that share it are not wrong for one another.
    alignment: weight of ViLT's word-patch alignment, by optimal transport between the sides' tokens in what the head
    reads: near where they match, far where not.
    In evaluation nothing is drawn: the most similar, or the next, is taken, and every other sample replaced.
    """

    def __init__(
        self,
        heads: Mapping[str, Head],
        *,
        head: str,
        between: tuple[str, str] | None = None,
        streams: tuple[str, str] | None = None,
        negatives: Literal["hard", "random", "replace"] = "hard",
        temperature: Annotated[float, Field(gt=0)] = 0.07,
        gather: bool = False,
        same: str | None = None,
        alignment: Annotated[float, Field(ge=0)] = 0.0,
    ) -> None:
        super().__init__()
        if head not in heads or heads[head].predicts != "class" or heads[head].size != 2:
            found = f"heads: {', '.join(heads)}" if head not in heads else "it is not of two classes"
            raise MetaformerError(f"objective matching reads head {head!r}", found, "use a classification head of 2")
        if (between is None) == (streams is None):
            found = "`between` and `streams` say the sides twice, or not at all"
            raise MetaformerError("objective matching", found, "give two embedding heads, or two streams")
        if negatives == "hard" and between is None:
            do = "give `between: [HEAD, HEAD]`, or negatives: random"
            raise MetaformerError("objective matching with hard negatives", "no embeddings to compare", do)
        if between is not None:
            embedding_size(heads, between, "matching")
        self.head, self.sides, self.negatives = head, cast(tuple[str, str], between or streams), negatives
        self.temperature, self.gather, self.alignment = temperature, gather, alignment
        self.identity = same
        self.name = f"match_{head}"
        # The sides' own heads are looked at and not trained; what reads both sides is.
        self.uses = (head,) if between is not None else (head, *self.sides)
        self.targets = {} if same is None else {same: Target("identity", 1)}
        self.judged = {head: Readout(Target("class", 2), "class")}

    def forward(self, model: MetaFormer, batch: Batch) -> dict[str, Tensor]:
        sides = [model.sources(side) for side in self.sides]
        one_side, other_side = (model.present(batch, side) for side in self.sides)
        rows = one_side & other_side
        # Made with gradient, before they are looked at without: the batch remembers them for everybody.
        for stream in sorted(set().union(*sides)):
            model.tokens(batch, stream)
        if self.negatives == "hard":
            for side in self.sides:
                model.predict(batch, side)
        with torch.no_grad(), torch.autocast(rows.device.type, enabled=False):
            most = largest(len(rows), rows.device) if self.gather else len(rows)
            first = rank() * most if self.gather else 0
            allowed = self._allowed(model, batch, rows, most, first)
            there, back = self._similar(model, batch, allowed, most)
        own = torch.arange(len(rows), device=rows.device) + first
        if self.negatives == "replace":
            return self._replaced(model, batch, rows, sides, allowed, own)
        # First every text with a wrong picture, then every picture with a wrong text; drawn the other way round.
        wrong_other = self._choose(there, allowed)
        wrong_one = self._choose(back, allowed)
        one, other = torch.cat([wrong_one, own]), torch.cat([own, wrong_other])
        view = repaired(batch, self._rows(sides, one, other), self.gather)
        value = torch.cat([model.predict(batch, self.head).value, model.predict(view, self.head).value]).float()
        wrong = allowed.any(dim=1)
        counts = torch.cat([rows, wrong, wrong])
        right = torch.cat([torch.full_like(own, MATCH), torch.zeros_like(one)])
        losses = {self.name: self._mean(value, right, counts, 3 * rows.sum())}
        if self.alignment:
            places = [self._distances(model, b, sides) for b in (batch, view)]
            # Right pairs near, wrong ones far: as far as the others are, on the whole, near.
            sign = torch.cat([torch.ones(len(rows)), -torch.ones(len(one)) / 2]).to(value)
            losses[f"align_{self.head}"] = (
                self.alignment * (torch.cat(places) * sign * counts).sum() / rows.sum().clamp(min=1)
            )
        self._judge(batch, value, right, counts)
        return losses

    def _replaced(
        self,
        model: MetaFormer,
        batch: Batch,
        rows: Bool[Tensor, B],
        sides: Sequence[set[str]],
        allowed: Bool[Tensor, "B K"],
        own: Int[Tensor, B],
    ) -> dict[str, Tensor]:
        other = self._choose(torch.zeros_like(allowed, dtype=torch.float32), allowed)
        coin = torch.rand(len(rows)).to(rows.device) < 0.5 if self.training else own % 2 == 1
        wrong = coin & allowed.any(dim=1)
        view = repaired(batch, self._rows(sides, torch.where(wrong, other, own), own), self.gather)
        value = model.predict(view, self.head).value.float()
        right = torch.where(wrong, 0, MATCH)
        losses = {self.name: self._mean(value, right, rows, rows.sum())}
        if self.alignment:
            distances = self._distances(model, view, sides) * torch.where(wrong, -1.0, 1.0)
            losses[f"align_{self.head}"] = self.alignment * (distances * rows).sum() / rows.sum().clamp(min=1)
        self._judge(batch, value, right, rows)
        return losses

    def _allowed(
        self, model: MetaFormer, batch: Batch, rows: Bool[Tensor, B], most: int, first: int
    ) -> Bool[Tensor, "B K"]:
        """Which rows, `most` of each rank where they are gathered, may be a row's wrong partner on either side."""
        numbers = [] if self.identity is None else [batch.targets[self.identity]]
        for stream in sorted(set().union(*(model.sources(side) for side in self.sides))):
            numbers.append(text_numbers(model.tokens(batch, stream)))
        everybody, real = numbers, rows
        if self.gather:
            everybody, real = [gather(n, UNKNOWN, most) for n in numbers], gather(rows, most=most)
        own = torch.arange(len(rows), device=rows.device) + first
        allowed = rows[:, None] & real[None, :] & (own[:, None] != torch.arange(len(real), device=rows.device)[None, :])
        for mine, theirs in zip(numbers, everybody, strict=True):
            allowed &= ~equal_rows(mine, theirs)
        return allowed

    def _similar(
        self, model: MetaFormer, batch: Batch, allowed: Bool[Tensor, "B K"], most: int
    ) -> tuple[Float[Tensor, "B K"], Float[Tensor, "B K"]]:
        """Logits of the draws: of a second side for each first, of a first for each second."""
        if self.negatives != "hard":
            even = torch.zeros_like(allowed, dtype=torch.float32)
            return even, even
        one, other = (model.predict(batch, name).value.float() for name in self.sides)
        ones, others = (gather(e, most=most) if self.gather else e for e in (one, other))
        scale = self._scale(model, batch.task)
        return one @ others.T * scale, other @ ones.T * scale

    def _scale(self, model: MetaFormer, task: str) -> Tensor | float:
        """That of the task's contrast between the same heads; else this objective's own."""
        for objective in cast(nn.ModuleList, model.objectives[task]) if task in model.objectives else ():
            if isinstance(objective, Contrastive) and set(objective.between) == set(self.sides):
                return objective.scale()
        return 1 / self.temperature

    def _choose(self, logits: Float[Tensor, "B K"], allowed: Bool[Tensor, "B K"]) -> Int[Tensor, B]:
        """One allowed key per row; any where there is none."""
        logits = logits.masked_fill(~allowed, FAR if allowed.any() else 0.0)
        # Softmax over what is allowed alone: its largest weight is never below one over their number.
        weights = logits.softmax(dim=1) * (allowed | ~allowed.any(dim=1, keepdim=True))
        if not self.training:
            return weights.argmax(dim=1)
        # Drawn on the CPU, whose generator is seeded by the place in the run.
        return torch.multinomial(weights.double().cpu(), 1)[:, 0].to(logits.device)

    @staticmethod
    def _rows(sides: Sequence[set[str]], one: Int[Tensor, N], other: Int[Tensor, N]) -> dict[str, Int[Tensor, N]]:
        return dict.fromkeys(sides[1], other) | dict.fromkeys(sides[0], one)

    @staticmethod
    def _mean(value: Float[Tensor, "N 2"], right: Int[Tensor, N], counts: Bool[Tensor, N], over: Tensor) -> Tensor:
        return (F.cross_entropy(value, right, reduction="none") * counts).sum() / over.clamp(min=1)

    def _distances(self, model: MetaFormer, batch: Batch, sides: Sequence[set[str]]) -> Float[Tensor, N]:
        """How far the tokens of the two sides are from each other in what the head reads."""
        reads = cast(Head, model.heads[self.head]).reads
        tokens = model.stream(batch, reads)
        parts = []
        for side in sides:
            (stream,) = side
            at = model.place(batch, reads, stream)
            alone = model.tokens(batch, stream)
            mask = tokens.mask[:, at].clone()
            mask[:, : alone.num_prefix] = False
            parts.append((tokens.x[:, at].float(), mask))
        with torch.autocast(tokens.x.device.type, enabled=False):
            return transport_distance(*parts[1], *parts[0])

    def _judge(self, batch: Batch, value: Tensor, right: Tensor, counts: Tensor) -> None:
        if not self.training:
            batch.memo["judged", self.head] = (value[counts], right[counts])

    def count(self, model: MetaFormer, batch: Batch) -> dict[str, float]:
        one, other = (model.present(batch, side) for side in self.sides)
        number = float((one & other).sum())
        return {self.name: number} | ({f"align_{self.head}": number} if self.alignment else {})
