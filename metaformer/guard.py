"""Guards: is this step's loss, and its gradient, what a training step may act on? And if not, what was it?"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from metaformer.engine import Engine
from metaformer.types import Batch

MINIMUM = 16
"""Losses of a task that must have been seen before one can be called a spike."""


class Spikes:
    """Recent losses of each task; one far above their median is a spike and is not added to them.

    A robust z-score: the distance to the median in units of 1.4826 x the median absolute deviation, which is the
    standard deviation where losses are normal. A share of the median is added to that unit, so that a loss that has
    become nearly constant does not turn noise into spikes."""

    FLOOR = 0.05

    def __init__(self, window: int, threshold: float, seen: Mapping[str, Sequence[float]] | None = None) -> None:
        self.window, self.threshold = window, threshold
        self.seen: dict[str, list[float]] = {task: list(losses) for task, losses in (seen or {}).items()}

    def score(self, task: str, loss: float) -> float:
        """How many deviations above the recent losses; 0 while there are too few."""
        recent = self.seen.get(task, [])
        if len(recent) < MINIMUM:
            return 0.0
        values = np.asarray(recent)
        median = float(np.median(values))
        unit = 1.4826 * float(np.median(np.abs(values - median))) + self.FLOOR * abs(median) + 1e-12
        return (loss - median) / unit

    def is_spike(self, task: str, loss: float) -> bool:
        """Whether a loss lies beyond the threshold."""
        return self.score(task, loss) > self.threshold

    def add(self, task: str, loss: float) -> None:
        """Remember a healthy loss."""
        recent = self.seen.setdefault(task, [])
        recent.append(loss)
        del recent[: -self.window]


def running_statistics(model: nn.Module) -> list[tuple[Tensor, Tensor]]:
    """The running statistics of norms that are being trained, with copies: a forward pass moves them before anybody
    can know whether its step will be made."""
    kept = []
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._NormBase) and module.training and module.track_running_stats:
            kept += [(buffer, buffer.clone()) for buffer in module.buffers(recurse=False)]
    return kept


def put_back(statistics: Sequence[tuple[Tensor, Tensor]]) -> None:
    """Undo what a forward pass did to running statistics."""
    with torch.no_grad():
        for buffer, before in statistics:
            buffer.copy_(before)


class Findings:
    """What a second pass over the micro-batches of a bad step shows on this rank."""

    def __init__(self) -> None:
        self.inputs: list[str] = []
        """Streams whose raw tensors are not finite."""
        self.forward: str | None = None
        """The first module, in the order of computation, whose output is not finite."""
        self.backward: str | None = None
        """The first module, in the order of the backward pass, at whose output the gradient is not finite."""
        self.parameters: dict[str, float] = {}
        """Norms of gradients by module, over all ranks."""

    def record(self) -> dict[str, Any]:
        """For `diverged.json`."""
        return {
            "inputs": self.inputs,
            "first_nonfinite_module": self.forward,
            "first_nonfinite_gradient": self.backward,
        }


def diagnose(engine: Engine, batches: Sequence[Batch], reseed: Any) -> Findings:
    """Go over a step's micro-batches once more, forward and backward, and look at every module. The engine's gradients
    are what they would be before a step; the run must end after this. Called on all ranks together."""
    found = Findings()
    for index, batch in enumerate(batches):
        for stream, raw in batch.streams.items():
            if any(value.is_floating_point() and not _finite(value) for value in raw.values()):
                found.inputs.append(stream)
        with _watched(engine.model, found):
            reseed(index)
            engine.backward(engine.forward(batch.to(engine.place.device))["loss"])
    squares: dict[str, float] = {}
    for name, gradient in engine.gradients():
        module = name.rpartition(".")[0]
        squares[module] = squares.get(module, 0.0) + float(gradient.double().pow(2).sum())
    found.parameters = {name: math.sqrt(value) if value >= 0 else value for name, value in squares.items()}
    return found


@contextmanager
def _watched(model: nn.Module, found: Findings) -> Iterator[None]:
    handles = [module.register_forward_hook(_looker(name, found)) for name, module in model.named_modules() if name]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _looker(name: str, found: Findings) -> Any:
    def look(module: nn.Module, inputs: Any, output: Any) -> None:
        for tensor in _tensors(output):
            if found.forward is None and not _finite(tensor):
                found.forward = name
            if tensor.requires_grad:
                tensor.register_hook(look_back)  # type: ignore[no-untyped-call]

    def look_back(gradient: Tensor) -> None:
        if found.backward is None and not _finite(gradient):
            found.backward = name

    return look


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _tensors(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _tensors(inner)


def _finite(tensor: Tensor) -> bool:
    return bool(torch.isfinite(tensor).all())
