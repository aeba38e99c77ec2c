"""What the training loop asks of an engine."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from metaformer.errors import Problem, RecipeError
from metaformer.model import MetaFormer, Step
from metaformer.recipe import Optimizer, Recipe
from metaformer.trainable import parameter_groups
from metaformer.types import Batch


@dataclass(frozen=True)
class Place:
    """Where this process stands among its peers."""

    rank: int
    world: int
    device: torch.device

    @property
    def leads(self) -> bool:
        """Rank zero: writes files and talks."""
        return self.rank == 0


@dataclass(frozen=True)
class Batching:
    """How a step's samples are cut: `micro` per forward pass, `accumulate` passes per rank, `world` ranks."""

    micro: int
    accumulate: int
    world: int

    @property
    def per_step(self) -> int:
        """Micro-batches of one step, over all ranks."""
        return self.accumulate * self.world

    @property
    def total(self) -> int:
        """Samples of one step."""
        return self.micro * self.per_step


class Engine(ABC):
    """A step module with its optimizer, placed on a device. Every method is called on all ranks together."""

    def __init__(self, step: Step, recipe: Recipe, place: Place) -> None:
        self.step_module = step
        self.model: MetaFormer = step.model
        self.place = place
        self.batching = batching(recipe, place.world)

    @abstractmethod
    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Losses by name, `loss` their sum; in eval mode the predictions as well (see `Step`)."""

    @abstractmethod
    def backward(self, loss: Tensor) -> None:
        """Add a micro-batch's gradients; the engine divides by `accumulate` and averages over ranks."""

    @abstractmethod
    def step(self, lr: float, measure: bool = True) -> float | None:
        """Clip, update, zero. Called after every `accumulate` backward passes; returns the global gradient norm
        before clipping, or None where nothing clips and it need not be measured: that is a pass over all gradients."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Optimizer state of all ranks, into an existing folder."""

    @abstractmethod
    def load(self, folder: Path) -> None:
        """What `save` wrote, for the same number of ranks."""

    @abstractmethod
    def whole(self) -> AbstractContextManager[None]:
        """Inside, every parameter is whole on every rank."""

    def agree(self, values: Sequence[float]) -> list[float]:
        """The largest of each value over all ranks."""
        if self.place.world == 1:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64, device=self.place.device)
        torch.distributed.all_reduce(tensor, op=torch.distributed.ReduceOp.MAX)
        return [float(v) for v in tensor]

    def total(self, values: Sequence[float]) -> list[float]:
        """The sum of each value over all ranks."""
        if self.place.world == 1:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64, device=self.place.device)
        torch.distributed.all_reduce(tensor)
        return [float(v) for v in tensor]


def batching(recipe: Recipe, world: int) -> Batching:
    """`batch_size`, `engine.micro_batch` and `engine.accumulate` for this many ranks. Raises RecipeError where
    they contradict each other."""
    total, micro, accumulate = recipe.batch_size, recipe.engine.micro_batch, recipe.engine.accumulate
    if total is None:
        return Batching(micro or 32, accumulate or 1, world)
    if micro is None:
        micro = total // (world * (accumulate or 1))
    if accumulate is None:
        accumulate = max(total // (world * micro), 1) if micro else 1
    if micro * accumulate * world != total:
        raise RecipeError(
            recipe.name,
            [
                Problem(
                    "batch_size",
                    f"{total} samples per step cannot be cut into {world} rank(s) x {accumulate} pass(es) "
                    f"x {micro or '?'} samples",
                    "choose a batch_size that engine.micro_batch x engine.accumulate x ranks divides",
                )
            ],
        )
    return Batching(micro, accumulate, world)


def make_optimizer(model: nn.Module, spec: Optimizer) -> torch.optim.Optimizer:
    """The recipe's optimizer over the trained parameters only: frozen ones have no state."""
    groups = parameter_groups(model, spec.groups, spec.weight_decay)
    if spec.use == "sgd":
        return torch.optim.SGD(groups, lr=spec.lr, momentum=spec.momentum, nesterov=spec.momentum > 0)
    # The fused kernel is several times faster than the default one on CPU: benchmarks/train_step.py.
    return torch.optim.AdamW(groups, lr=spec.lr, betas=spec.betas, eps=spec.eps, fused=True)


def clip_gradients(parameters: Sequence[nn.Parameter], limit: float | None, measure: bool) -> float | None:
    """Global gradient norm before clipping to `limit`. Without a limit it is measured where asked for, else None."""
    if limit is not None:
        return float(nn.utils.clip_grad_norm_(parameters, limit))
    if not measure:
        return None
    return float(nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None]))


def set_lr(groups: Iterable[dict[str, Any]], lr: float) -> None:
    """Set the rate of every optimizer group to the schedule's value times its scale."""
    for group in groups:
        group["lr"] = lr * group["lr_scale"]
