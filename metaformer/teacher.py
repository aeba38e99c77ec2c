"""The momentum teacher: a copy of the model that follows its weights slowly and is never trained itself.

Source: MoCo (arXiv 1911.05722) and ALBEF (arXiv 2107.07651): m·teacher + (1 - m)·student before each step's features
are computed, which is after each update.
Ours differs: the copy stays in eval mode, where ALBEF's keeps its dropout awake; it moves once per update, however many
passes that has.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

from metaformer.base import Whole
from metaformer.model import MetaFormer
from metaformer.types import Batch, Prediction, TokenBatch

AT_ONCE = 32
"""Parameters that are made whole together where ranks hold pieces of them."""


class Teacher(nn.Module):
    """A twin of a model whose parameters are buffers: no optimizer knows them, ZeRO leaves them whole on every rank,
    and checkpoints have them."""

    def __init__(self, model: MetaFormer, momentum: float) -> None:
        super().__init__()
        self.momentum = momentum
        objectives, model.objectives = model.objectives, nn.ModuleDict()
        try:
            self.twin = copy.deepcopy(model)
        finally:
            model.objectives = objectives
        _demote(self.twin)
        self.eval()

    def train(self, mode: bool = True) -> Teacher:
        """Stays in eval mode."""
        return super().train(False)

    @torch.no_grad()
    def begin(self, model: MetaFormer) -> None:
        """Take over the student's weights, which are whole."""
        mine = dict(self.twin.named_buffers())
        for name, tensor in (*_parameters(model), *_buffers(model)):
            mine[name].copy_(tensor)

    @torch.no_grad()
    def follow(self, model: MetaFormer, whole: Whole) -> None:
        """One step after the student, on all ranks alike. Buffers are taken over as they are."""
        mine = dict(self.twin.named_buffers())
        trained = [(name, p) for name, p in _parameters(model) if p.requires_grad]
        for some in _pieces(trained):
            with whole([p for _, p in some]):
                for name, parameter in some:
                    mine[name].mul_(self.momentum).add_(parameter.to(mine[name].dtype), alpha=1 - self.momentum)
        for name, buffer in _buffers(model):
            mine[name].copy_(buffer)

    # What it says, without gradient, once per batch.

    @torch.no_grad()
    def predict(self, batch: Batch, head: str) -> Prediction:
        """What the teacher's head says."""
        return self.twin.predict(self._mine(batch), head)

    @torch.no_grad()
    def stream(self, batch: Batch, name: str) -> TokenBatch:
        """The teacher's stream."""
        return self.twin.stream(self._mine(batch), name)

    @torch.no_grad()
    def read(self, head: str, tokens: TokenBatch) -> Prediction:
        """What the teacher's head says about tokens of its own."""
        return self.twin.read(head, tokens)

    def _mine(self, batch: Batch) -> Batch:
        """The same batch, with the teacher's results of its own."""
        key = ("teacher", "")
        if key not in batch.memo:
            view = batch.view
            batch.memo[key] = replace(
                batch, memo={}, view=None if view is None else replace(view, origin=self._mine(view.origin))
            )
        return cast(Batch, batch.memo[key])


def _pieces(trained: list[tuple[str, nn.Parameter]]) -> Iterator[list[tuple[str, nn.Parameter]]]:
    for start in range(0, len(trained), AT_ONCE):
        yield trained[start : start + AT_ONCE]


def _parameters(model: MetaFormer) -> Iterator[tuple[str, nn.Parameter]]:
    return ((name, p) for name, p in model.named_parameters() if not name.startswith("objectives."))


def _buffers(model: MetaFormer) -> Iterator[tuple[str, Tensor]]:
    return ((name, b) for name, b in model.named_buffers() if not name.startswith(("objectives.", "teacher.")))


def _demote(module: nn.Module) -> None:
    """Parameters become buffers of the same names; tied ones stay one tensor."""
    made: dict[int, Tensor] = {}
    for child in module.modules():
        for name, parameter in list(child.named_parameters(recurse=False)):
            del child._parameters[name]
            child.register_buffer(name, made.setdefault(id(parameter), parameter.detach()))
