"""The training loop: one straight line from batches to updates, with evaluation and checkpoints on the way."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, NoReturn, cast

import numpy as np
import torch
from torch import nn

from metaformer.base import Objective
from metaformer.errors import MetaformerError, StoppedError
from metaformer.evaluate import eval_batch, evaluate
from metaformer.gradients import watch
from metaformer.guard import put_back, running_statistics
from metaformer.judge import judges
from metaformer.model import MetaFormer
from metaformer.recipe import Recipe
from metaformer.recovery import diverged, roll_back
from metaformer.registry import registry
from metaformer.schedule import learning_rate
from metaformer.session import Session, certify
from metaformer.types import BadSample
from metaformer.window import Window, reseed, take_window

Losses = dict[str, tuple[float, float]]
"""Task → sum of its micro-batches' losses over all ranks, and how many there were."""


def run_steps(session: Session) -> dict[str, float]:
    """Train to the end and return the final metrics. Raises StoppedError after a signal, with everything saved."""
    recipe, done = session.recipe, session.progress.done
    metrics: dict[str, float] = {}
    session.gradients = watch(recipe, session.engine, session.console.say)
    session.console.begin(recipe.name, done, recipe.steps)
    session.engine.model.train()
    session.open_stream()
    try:
        if done and _is_due(recipe, recipe.eval_every, done) and session.progress.evaluated != done:
            # It was interrupted, and the checkpoint that this run goes on from was saved without it.
            metrics = _evaluate(session)
            if _is_best(session, metrics):
                _save(session, best=True)
        began, first = time.perf_counter(), done
        while session.progress.done < recipe.steps:
            window = take_window(session)
            if window is None:
                _stop(session)
            record = train_step(session, window)
            done = session.progress.done
            if done < record["step"]:
                first = min(first, done)
                continue  # the guard has gone back to a checkpoint
            left = (time.perf_counter() - began) / (done - first) * (recipe.steps - done)
            _tell(session, record, left)
            better = False
            if _is_due(recipe, recipe.eval_every, done):
                metrics = _evaluate(session)
                better = _is_best(session, metrics)
            if better or _is_due(recipe, recipe.save_every, done):
                _save(session, better)
        session.saver.finish()
        session.place.together(session.failed)
        # A run that had made its last step, but not ended, when it was interrupted.
        return metrics or _evaluate(session, again=True)
    finally:
        if session.batches is not None:
            session.batches.close()


def _tell(session: Session, record: Mapping[str, Any], left: float) -> None:
    """Files, terminal and observers hear of a step."""
    recipe, done = session.recipe, session.progress.done
    with session.alone():
        session.run.append("metrics.jsonl", record)
        session.console.step(record, recipe.steps, _is_due(recipe, recipe.log_every, done), left)
        if session.place.leads:
            registry().observe("step_finished", run=session.run, record=record)


def _is_due(recipe: Recipe, every: int | None, done: int) -> bool:
    """Every so many steps, and after the last."""
    return done == recipe.steps or (every is not None and done % every == 0)


def train_step(session: Session, window: Window) -> dict[str, Any]:
    """One update from a window, or none where its numbers are wrong; the record of it. Raises DivergedError, on all
    ranks and with the weights as they were, where the guard says so."""
    engine, progress = session.engine, session.progress
    began = time.perf_counter()
    statistics = running_statistics(engine.model)
    gradients = session.gradients
    seen = gradients.follow(window.batches, progress.done + 1, progress.position) if gradients else {}
    named: dict[str, list[float]] = defaultdict(list)
    own: list[tuple[str, float]] = []
    verdict = ""
    losses: Losses = {}
    for index, batch in enumerate(window.batches):
        reseed(session, index)
        session.current = batch.to(session.place.device)
        out = engine.forward(session.current)
        loss = out["loss"]
        own.append((batch.task, float(loss.detach())))
        for name, value in out.items():
            if name != "loss":
                named[name].append(float(value))
        if index == len(window.batches) - 1:
            verdict, losses = _judge(session, own)
            if verdict in ("nonfinite", "spike") and not _only_warns(session, verdict):
                # Every engine leaves an update out, on all ranks, where the gradient is not finite: so make it that.
                loss = loss * math.nan
        engine.backward(loss)
    session.current = None
    lr = learning_rate(progress.done, session.recipe.steps, session.recipe.optimizer.lr, session.recipe.schedule)
    norm = engine.step(lr)
    verdict = _after_step(session, verdict, norm, statistics)
    seconds = time.perf_counter() - began + window.waited
    progress.done += 1
    progress.position += 1
    loss_of_step = _mean(losses)
    record: dict[str, Any] = {
        "step": progress.done,
        "loss": loss_of_step if math.isfinite(loss_of_step) else None,
        "loss_hex": loss_of_step.hex(),
        "lr": lr,
        "grad_norm": norm if math.isfinite(norm) else None,
        "data": window.data,
        "samples_per_s": engine.batching.total / seconds,
        "data_wait": window.waited / seconds,
    }
    if verdict:
        record["guard"] = verdict
    if len(session.data) > 1:
        record |= {f"loss/{task}": total / count for task, (total, count) in losses.items() if count}
    if len(named) > 1:
        record |= {f"loss/{name}": sum(v) / len(v) for name, v in named.items()}
    record |= seen
    _follow_policy(session, window, verdict, record)
    return record


def _mean(losses: Losses) -> float:
    return sum(total for total, _ in losses.values()) / sum(count for _, count in losses.values())


