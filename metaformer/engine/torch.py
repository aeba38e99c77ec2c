"""The plain torch engine: the reference that DeepSpeed's loss curve is tested against."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, distributed

from metaformer.engine.base import Engine, Place, clip_gradients, make_optimizer, set_lr
from metaformer.model import Step
from metaformer.recipe import Recipe
from metaformer.types import Batch


class TorchEngine(Engine):
    """One process, or several that average their gradients once per step."""

    def __init__(self, step: Step, recipe: Recipe, place: Place) -> None:
        super().__init__(step, recipe, place)
        step.to(place.device)
        self.optimizer = make_optimizer(self.model, recipe.optimizer)
        self.clip = recipe.engine.clip
        self.trained = [p for p in self.model.parameters() if p.requires_grad]

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        out: dict[str, Tensor] = self.step_module(batch)
        return out

    def backward(self, loss: Tensor) -> None:
        (loss / self.batching.accumulate).backward()  # type: ignore[no-untyped-call]

    def step(self, lr: float, measure: bool = True) -> float | None:
        if self.place.world > 1:
            for p in self.trained:
                grad = p.grad if p.grad is not None else torch.zeros_like(p)
                distributed.all_reduce(grad)
                p.grad = grad.div_(self.place.world)
        norm = clip_gradients(self.trained, self.clip, measure)
        set_lr(self.optimizer.param_groups, lr)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return norm

    def save(self, folder: Path) -> None:
        if self.place.leads:
            torch.save(self.optimizer.state_dict(), folder / "optimizer.pt")

    def load(self, folder: Path) -> None:
        state = torch.load(folder / "optimizer.pt", map_location=self.place.device, weights_only=True)
        self.optimizer.load_state_dict(state)

    @contextmanager
    def whole(self) -> Iterator[None]:
        yield
