"""Focal loss: cross-entropy in which samples that are already right count less.

Source: Lin et al., arXiv 1708.02002.
Ours differs: classes exclude one another (softmax where the paper has a sigmoid per class), and the loss is a mean
over the samples that count, where the paper divides by the number of anchors that hold an object.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

from jaxtyping import Float
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from metaformer.base import Head, Objective
from metaformer.errors import MetaformerError
from metaformer.types import IGNORE, Batch, Target

if TYPE_CHECKING:
    from metaformer.model import MetaFormer


class FocalLoss(Objective):
    """A head's logits [B C] against one class per sample: the mean of (1 - p)^gamma * -log p, p being the
    probability of the right class. `gamma: 0` is cross-entropy."""

    def __init__(
        self,
        heads: Mapping[str, Head],
        *,
        head: str,
        target: str | None = None,
        gamma: Annotated[float, Field(ge=0)] = 2.0,
    ) -> None:
        super().__init__()
        if head not in heads or heads[head].predicts != "class":
            fit = [name for name, candidate in heads.items() if candidate.predicts == "class"]
            raise MetaformerError(
                "a head that predicts one class", repr(head), f"such heads: {', '.join(fit) or 'none'}"
            )
        self.head, self.target, self.gamma = head, target or head, gamma
        self.uses = (head,)
        self.targets = {self.target: Target("class", heads[head].size)}

    def forward(self, model: MetaFormer, batch: Batch) -> dict[str, Tensor]:
        prediction = model.predict(batch, self.head)
        # Samples that lack the target, or the stream that the head reads, do not count.
        target = batch.targets[self.target].masked_fill(~prediction.present, IGNORE)
        loss = F.cross_entropy(prediction.value.float(), target, ignore_index=IGNORE, reduction="none")
        counts = (target != IGNORE).sum().clamp(min=1)  # where nothing counts: 0, still connected to the model
        return {"focal": (focus(loss, self.gamma) * loss).sum() / counts}


def focus(loss: Float[Tensor, " B"], gamma: float) -> Float[Tensor, " B"]:
    """(1 - p)^gamma from -log p."""
    # The gradient of 0^gamma is infinite for gamma below 1, and p reaches 1 in fp32.
    return (-(-loss).expm1()).clamp(min=1e-6) ** gamma
