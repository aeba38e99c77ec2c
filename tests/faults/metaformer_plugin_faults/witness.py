"""An objective that adds nothing to the loss and writes down what teachers and queues are made of."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from metaformer.base import Head, Objective, Whole
from metaformer.ranks import gather, rank
from metaformer.types import Batch


class Witness(Objective):
    """Into the file that WITNESS names: the weights at first and after each update, and in order the teacher's
    embeddings that all ranks have had. Stands last, so that the passes are made."""

    def __init__(self, heads: Mapping[str, Head], *, between: tuple[str, str]) -> None:
        super().__init__()
        self.between, self.uses, self.targets = between, between, {}
        self.first: dict[str, Tensor] = {}
        self.weights: list[dict[str, Tensor]] = []
        self.embedded: list[list[Tensor]] = []

    def forward(self, model: Any, batch: Batch) -> dict[str, Tensor]:
        values = [model.predict(batch, name) for name in self.between]
        if self.training:
            taught = [model.teacher.predict(batch, name).value for name in self.between]
            if not self.first:
                # The teacher has begun with the student's weights.
                self.first = {name: t.clone() for name, t in model.teacher.twin.named_buffers()}
            rows = gather(values[0].present & values[1].present)
            self.embedded.append([gather(t)[rows].clone() for t in taught])
        return {"witness": sum(value.value.sum() for value in values) * 0.0}

    def updated(self, model: Any, whole: Whole) -> None:
        named = [(n, p) for n, p in model.named_parameters() if not n.startswith("objectives.")]
        with whole([p for _, p in named]):
            self.weights.append({name: p.detach().clone() for name, p in named})
        if rank() == 0 and "WITNESS" in os.environ:
            torch.save((self.first, self.weights, self.embedded), os.environ["WITNESS"])
