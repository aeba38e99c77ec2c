"""Plain supervision: a head's prediction against a target of the sample.

Rows that lack the target, or the stream the head reads, do not count; each loss is a mean over those that do.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import torch
from jaxtyping import Bool
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from metaformer.base import Head, Objective
from metaformer.errors import MetaformerError
from metaformer.types import IGNORE, Batch, Target

if TYPE_CHECKING:
    from metaformer.model import MetaFormer


class Supervised(Objective):
    """A head against a target; the target has the head's name unless the recipe says otherwise."""

    heads: ClassVar[tuple[str, ...]]
    """What the head must predict."""

    def __init__(self, heads: Mapping[str, Head], head: str, target: str | None) -> None:
        super().__init__()
        if head not in heads:
            raise MetaformerError(f"objective reads head {head!r}", f"heads: {', '.join(heads) or 'none'}")
        predicts = heads[head].predicts
        if predicts not in self.heads:
            raise MetaformerError(
                f"objective {type(self).__name__} reads head {head!r}",
                f"it predicts {predicts!r}, and {' or '.join(map(repr, self.heads))} is needed",
            )
        self.head, self.target = head, target or head
        self.uses = (head,)
        self.targets = {self.target: Target(self.form(predicts), heads[head].size)}

    def forward(self, model: MetaFormer, batch: Batch) -> dict[str, Tensor]:
        prediction = model.predict(batch, self.head)
        return {self.head: self.loss(prediction.value.float(), batch.targets[self.target], prediction.present)}

    def count(self, model: MetaFormer, batch: Batch) -> dict[str, float]:
        target = batch.targets[self.target]
        counts = ~target.isnan() if target.is_floating_point() else target != IGNORE
        present = model.present(batch, self.head)
        return {self.head: float((counts & present.view(-1, *[1] * (target.dim() - 1))).sum())}

    @abstractmethod
    def form(self, predicts: str) -> Literal["class", "classes", "multilabel", "scores", "values"]:
        """Kind of target that goes with what the head predicts."""

    @abstractmethod
    def loss(self, value: Tensor, target: Tensor, present: Bool[Tensor, B]) -> Tensor:
        """Mean over what counts, [] in fp32."""


class CrossEntropy(Supervised):
    """One class per sample, or one per token."""

    heads = ("class", "classes")

    def __init__(
        self,
        heads: Mapping[str, Head],
        *,
        head: str,
        target: str | None = None,
        label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0,
    ) -> None:
        super().__init__(heads, head, target)
        self.label_smoothing = label_smoothing

    def form(self, predicts: str) -> Literal["class", "classes"]:
        return "classes" if predicts == "classes" else "class"

    def loss(self, value: Tensor, target: Tensor, present: Bool[Tensor, B]) -> Tensor:
        target = target.masked_fill(~present.view(-1, *[1] * (target.dim() - 1)), IGNORE)
        if value.dim() == 3:
            value, target = value[:, : target.shape[1]].flatten(0, 1), target[:, : value.shape[1]].flatten()
        total = F.cross_entropy(
            value, target, ignore_index=IGNORE, label_smoothing=self.label_smoothing, reduction="sum"
        )
        return total / (target != IGNORE).sum().clamp(min=1)


class BinaryCrossEntropy(Supervised):
    """Any number of classes at once; each entry of the target is 0, 1 or missing. With `scores` it may be anything from
    0 to 1: the answers of VQA v2, by how many people gave them.

    `reduction: sum` adds the classes of a sample up and takes the mean over samples, as is usual for VQA."""

    heads = ("class",)

    def __init__(
        self,
        heads: Mapping[str, Head],
        *,
        head: str,
        target: str | None = None,
        scores: bool = False,
        reduction: Literal["mean", "sum"] = "mean",
    ) -> None:
        self.scores, self.reduction = scores, reduction
        super().__init__(heads, head, target)

    def form(self, predicts: str) -> Literal["multilabel", "scores"]:
        return "scores" if self.scores else "multilabel"

    def loss(self, value: Tensor, target: Tensor, present: Bool[Tensor, B]) -> Tensor:
        counts = ~target.isnan() & present[:, None]
        terms = F.binary_cross_entropy_with_logits(value, target.nan_to_num(), reduction="none") * counts
        # Classes alike in both: the mean over entries, times how many of them a sample has.
        factor = target.shape[1] if self.reduction == "sum" else 1
        return terms.sum() * factor / counts.sum().clamp(min=1)


class Regression(Supervised):
    """Numbers: squared, absolute or Huber error, in the head's units."""

    heads = ("values",)

    def __init__(
        self,
        heads: Mapping[str, Head],
        *,
        head: str,
        target: str | None = None,
        error: Literal["squared", "absolute", "huber"] = "squared",
    ) -> None:
        super().__init__(heads, head, target)
        self.error = error
        self.unit = heads[head].unit

    def form(self, predicts: str) -> Literal["values"]:
        return "values"

    def loss(self, value: Tensor, target: Tensor, present: Bool[Tensor, B]) -> Tensor:
        counts = ~target.isnan() & present[:, None]
        goal = torch.where(counts, target, value.detach())
        measure = {"squared": F.mse_loss, "absolute": F.l1_loss, "huber": F.smooth_l1_loss}[self.error]
        terms = measure(value / self.unit, goal / self.unit, reduction="none")
        return (terms * counts).sum() / counts.sum().clamp(min=1)
