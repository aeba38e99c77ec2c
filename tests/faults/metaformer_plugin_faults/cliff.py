"""An objective with a gradient that explodes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from metaformer.base import Head, Objective
from metaformer.types import Batch, Target


class Cliff(Objective):
    """Finite, and so is its gradient, until a sample of a given class comes: then the gradient is infinite."""

    def __init__(self, heads: Mapping[str, Head], *, head: str, on: int = 1) -> None:
        super().__init__()
        self.head, self.on = head, on
        self.uses, self.targets = (head,), {"sign": Target("class", 2)}

    def forward(self, model: Any, batch: Batch) -> dict[str, Tensor]:
        logits = model.predict(batch, self.head).value
        cliff = (batch.targets["sign"] == self.on).float()[:, None]
        # The square root of zero is zero; its derivative there is not finite.
        return {"cliff": (logits.pow(2) + (cliff * 0.0 * logits).abs().sqrt() * cliff).mean()}
