"""Preparing a run: model, data, weights, engine, and where it goes on from."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

from torch import Tensor

from metaformer import build
from metaformer.assemble import assemble
from metaformer.base import Objective
from metaformer.checkpoint import (
    ENGINE,
    FROZEN,
    load_weights,
    newest_valid,
    read_state,
    restore_rng,
    save_frozen,
    sweep,
)
from metaformer.data.order import Order
from metaformer.engine import Batching, Place, recut, start_engine
from metaformer.errors import CheckpointError, StoppedError
from metaformer.guard import Spikes
from metaformer.model import MetaFormer
from metaformer.recipe import Recipe
from metaformer.registry import registry
from metaformer.report.console import Console
from metaformer.run import Run, lock
from metaformer.saver import Saver, warning
from metaformer.session import Options, Session, seed_everything
from metaformer.stopping import StopSignal
from metaformer.trainable import Certificate, digest

Result = TypeVar("Result")


def prepare(
    run: Run,
    place: Place,
    console: Console,
    stop: StopSignal,
    options: Options | None = None,
    before: int | None = None,
) -> Session:
    """Model, data, weights, engine: everything before the first step. `before`: start from the newest checkpoint of
    an earlier step than this. Raises StoppedError where a signal came in the meantime."""
    options = options or Options()
    recipe = run.recipe
    stage = _Stages(run, place, stop)
    seed_everything(recipe.seed, place.rank)
    stage(run.begin)
    stage(lambda: run.status("running", 0, "preparing"))
    stage(lambda: sweep(run) if run.writes else None)
    model = stage(lambda: assemble(recipe))
    data = stage(lambda: build.open_data(recipe, model, run.base))
    # Rank zero reads the files through, once for all.
    checkpoint, wrong = place.broadcast(stage(lambda: newest_valid(run, before) if place.leads else None))
    if wrong:
        console.say("unusable checkpoints are passed over: " + "; ".join(wrong))
    if checkpoint is None and wrong:
        raise CheckpointError(f"go on with {run.path}", "; ".join(wrong), "start anew with --resume never")
    if checkpoint is None:
        stage(lambda: _begin(run, place, console, model, data, stop))
    else:
        stage(lambda: _refuse_other_data(run, data, options))
        frozen = stage(lambda: find_frozen(run, model, console))
        stage(lambda: load_weights(run, checkpoint, model, frozen))
    certificate = stage(lambda: _starting_certificate(run, model, checkpoint))
    console.say(describe(model, certificate))
    state = stage(lambda: read_state(checkpoint)) if checkpoint is not None else None
    cut = stage(lambda: _cut(state, place, recipe)) if state is not None else None
    session = _session(run, place, console, stop, model, data, certificate, cut)
    if checkpoint is not None and state is not None:
        _resume(session, checkpoint, state, options)
    else:
        with session.alone():
            if place.leads and (text := warning(run, session.engine)):
                console.say(text)
    stage(lambda: None)
    return session


class _Stages:
    """Runs one piece of the preparation after the other; a failure, or a signal, on one rank ends it on all."""

    def __init__(self, run: Run, place: Place, stop: StopSignal) -> None:
        self._run, self._place, self._stop = run, place, stop

    def __call__(self, work: Callable[[], Result]) -> Result:
        error: Exception | None = None
        result: Any = None
        try:
            result = work()
        except Exception as caught:
            error = caught
        stopped = self._place.together(error, [float(self._stop.seen())])[0]
        if stopped:
            raise stopped_early(self._run, self._stop)
        found: Result = result
        return found


def stopped_early(run: Run, stop: StopSignal) -> StoppedError:
    """The end of a run that was asked to stop before its first step."""
    return StoppedError(
        f"stopped by {stop.name or 'a signal to another rank'} before the first step",
        "there was nothing to save yet" if not any(run.checkpoints.glob("step_*")) else "the checkpoints are as before",
        f"go on with: metaformer train --resume {run.path}",
    )


def _begin(
    run: Run,
    place: Place,
    console: Console,
    model: MetaFormer,
    data: dict[str, build.TaskData],
    stop: StopSignal,
) -> None:
    """What a run does once: statistics, pretrained weights, the lock, frozen weights."""
    recipe = run.recipe
    run.truncate_metrics(0)

    def interrupted() -> None:
        if stop.seen():
            raise stopped_early(run, stop)

    build.fit_tokenizers(model, data, interrupted)
    receipts = build.load_pretrained(model, recipe, run.base)
    for receipt in receipts:
        console.say(str(receipt))
    if model.teacher is not None:
        model.teacher.begin(model)
    if place.leads:
        run.write_json("lock.json", lock(run, fingerprints(data), [r.to_dict() for r in receipts]))
    run.write_json("labels.json", {task: spec.classes for task, spec in data.items()})
    save_frozen(run, model)


def fingerprints(data: Mapping[str, build.TaskData]) -> dict[str, str]:
    """`task.train` and `task.valid` → what changes when those data change."""
    out = {f"{t}.train": d.train.dataset.fingerprint() for t, d in data.items() if d.train}
    return out | {f"{t}.valid": d.valid.dataset.fingerprint() for t, d in data.items() if d.valid}


def _refuse_other_data(run: Run, data: Mapping[str, build.TaskData], options: Options) -> None:
    before, now = (run.read_json("lock.json") or {}).get("data", {}), fingerprints(data)
    changed = sorted(key for key in now if key in before and before[key] != now[key])
    if changed and not options.drift:
        raise CheckpointError(
            f"go on with {run.path}",
            f"the data have changed since: {', '.join(f'{k} was {before[k]}, is {now[k]}' for k in changed)}",
            "put the old data back, or say --allow-drift: the samples will not come in the order they would have",
        )


def find_frozen(run: Run, model: MetaFormer, console: Console) -> dict[str, Tensor] | None:
    """Frozen parameters of a run whose file of them is gone, found again from the recipe and proven by their digests;
    None where the file is there. Raises CheckpointError naming what cannot be found."""
    names = [name for name, p in model.named_parameters() if not p.requires_grad]
    if not names or (run.path / FROZEN).exists():
        return None
    expected: dict[str, str] = (run.read_json("freeze.json") or {}).get("tensors", {})
    build.load_pretrained(model, run.recipe, run.base)
    found = {name: model.get_parameter(name).detach().clone() for name in names}
    wrong = [name for name in names if expected.get(name) != digest(found[name])]
    if wrong:
        raise CheckpointError(
            f"go on with {run.path}",
            f"{FROZEN} is gone, and what the recipe gives has other digests for {len(wrong)} of {len(names)} "
            f"tensors: {', '.join(wrong[:8])}{' ...' if len(wrong) > 8 else ''}",
            f"put {FROZEN} back, or the weights that the recipe names, as they were",
        )
    console.say(f"{FROZEN} is gone: its {len(names)} tensors were found again from the recipe, with equal digests")
    save_frozen(run, model)
    return found


def _cut(state: Mapping[str, Any], place: Place, recipe: Recipe) -> Batching:
    """How this run's steps are cut on this many ranks."""
    old = Batching(state["cut"]["micro"], state["cut"]["per_step"] // state["world"], state["world"])
    return recut(old, place.world, len(recipe.tasks))


def _session(
    run: Run,
    place: Place,
    console: Console,
    stop: StopSignal,
    model: MetaFormer,
    data: dict[str, build.TaskData],
    certificate: Certificate,
    cut: Batching | None,
) -> Session:
    recipe = run.recipe
    step = build.step_module(model, data, recipe)
    losses = [
        (task, name)
        for task, blank in step.blanks.items()
        for objective in cast(Sequence[Objective], model.objectives[task])
        for name in objective.count(model, blank)
    ]
    engine = start_engine(step, recipe, place, cut)
    order = Order(
        recipe.seed,
        {task: len(spec.train) for task, spec in data.items() if spec.train},
        {task: recipe.tasks[task].weight for task, spec in data.items() if spec.train},
        engine.batching.micro,
        engine.batching.per_step,
    )
    seed_everything(recipe.seed, place.rank)
    spikes = Spikes(recipe.guard.window, recipe.guard.threshold)
    saver = Saver(run, engine)
    return Session(run, place, console, stop, engine, data, order, certificate, saver, spikes, losses)


def _starting_certificate(run: Run, model: MetaFormer, checkpoint: Path | None) -> Certificate:
    """Digests at the start of the run; a resumed run keeps to those of its first start."""
    now = Certificate.of(model)
    before = run.read_json("freeze.json") if checkpoint is not None else None
    if before is None:
        run.write_json("freeze.json", {"start": now.summary, "end": None, "tensors": now.digests, "checkpoints": {}})
        return now
    first = Certificate(before["tensors"])
    first.verify(now)
    return first


def _resume(session: Session, checkpoint: Path, state: Mapping[str, Any], options: Options) -> None:
    recipe, place = session.recipe, session.place
    before = {key: state[key] for key in ("engine", "zero", "world")}
    now = {"engine": recipe.engine.use, "zero": recipe.engine.zero, "world": place.world}
    if before == now:
        session.engine.load(checkpoint / ENGINE, options.trust)
        restore_rng(checkpoint, place.rank)
    else:
        _reshape(session, checkpoint, before, now, options)
    session.restore(state)
    session.earlier = session.progress.seconds
    session.run.truncate_metrics(session.progress.done)
    if session.run.writes:
        registry().load_states(session.run, state["plugins"], session.console.say)
    session.console.say(f"going on from {checkpoint.name}")


def describe(model: MetaFormer, certificate: Certificate) -> str:
    """One line on what is trained and what is not."""
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    total = sum(p.numel() for p in model.parameters())
    return (
        f"parameters: {trained:,} trained, {total - trained:,} frozen, {total:,} in all; "
        f"frozen tensors {len(certificate.digests)}, sha256 {certificate.summary[:12]}"
    )


def _reshape(
    session: Session, checkpoint: Path, before: Mapping[str, Any], now: Mapping[str, Any], options: Options
) -> None:
    """Optimizer state that another engine, stage or number of ranks has saved, by way of a universal checkpoint; what
    is loaded is compared with what was saved."""
    from metaformer.engine.universal import load_universal, to_universal

    place = session.place
    told = ", ".join(f"{key} {before[key]} -> {now[key]}" for key in now if before[key] != now[key])
    session.console.say(f"{checkpoint.name} was saved otherwise ({told}): its optimizer state is cut anew")
    # Beside the checkpoints, where all ranks can see it.
    folder = place.broadcast(
        tempfile.mkdtemp(prefix=".tmp-universal-", dir=session.run.checkpoints) if place.leads else ""
    )
    with session.alone():
        if place.leads:
            to_universal(checkpoint / ENGINE, Path(folder), options.trust)
    place.together(session.failed)
    load_universal(session.engine, Path(folder))
    if place.leads:
        shutil.rmtree(folder)