def _judge(session: Session, own: Sequence[tuple[str, float]]) -> tuple[str, Losses]:
    """What the losses of all ranks say about the step: nothing, `nonfinite` or `spike`; and the losses."""
    tasks = list(session.data)
    sums = [sum((loss for task, loss in own if task == name), 0.0) for name in tasks]
    counts = [float(sum(task == name for task, _ in own)) for name in tasks]
    wrong = float(sum(not math.isfinite(loss) for _, loss in own))
    wrong, *both = session.place.total([wrong, *sums, *counts])
    losses = {task: (both[i], both[len(tasks) + i]) for i, task in enumerate(tasks)}
    if wrong:
        return "nonfinite", losses
    if session.recipe.guard.spike == "off":
        return "", losses
    means = {task: total / count for task, (total, count) in losses.items() if count}
    spiked = [task for task, loss in means.items() if session.spikes.is_spike(task, loss)]
    for task, loss in means.items():
        # A warning alone must not turn a new level of the loss into a warning at every step.
        if task not in spiked or session.recipe.guard.spike == "warn":
            session.spikes.add(task, loss)
    return ("spike" if spiked else ""), losses


def _only_warns(session: Session, verdict: str) -> bool:
    return verdict == "spike" and session.recipe.guard.spike == "warn"


def _after_step(session: Session, verdict: str, norm: float, statistics: Any) -> str:
    """Finish a step that was made, or undo what the passes of one that was not have moved; the verdict with what the
    gradient showed."""
    engine, finite = session.engine, math.isfinite(norm)
    if verdict == "" and not finite:
        # fp16 gradients may overflow: that is what the loss scale is for, as long as it can still go down.
        verdict = "overflow" if engine.scale is not None and engine.scale.value > 1.0 else "nonfinite"
    if engine.scale is not None and verdict in ("", "overflow"):
        engine.scale.update(finite)
    if not finite:
        put_back(statistics)
        return verdict
    with torch.no_grad():
        for objectives in engine.model.objectives.values():
            for objective in cast(nn.ModuleList, objectives):
                cast(Objective, objective).updated(engine.model, engine.whole)
    if engine.model.teacher is not None:
        engine.model.teacher.follow(engine.model, engine.whole)
    return verdict


def _follow_policy(session: Session, window: Window, verdict: str, record: Mapping[str, Any]) -> None:
    """End the run, go back, or go on, as the recipe's guard says."""
    guard, progress = session.recipe.guard, session.progress
    left_out = verdict in ("nonfinite", "spike") and not _only_warns(session, verdict)
    progress.left_out = progress.left_out + 1 if left_out else 0
    if verdict == "spike":
        session.console.say(f"step {progress.done}: the loss {record['loss']:.4g} is far above those before it")
    if not left_out:
        return
    if verdict == "nonfinite" and guard.nonfinite == "stop":
        diverged(session, window, "the loss and its gradient must be finite")
    if progress.left_out > guard.max_skipped:
        diverged(session, window, f"at most {guard.max_skipped} updates in a row may be left out")
    if verdict == "spike" and guard.spike == "rollback":
        roll_back(session, window, record["loss"])
    elif verdict == "nonfinite":
        session.console.say(f"step {progress.done}: loss or gradient is not finite, its update is left out")


def _evaluate(session: Session, again: bool = False) -> dict[str, float]:
    """Evaluate and write it down; `again`: it has been written down before."""
    recipe, engine, stop = session.recipe, session.engine, session.stop
    if not any(spec.valid for spec in session.data.values()):
        return {}
    bad: list[BadSample] = []
    strict = recipe.loader.bad_samples == "raise"
    metrics = evaluate(engine, recipe, session.data, eval_batch(recipe), None if strict else bad, stop.seen)
    engine.model.train()
    if metrics is None:
        _stop(session)
    session.progress.evaluated = session.progress.done
    if again:
        return metrics
    record = {"step": session.progress.done, "event": "eval", "metrics": metrics}
    with session.alone():
        for sample in bad:
            session.run.append("bad_samples.jsonl", {"step": session.progress.done, **asdict(sample)})
        session.run.append("metrics.jsonl", record)
        session.console.evaluated(session.progress.done, metrics)
        if session.gradients is not None and session.gradients.found:
            session.console.say(session.gradients.summary())
        if session.place.leads:
            registry().observe("evaluated", run=session.run, record=record)
    return metrics


def _stop(session: Session) -> NoReturn:
    """Save, and end the run as one that can go on."""
    run, done = session.run, session.progress.done
    session.saver.finish()
    if done:
        _save(session, best=False, wait=True)
    place = f"after step {done}" if done else "before the first step"
    raise StoppedError(
        f"stopped by {session.stop.name or 'a signal to another rank'} {place}",
        f"everything is saved in {run.checkpoints}" if done else "there was nothing to save yet",
        f"go on with: metaformer train --resume {run.path}",
    )


def _is_best(session: Session, metrics: Mapping[str, float]) -> bool:
    """Whether these metrics are the best so far; if so, remember them."""
    name, larger = best_metric(session.recipe, session.engine.model)
    value, best = metrics.get(name), session.progress.best
    if value is None or not np.isfinite(value):
        return False
    if best is not None and not (value > best if larger else value < best):
        return False
    session.progress.best = value
    return True


def _save(session: Session, best: bool, wait: bool | None = None) -> None:
    progress, run = session.progress, session.run
    certify(session, f"step_{progress.done:08d}")
    wait = not session.recipe.save_async if wait is None else wait
    session.saver.save(progress.done, session.state(), progress.best if best else None, wait)
    with session.alone():
        run.status("running", progress.done)


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
