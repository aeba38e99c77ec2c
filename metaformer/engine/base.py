"""What the training loop asks of an engine."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from metaformer.engine.place import Place
from metaformer.errors import CheckpointError, Problem, RecipeError
from metaformer.model import MetaFormer, Step
from metaformer.recipe import Optimizer, Recipe
from metaformer.trainable import parameter_groups
from metaformer.types import Batch


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


class LossScale:
    """The factor that keeps fp16 gradients above zero: halved where a gradient is not finite, doubled after a while.

    Source: arXiv 1710.03740; the constants are those of `torch.amp.GradScaler`."""

    GROWTH_INTERVAL = 2000

    def __init__(self, value: float = 65536.0, good: int = 0) -> None:
        self.value, self.good = value, good

    def update(self, finite: bool) -> None:
        """After a step whose gradient was finite, or not."""
        self.good = self.good + 1 if finite else 0
        if not finite:
            self.value = max(self.value / 2, 1.0)
        elif self.good == self.GROWTH_INTERVAL:
            self.value, self.good = self.value * 2, 0


Write = Callable[[str, Any], None]
"""(file name, object) → written beside the others, now or soon."""


class Engine(ABC):
    """A step module with its optimizer, placed on a device. Every method is called on all ranks together."""

    optimizer: Any
    """torch's own, or what DeepSpeed has put around it."""

    def __init__(self, step: Step, recipe: Recipe, place: Place, batching: Batching) -> None:
        self.step_module = step
        self.model: MetaFormer = step.model
        self.place = place
        self.batching = batching
        self.scale = LossScale() if recipe.engine.precision == "fp16" else None

    @abstractmethod
    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Losses by name, `loss` their sum; in eval mode the predictions as well (see `Step`)."""

    @abstractmethod
    def backward(self, loss: Tensor) -> None:
        """Add a micro-batch's gradients; the engine divides by `accumulate` and averages over ranks."""

    @abstractmethod
    def step(self, lr: float) -> float:
        """Clip, update, zero. Called after every `accumulate` backward passes; returns the global gradient norm before
        clipping. Where that is not finite nothing was updated, on no rank."""

    @abstractmethod
    def gradients(self) -> Iterator[tuple[str, Tensor]]:
        """Whole gradients by parameter name, between the last backward pass and `step`."""

    @abstractmethod
    def save(self, folder: Path, write: Write) -> None:
        """Hand over this rank's optimizer state, for files in an existing folder."""

    @abstractmethod
    def load(self, folder: Path, trust: bool = False) -> None:
        """What `save` wrote, for the same engine, stage and number of ranks. Only plain tensors and numbers are read,
        unless `trust` says that the files may run code."""

    @abstractmethod
    def whole(self, tensors: Sequence[Tensor], write: bool = False) -> AbstractContextManager[None]:
        """Inside, these parameters are whole on every rank. `write`: changes made there, on all ranks alike, stay."""

    @abstractmethod
    def state_bytes(self) -> int:
        """Roughly what the files of `save` will hold on all ranks."""


def state_per_parameter(spec: Optimizer) -> int:
    """How many numbers the optimizer keeps for each trained one."""
    if spec.use == "sgd":
        return 1 if spec.momentum else 0
    return 2


def recut(old: Batching, world: int, tasks: int) -> Batching:
    """The steps of a run that was begun on another number of ranks, on this one: the same samples in every step, in
    micro-batches of the same size where they divide. Raises CheckpointError where that cannot be."""
    if old.per_step % world == 0:
        return Batching(old.micro, old.per_step // world, world)
    # A micro-batch belongs to one task: only with a single task may the step be cut anew.
    if tasks == 1 and old.total % world == 0:
        accumulate = max(1, -(-old.total // (world * old.micro)))
        while old.total % (world * accumulate):
            accumulate += 1
        return Batching(old.total // (world * accumulate), accumulate, world)
    raise CheckpointError(
        f"go on with {world} ranks",
        f"a step of this run has {old.per_step} micro-batches of {old.micro} samples, which {world} ranks cannot share",
        f"use a number of ranks that divides {old.per_step}",
    )


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


def clip_gradients(parameters: Sequence[nn.Parameter], limit: float | None) -> float:
    """Global gradient norm before clipping to `limit`. Gradients whose norm is not finite are left alone."""
    norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    value = float(norm)
    if limit is not None and math.isfinite(value):
        nn.utils.clip_grads_with_norm_(parameters, limit, norm)
    return value


def size_of(parameter: Tensor) -> int:
    """How many numbers a parameter has: ZeRO-3 keeps an empty stand-in, with the true size in `ds_numel`."""
    return int(getattr(parameter, "ds_numel", parameter.numel()))


def set_lr(groups: Iterable[dict[str, Any]], lr: float) -> None:
    """Set the rate of every optimizer group to the schedule's value times its scale."""
    for group in groups:
        group["lr"] = lr * group["lr_scale"]
