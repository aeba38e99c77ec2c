"""Evaluation: a task's metrics and loss over its validation data, the same on any number of ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from metaformer.base import Metric
from metaformer.build import Judge, TaskData, assemble, judges, open_data, step_module
from metaformer.checkpoint import load_weights, pointer
from metaformer.data.loader import Reader, eval_addresses, load_batches
from metaformer.engine import Place, find_place
from metaformer.errors import CheckpointError, DataError
from metaformer.metrics.standard import counting_rows
from metaformer.model import MetaFormer, Step
from metaformer.recipe import Recipe
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

    def total(self, values: Sequence[float]) -> list[float]:
        """Sums over ranks."""
        ...


class Inference:
    """A trained model without an optimizer."""

    def __init__(self, step: Step, place: Place) -> None:
        self.step_module, self.model, self.place = step.to(place.device), step.model, place

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Losses and predictions."""
        out: dict[str, Tensor] = self.step_module(batch)
        return out

    def total(self, values: Sequence[float]) -> list[float]:
        """One process: the values themselves."""
        return list(values)


def evaluate(
    runner: Runner, recipe: Recipe, data: Mapping[str, TaskData], batch: int, bad: list[BadSample] | None = None
) -> dict[str, float]:
    """`task/loss` and `task/metric` for every task with validation data. Leaves the model in eval mode; draws from
    no global random generator. Unreadable samples are appended to `bad`, or raise where it is None."""
    results: dict[str, float] = {}
    runner.model.eval()
    with torch.no_grad():
        for spec in data.values():
            if spec.valid is not None:
                results |= _evaluate_task(runner, recipe, spec.valid, batch, bad)
    return results


def _evaluate_task(
    runner: Runner, recipe: Recipe, reader: Reader, batch: int, bad: list[BadSample] | None
) -> dict[str, float]:
    task, place = reader.task, runner.place
    pairs = [(judge, judge.metric(runner.model)) for judge in judges(recipe, runner.model, task)]
    addresses = eval_addresses(task, len(reader), batch, place.rank, place.world)
    losses = counted = 0.0
    loader = recipe.loader
    for samples in load_batches(
        {task: reader}, addresses, workers=loader.workers, prefetch=loader.prefetch, timeout=loader.timeout
    ):
        if samples.bad and bad is None:
            raise DataError(
                f"evaluate task {task!r}", samples.bad[0].error, "mend the sample, or set loader.bad_samples: skip"
            )
        if bad is not None:
            bad += samples.bad
        on_device = samples.to(place.device)
        out = runner.forward(on_device)
        rows = sum(1 for name in samples.ids if name) - len(samples.bad)
        losses, counted = losses + float(out["loss"]) * rows, counted + rows
        for judge, metric in pairs:
            _update(judge, metric, out, on_device)
    losses, counted = runner.total([losses, counted])
    results = {f"{task}/loss": losses / max(counted, 1)}
    return results | {f"{task}/{judge.name}": metric.compute() for judge, metric in pairs}


def _update(judge: Judge, metric: Metric, out: Mapping[str, Tensor], batch: Batch) -> None:
    value, present = out[f"predictions/{judge.head}"], out[f"present/{judge.head}"]
    target = batch.targets[judge.target]
    if judge.form.kind == "classes":
        value, target = value[:, : target.shape[1]], target[:, : value.shape[1]]
    rows = counting_rows(judge.form, target, present)
    metric.update(value[rows], target[rows])


def choose_checkpoint(run: Run, name: str) -> Path:
    """The checkpoint that `best` or `latest` means; `best` falls back on `latest` where nothing was evaluated."""
    folder = pointer(run, name) or pointer(run, "latest")
    if folder is None:
        raise CheckpointError(f"use {name} of {run.path}", "the run has no checkpoint yet", "train it first")
    return folder


def restore(run: Run, checkpoint: str) -> tuple[MetaFormer, Path]:
    """The run's model with the weights of a checkpoint, in eval mode, on CPU."""
    folder = choose_checkpoint(run, checkpoint)
    model = assemble(run.recipe)
    load_weights(run, folder, model)
    model.eval()
    return model, folder


def eval_command(path: Path, sets: list[str], checkpoint: str = "best") -> None:
    """`metaformer eval RUN`: print the metrics of a run's checkpoint on its validation data."""
    run = open_run(find_run(path), tuple(sets))
    model, folder = restore(run, checkpoint)
    data = open_data(run.recipe, model, run.base)
    place = find_place(run.recipe.engine.threads)
    runner = Inference(step_module(model, data, run.recipe), place)
    bad: list[BadSample] = []
    results = evaluate(
        runner, run.recipe, data, eval_batch(run.recipe), bad if run.recipe.loader.bad_samples == "skip" else None
    )
    console = Console()
    console.table(f"{run.path.name}, {folder.name}", ["metric", "value"], [[k, f"{v:.4f}"] for k, v in results.items()])
    if bad:
        console.say(f"{len(bad)} unreadable samples were left out; the first: {bad[0].error}")


def eval_batch(recipe: Recipe) -> int:
    """Samples per forward pass of an evaluation."""
    return recipe.eval_batch or recipe.engine.micro_batch or min(recipe.batch_size or 32, 256)
