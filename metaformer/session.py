"""Everything a run holds while it goes, and how it is prepared: model, data, weights, engine, order."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from metaformer import build
from metaformer.checkpoint import load_weights, newest_valid, read_state, restore_rng, save_frozen
from metaformer.data.order import Order
from metaformer.engine import Engine, Place, start_engine
from metaformer.errors import CheckpointError
from metaformer.model import MetaFormer
from metaformer.recipe import Recipe
from metaformer.report.console import Console
from metaformer.run import Run, lock
from metaformer.stopping import StopSignal
from metaformer.trainable import Certificate
from metaformer.types import BadSample


@dataclass
class Session:
    """Everything the loop holds while it runs."""

    run: Run
    place: Place
    console: Console
    stop: StopSignal
    engine: Engine
    data: dict[str, build.TaskData]
    order: Order
    certificate: Certificate
    done: int = 0
    """Updates made."""
    best: float | None = None
    bad: list[BadSample] = field(default_factory=list)
    seen: int = 0

    @property
    def recipe(self) -> Recipe:
        """The recipe the run follows."""
        return self.run.recipe


def prepare(run: Run, place: Place, console: Console, stop: StopSignal) -> Session:
    """Model, data, weights, engine: everything before the first step."""
    recipe = run.recipe
    seed_everything(recipe.seed, place.rank)
    run.begin()
    run.status("running", 0, "preparing")
    model = build.assemble(recipe)
    data = build.open_data(recipe, model, run.base)
    checkpoint, wrong = newest_valid(run)
    if wrong:
        console.say("unusable checkpoints are passed over: " + "; ".join(wrong))
    if checkpoint is None and wrong:
        raise CheckpointError(f"go on with {run.path}", "; ".join(wrong), "start anew with --resume never")
    if checkpoint is None:
        run.truncate_metrics(0)
        build.fit_tokenizers(model, data)
        receipts = build.load_pretrained(model, recipe, run.base)
        for receipt in receipts:
            console.say(str(receipt))
        fingerprints = {f"{t}.train": d.train.dataset.fingerprint() for t, d in data.items()}
        fingerprints |= {f"{t}.valid": d.valid.dataset.fingerprint() for t, d in data.items() if d.valid}
        if place.leads:
            run.write_json("lock.json", lock(run, fingerprints, [r.to_dict() for r in receipts]))
        run.write_json("labels.json", {task: spec.classes for task, spec in data.items()})
        save_frozen(run, model)
    else:
        load_weights(run, checkpoint, model)
    certificate = _starting_certificate(run, model, checkpoint)
    console.say(describe(model, certificate))
    session = _session(run, place, console, stop, model, data, certificate)
    if checkpoint is not None:
        _resume(session, checkpoint)
    return session


def _session(
    run: Run,
    place: Place,
    console: Console,
    stop: StopSignal,
    model: MetaFormer,
    data: dict[str, build.TaskData],
    certificate: Certificate,
) -> Session:
    recipe = run.recipe
    engine = start_engine(build.step_module(model, data, recipe), recipe, place)
    order = Order(
        recipe.seed,
        {task: len(spec.train) for task, spec in data.items()},
        {task: recipe.tasks[task].weight for task in data},
        engine.batching.micro,
        engine.batching.per_step,
    )
    # Ranks draw different dropout masks; on one rank the draws do not depend on how the model was built.
    seed_everything(recipe.seed, place.rank)
    return Session(run, place, console, stop, engine, data, order, certificate)


def seed_everything(seed: int, rank: int) -> None:
    """Seed the global generators of python, numpy and torch for this rank."""
    entropy = int(np.random.SeedSequence([seed, 4, rank]).generate_state(1)[0])
    random.seed(entropy)
    np.random.seed(entropy)
    torch.manual_seed(entropy)


def _starting_certificate(run: Run, model: MetaFormer, checkpoint: Path | None) -> Certificate:
    """Digests at the start of the run; a resumed run keeps to those of its first start."""
    now = Certificate.of(model)
    before = run.read_json("freeze.json") if checkpoint is not None else None
    if before is None:
        run.write_json("freeze.json", {"start": now.summary, "end": None, "tensors": now.digests})
        return now
    first = Certificate(before["tensors"])
    first.verify(now)
    return first


def _resume(session: Session, checkpoint: Path) -> None:
    state = read_state(checkpoint)
    recipe, place = session.recipe, session.place
    for key, now in (("world", place.world), ("engine", recipe.engine.use), ("zero", recipe.engine.zero)):
        if state[key] != now:
            raise CheckpointError(
                f"go on from {checkpoint}",
                f"it was saved with {key} {state[key]}, this is {now}",
                f"use {key} {state[key]}",
            )
    session.engine.load(checkpoint / "engine")
    restore_rng(checkpoint, place.rank)
    session.done = state["step"]
    session.run.truncate_metrics(session.done)
    best = session.run.read_json("best.json")
    session.best = best["value"] if best else None
    session.console.say(f"going on from {checkpoint.name}")


def describe(model: MetaFormer, certificate: Certificate) -> str:
    """One line on what is trained and what is not."""
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    total = sum(p.numel() for p in model.parameters())
    return (
        f"parameters: {trained:,} trained, {total - trained:,} frozen, {total:,} in all; "
        f"frozen tensors {len(certificate.digests)}, sha256 {certificate.summary[:12]}"
    )


def certify(session: Session) -> None:
    """Prove that what was frozen did not change, and write it into the run's record."""
    with session.engine.whole():
        end = Certificate.of(session.engine.model) if session.place.leads else session.certificate
    session.certificate.verify(end)
    record = {"start": session.certificate.summary, "end": end.summary, "tensors": end.digests}
    session.run.write_json("freeze.json", record)
    if end.digests:
        session.console.say(
            f"frozen stayed frozen: {len(end.digests)} tensors bitwise unchanged, sha256 {end.summary[:12]}"
        )
