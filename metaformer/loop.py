"""The training loop: one straight line from batches to updates, with evaluation and checkpoints on the way."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from metaformer.build import judges
from metaformer.checkpoint import save_checkpoint
from metaformer.data.loader import load_batches
from metaformer.errors import DataError, DivergedError, MetaformerError, StoppedError
from metaformer.evaluate import eval_batch, evaluate
from metaformer.model import MetaFormer
from metaformer.recipe import Recipe
from metaformer.registry import registry
from metaformer.schedule import learning_rate
from metaformer.session import Session
from metaformer.types import BadSample, Batch


def run_steps(session: Session) -> dict[str, float]:
    """Train to the end and return the final metrics. Raises StoppedError after a signal, with everything saved."""
    recipe, engine, run = session.recipe, session.engine, session.run
    metrics: dict[str, float] = {}
    batches = _batches(session)
    session.console.begin(recipe.name, session.done, recipe.steps)
    engine.model.train()
    began, first = time.perf_counter(), session.done
    while session.done < recipe.steps:
        record = train_step(session, batches, session.done)
        session.done += 1
        run.append("metrics.jsonl", record)
        left = (time.perf_counter() - began) / (session.done - first) * (recipe.steps - session.done)
        last = session.done == recipe.steps
        session.console.step(record, recipe.steps, _logged(recipe, session.done), left)
        if session.place.leads:
            registry().observe("step_finished", run=run, record=record)
        better = False
        if last or _due(recipe.eval_every, session.done):
            metrics = _evaluate(session)
            better = _is_best(session, metrics)
        stopped = not last and bool(engine.agree([float(session.stop.requested)])[0])
        if last or stopped or better or _due(recipe.save_every, session.done):
            _save(session, better)
        if stopped:
            raise StoppedError(
                f"stopped by {session.stop.name or 'a signal to another rank'} after step {session.done}",
                f"everything is saved in {run.checkpoints}",
                f"go on with: metaformer train --resume {run.path}",
            )
    # A run that had made its last step, but not ended, when it was interrupted.
    return metrics or _evaluate(session)


def _logged(recipe: Recipe, done: int) -> bool:
    return done == recipe.steps or _due(recipe.log_every, done)


def _due(every: int | None, done: int) -> bool:
    return every is not None and done % every == 0


def _batches(session: Session) -> Iterator[Batch]:
    loader = session.recipe.loader
    return load_batches(
        {task: spec.train for task, spec in session.data.items()},
        session.order.rank_stream(session.done, session.place.rank, session.place.world),
        workers=loader.workers,
        prefetch=loader.prefetch,
        timeout=loader.timeout,
    )


def train_step(session: Session, batches: Iterator[Batch], step: int) -> dict[str, Any]:
    """One update from `accumulate` micro-batches per rank; the record of it. Raises DivergedError before the
    weights are touched where any rank's loss is not finite."""
    recipe, engine = session.recipe, session.engine
    tasks = list(session.data)
    began = time.perf_counter()
    sums, named = [0.0] * (2 * len(tasks)), defaultdict(list)
    waited = 0.0
    for _ in range(engine.batching.accumulate):
        asked = time.perf_counter()
        batch = next(batches)
        waited += time.perf_counter() - asked
        _count_bad(session, batch)
        out = engine.forward(batch.to(session.place.device))
        _refuse_divergence(session, out["loss"], step, batch)
        engine.backward(out["loss"])
        place = tasks.index(batch.task)
        sums[place] += float(out["loss"].detach())
        sums[len(tasks) + place] += 1
        for name, value in out.items():
            if name != "loss":
                named[name].append(float(value))
    lr = learning_rate(step, recipe.steps, recipe.optimizer.lr, recipe.schedule)
    norm = engine.step(lr, measure=_logged(recipe, step + 1))
    sums = engine.total(sums)
    losses, counts = sums[: len(tasks)], sums[len(tasks) :]
    loss = sum(losses) / sum(counts)
    seconds = time.perf_counter() - began
    session.seen += engine.batching.total
    record = {
        "step": step + 1,
        "loss": loss,
        "loss_hex": loss.hex(),
        "lr": lr,
        "grad_norm": norm if norm is not None and np.isfinite(norm) else None,
        "samples_per_s": engine.batching.total / seconds,
        "data_wait": waited / seconds,
    }
    if len(tasks) > 1:
        record |= {f"loss/{t}": losses[i] / counts[i] for i, t in enumerate(tasks) if counts[i]}
    if len(named) > 1:
        record |= {f"loss/{name}": sum(v) / len(v) for name, v in named.items()}
    return record


