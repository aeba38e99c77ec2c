"""The plain torch engine: the reference that DeepSpeed's loss curve is tested against."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, distributed

from metaformer.engine.base import (
    Batching,
    Engine,
    Write,
    clip_gradients,
    make_optimizer,
    set_lr,
    state_per_parameter,
)
from metaformer.engine.place import Place
from metaformer.engine.screen import screened
from metaformer.model import Step
from metaformer.recipe import Recipe
from metaformer.types import Batch

OPTIMIZER = "optimizer.pt"


class TorchEngine(Engine):
    """One process, or several that average their gradients once per step."""

    def __init__(self, step: Step, recipe: Recipe, place: Place, batching: Batching) -> None:
        super().__init__(step, recipe, place, batching)
        step.to(place.device)
        self.optimizer = make_optimizer(self.model, recipe.optimizer)
        self.clip = recipe.engine.clip
        self.trained = [p for p in self.model.parameters() if p.requires_grad]
        self._spec = recipe.optimizer

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        out: dict[str, Tensor] = self.step_module(batch)
        return out

    def backward(self, loss: Tensor) -> None:
        if self.scale is not None:
            loss = loss * self.scale.value
        (loss / self.batching.accumulate).backward()  # type: ignore[no-untyped-call]

    def step(self, lr: float) -> float:
        self._average()
        if self.scale is not None:
            torch._foreach_div_([p.grad for p in self.trained if p.grad is not None], self.scale.value)
        norm = clip_gradients(self.trained, self.clip)
        if math.isfinite(norm):
            set_lr(self.optimizer.param_groups, lr)
            self.optimizer.step()
        self.optimizer.zero_grad()
        return norm

    def _average(self) -> None:
        if self.place.world == 1:
            return
        for p in self.trained:
            grad = p.grad if p.grad is not None else torch.zeros_like(p)
            distributed.all_reduce(grad)
            p.grad = grad.div_(self.place.world)

    def gradients(self) -> Iterator[tuple[str, Tensor]]:
        self._average()
        for name, p in self.model.named_parameters():
            if p.grad is not None:
                yield name, p.grad

    def save(self, folder: Path, write: Write) -> None:
        if self.place.leads:
            write(OPTIMIZER, self.optimizer.state_dict())

    def load(self, folder: Path, trust: bool = False) -> None:
        self.optimizer.load_state_dict(screened(folder / OPTIMIZER, self.place.device, trust, classes=False))

    @contextmanager
    def whole(self, tensors: Sequence[Tensor], write: bool = False) -> Iterator[None]:
        yield

    def state_bytes(self) -> int:
        return sum(p.numel() * p.element_size() for p in self.trained) * state_per_parameter(self._spec)
