"""Objectives with state of their own, and with a gradient that explodes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from metaformer.base import Head, Objective, Whole
from metaformer.types import Batch, Target


class Teacher(Objective):
    """A head against a momentum copy of its own weights, and a queue of what the teacher has said."""

    def __init__(self, heads: Mapping[str, Head], *, head: str, momentum: float = 0.9, queue: int = 8) -> None:
        super().__init__()
        self.head, self.momentum = head, momentum
        self.uses, self.targets = (head,), {"sign": Target("class", 2)}
        self.parameter = "linear.weight"
        self.register_buffer("teacher", heads[head].get_parameter(self.parameter).detach().clone())
        self.register_buffer("queue", torch.zeros(queue, 2))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.long))

    def forward(self, model: Any, batch: Batch) -> dict[str, Tensor]:
        logits = model.predict(batch, self.head).value
        return {"drift": (logits - self.queue.mean(dim=0)).pow(2).mean()}

    def updated(self, model: Any, whole: Whole) -> None:
        weight = model.heads[self.head].get_parameter(self.parameter)
        with whole([weight]):
            self.teacher.lerp_(weight.detach().to(self.teacher), 1 - self.momentum)
        self.queue[int(self.pointer)] = self.teacher.sum(dim=1)
        self.pointer.copy_((self.pointer + 1) % len(self.queue))


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
