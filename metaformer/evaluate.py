"""Evaluation: a task's metrics and loss over its validation data, the same on any number of ranks."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from metaformer.assemble import assemble
from metaformer.build import TaskData, open_data, step_module
from metaformer.checkpoint import load_weights, pointer
from metaformer.data.loader import Reader, eval_addresses
from metaformer.data.stream import BatchStream
from metaformer.engine import Place, find_place
from metaformer.errors import CheckpointError, DataError
from metaformer.judge import judges
from metaformer.model import MetaFormer, Step
from metaformer.plaintext import printable
from metaformer.recipe import Recipe
from metaformer.remaining import remaining
from metaformer.report.console import Console
from metaformer.run import Run, find_run, open_run
from metaformer.types import BadSample, Batch


@runtime_checkable
class Runner(Protocol):
    """What evaluation needs: an engine, or `Inference`."""

    place: Place
    model: MetaFormer

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Losses and predictions."""
        ...


class Inference:
    """A trained model without an optimizer."""

    def __init__(self, step: Step, place: Place) -> None:
        self.step_module, self.model, self.place = step.to(place.device), step.model, place

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Losses and predictions."""
        out: dict[str, Tensor] = self.step_module(batch)
        return out


def evaluate(
    runner: Runner,
    recipe: Recipe,
    data: Mapping[str, TaskData],
    batch: int,
    bad: list[BadSample] | None = None,
    interrupted: Callable[[], bool] = lambda: False,
) -> dict[str, float] | None:
    """`task/loss` and `task/metric` for every task with validation data; None where `interrupted` has said so on any
    rank. Leaves the model in eval mode; draws from no global random generator. Unreadable samples are appended to
    `bad`, on every rank those of all, or raise where it is None."""
    results: dict[str, float] = {}
    runner.model.eval()
    with torch.no_grad():
        for spec in data.values():
            if spec.valid is not None:
                found = _evaluate_task(runner, recipe, spec.valid, batch, bad, interrupted)
                if found is None:
                    return None
                results |= found
    return results


def _evaluate_task(
    runner: Runner,
    recipe: Recipe,
    reader: Reader,
    batch: int,
    bad: list[BadSample] | None,
    interrupted: Callable[[], bool],
) -> dict[str, float] | None:
    task, place = reader.task, runner.place
    pairs = [(judge, judge.metric(runner.model)) for judge in judges(recipe, runner.model, task)]
    addresses = eval_addresses(task, len(reader), batch, place.rank, place.world)
    losses = counted = 0.0
    found: list[BadSample] = []
    loader = recipe.loader
    with BatchStream(
        {task: reader}, addresses, workers=loader.workers, prefetch=loader.prefetch, timeout=loader.timeout
    ) as stream:
        for _ in addresses:
            samples = _next(stream, task, place, bad is None, interrupted)
            if samples is None:
                return None
            found += samples.bad
            on_device = samples.to(place.device)
            out = runner.forward(on_device)
            rows = sum(1 for name in samples.ids if name) - len(samples.bad)
            losses, counted = losses + float(out["loss"]) * rows, counted + rows
            for judge, metric in pairs:
                judge.update(metric, out, on_device)
    losses, counted, wrong = place.total([losses, counted, float(len(found))])
    if bad is not None and wrong:
        bad += [sample for each in place.gather(found) for sample in each]
    results = {f"{task}/loss": losses / max(counted, 1)}
    return results | {f"{task}/{judge.name}": metric.compute() for judge, metric in pairs}


def _next(stream: BatchStream, task: str, place: Place, strict: bool, interrupted: Callable[[], bool]) -> Batch | None:
    """The next batch, on all ranks or, where one is interrupted or fails, on none."""
    samples: Batch | None = None
    error: Exception | None = None
    try:
        samples = stream.next(interrupted)
        if strict and samples is not None and samples.bad:
            do = "mend the sample, or set loader.bad_samples: skip"
            error = DataError(f"evaluate task {task!r}", samples.bad[0].error, do)
    except Exception as caught:
        error = caught
    stopped = place.together(error, [float(samples is None or interrupted())])[0]
    return None if stopped else samples


def choose_checkpoint(run: Run, name: str) -> Path:
    """The checkpoint that `best` or `latest` means; `best` falls back on `latest` where nothing was evaluated."""
    folder = pointer(run, name) or pointer(run, "latest")
    if folder is None:
        raise CheckpointError(f"use {name} of {run.path}", "the run has no checkpoint yet", "train it first")
    return folder


def restore(run: Run, checkpoint: str) -> tuple[Run, MetaFormer, Path]:
    """The run, its model with the weights of a checkpoint, in eval mode, on CPU, and the checkpoint.

    Where plugins are gone, run and model are what is left of them, and a line on standard error says what is not."""
    folder = choose_checkpoint(run, checkpoint)
    run, lost = remaining(run)
    if lost:
        print(printable(f"not installed any more, left out: {', '.join(lost)}"), file=sys.stderr)
    model = assemble(run.recipe)
    load_weights(run, folder, model, lost=lost)
    model.eval()
    return run, model, folder


def eval_command(path: Path, sets: list[str], checkpoint: str = "best") -> None:
    """`metaformer eval RUN`: print the metrics of a run's checkpoint on its validation data."""
    run = open_run(find_run(path), tuple(sets), partial=True)
    run, model, folder = restore(run, checkpoint)
    data = open_data(run.recipe, model, run.base)
    place = find_place(run.recipe.engine.threads)
    runner = Inference(step_module(model, data, run.recipe, train=False), place)
    bad: list[BadSample] = []
    strict = run.recipe.loader.bad_samples == "raise"
    results = evaluate(runner, run.recipe, data, eval_batch(run.recipe), None if strict else bad)
    assert results is not None  # nobody interrupts it
    console = Console()
    console.table(f"{run.path.name}, {folder.name}", ["metric", "value"], [[k, f"{v:.4f}"] for k, v in results.items()])
    if bad:
        console.say(f"{len(bad)} unreadable samples were left out; the first: {bad[0].error}")


def eval_batch(recipe: Recipe) -> int:
    """Samples per forward pass of an evaluation."""
    return recipe.eval_batch or recipe.engine.micro_batch or min(recipe.batch_size or 32, 256)