def _refuse_divergence(session: Session, loss: torch.Tensor, step: int, batch: Batch) -> None:
    if session.engine.agree([0.0 if torch.isfinite(loss) else 1.0])[0]:
        raise DivergedError(
            f"step {step + 1}: the loss must be finite",
            f"{float(loss.detach())} here, rank {session.place.rank}, on samples {', '.join(batch.ids[:8])}",
            "lower optimizer.lr, lengthen schedule.warmup, set engine.clip, or look at the samples",
        )


def _count_bad(session: Session, batch: Batch) -> None:
    """Apply the recipe's policy to samples that could not be read."""
    for bad in batch.bad:
        if session.recipe.loader.bad_samples == "raise":
            raise DataError(
                f"task {bad.task!r}: sample {bad.id} cannot be used",
                bad.error,
                "mend or remove it, or set loader.bad_samples: skip to count and pass over such samples",
            )
        session.bad.append(bad)
        session.run.append("bad_samples.jsonl", asdict(bad))
    seen = max(session.seen, 1)
    if len(session.bad) > 10 and len(session.bad) / seen > session.recipe.loader.max_bad_fraction:
        raise DataError(
            f"at most {session.recipe.loader.max_bad_fraction:.1%} of the samples may be bad",
            f"{len(session.bad)} of {seen}: see {session.run.path / 'bad_samples.jsonl'}",
            "mend the data, or raise loader.max_bad_fraction",
        )


def _evaluate(session: Session) -> dict[str, float]:
    recipe, engine = session.recipe, session.engine
    if not any(spec.valid for spec in session.data.values()):
        return {}
    bad: list[BadSample] = []
    skip = recipe.loader.bad_samples == "skip"
    metrics = evaluate(engine, recipe, session.data, eval_batch(recipe), bad if skip else None)
    for sample in bad:
        session.run.append("bad_samples.jsonl", asdict(sample))
    engine.model.train()
    record = {"step": session.done, "event": "eval", "metrics": metrics}
    session.run.append("metrics.jsonl", record)
    session.console.evaluated(session.done, metrics)
    if session.place.leads:
        registry().observe("evaluated", run=session.run, record=record)
    return metrics


def _is_best(session: Session, metrics: Mapping[str, float]) -> bool:
    """Whether these metrics are the best so far; if so, remember them."""
    name, larger = best_metric(session.recipe, session.engine.model)
    value = metrics.get(name)
    if value is None or not np.isfinite(value):
        return False
    if session.best is not None and not (value > session.best if larger else value < session.best):
        return False
    session.best = value
    return True


def _save(session: Session, best: bool) -> None:
    folder = save_checkpoint(session.run, session.engine, session.done, best)
    if best:
        record = {"value": session.best, "checkpoint": folder.name, "step": session.done}
        session.run.write_json("best.json", record)
    session.run.status("running", session.done)


def best_metric(recipe: Recipe, model: MetaFormer) -> tuple[str, bool]:
    """The metric that the best checkpoint is chosen by, and whether larger is better."""
    directions = {
        f"{task}/{judge.name}": judge.cls.higher_is_better
        for task in recipe.tasks
        for judge in judges(recipe, model, task)
    }
    directions |= {f"{task}/loss": False for task in recipe.tasks}
    name = recipe.best.metric if recipe.best else next(iter(directions))
    if name not in directions:
        raise MetaformerError(f"best.metric {name!r}", f"metrics are: {', '.join(directions)}", "name one of them")
    larger = directions[name]
    if recipe.best and recipe.best.mode:
        larger = recipe.best.mode == "max"
    return name, larger
