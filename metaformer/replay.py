"""`metaformer resume --verify RUN`: repeat recorded steps and compare every number with the record."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from torch import Tensor

from metaformer.checkpoint import MODEL, checkpoints, portable, read_state, step_name
from metaformer.engine import find_place
from metaformer.errors import CheckpointError
from metaformer.loop import train_step
from metaformer.prepare import prepare, stopped_early
from metaformer.report.console import Console
from metaformer.run import Run, open_run
from metaformer.session import Options, Session
from metaformer.stopping import StopSignal
from metaformer.weights.files import read_tensors
from metaformer.window import take_window

COMPARED = ("loss_hex", "lr", "grad_norm", "data")
"""Fields of a step's record that have to be equal: loss, rate, gradient norm, and the samples with their targets."""
ROUNDING = 1e-5
"""Relative difference of losses that other ranks may bring: sums in another order."""


def verify_command(path: Path, steps: int, options: Options) -> None:
    """Print what was repeated and that it is equal; raises CheckpointError naming the first difference. Writes nothing
    in the run directory."""
    run = open_run(path)
    engine = run.recipe.engine
    place = find_place(engine.threads, engine.timeout)
    console = Console(quiet=not place.leads)
    run = Run(run.path, run.file, run.base, writes=False)
    with StopSignal(place) as stop:
        start = _start(run)
        session = prepare(run, place, console, stop, options, before=start)
        first = session.progress.done
        console.say(repeat(session, min(steps, _last(run) - first)))


def _records(run: Run) -> dict[int, dict[str, Any]]:
    return {record["step"]: record for record in run.records() if "loss_hex" in record}


def _last(run: Run) -> int:
    return max(_records(run), default=0)


def _start(run: Run) -> int:
    """The step before which a checkpoint has to lie so that something after it is on record."""
    last = _last(run)
    if not any(folder.name < step_name(last) for folder in checkpoints(run)):
        raise CheckpointError(
            f"repeat steps of {run.path}",
            f"no checkpoint lies before step {last}, the last on record",
            "train with save_every, and keep_last of at least 2",
        )
    return last


def repeat(session: Session, steps: int) -> str:
    """Make steps again that are on record, without writing; what was found equal. Raises CheckpointError."""
    run, place, first = session.run, session.place, session.progress.done
    records, exact = _records(run), _same_ranks(session)
    compared_weights: list[str] = []
    session.engine.model.train()
    session.open_stream()
    try:
        for _ in range(steps):
            window = take_window(session)
            if window is None:
                raise stopped_early(run, session.stop)
            made = train_step(session, window)
            _compare(run, made, records[made["step"]], exact)
            folder = run.checkpoints / step_name(made["step"])
            if exact and folder.exists():
                weights = portable(session.engine)
                with session.alone():
                    if place.leads:
                        _compare_weights(folder, weights)
                place.together(session.failed)
                compared_weights.append(folder.name)
    finally:
        assert session.batches is not None
        session.batches.close()
    how = "bitwise equal" if exact else f"equal within {ROUNDING:g} (other ranks or engine than on record)"
    weights_too = f"; weights equal to those of {', '.join(compared_weights)}" if compared_weights else ""
    return f"steps {first + 1} to {first + steps} repeated from {step_name(first)}: {how}{weights_too}"


def _same_ranks(session: Session) -> bool:
    state = read_state(session.run.checkpoints / step_name(session.progress.done))
    engine = session.recipe.engine
    return (state["world"], state["engine"], state["zero"]) == (session.place.world, engine.use, engine.zero)


def _compare(run: Run, made: dict[str, Any], recorded: dict[str, Any], exact: bool) -> None:
    for key in COMPARED:
        a, b = recorded.get(key), made.get(key)
        if a == b:
            continue
        if not exact and key == "loss_hex":
            a, b = recorded["loss"], made["loss"]
            if a is not None and b is not None and math.isclose(a, b, rel_tol=ROUNDING):
                continue
        if not exact and key == "grad_norm":
            continue
        raise CheckpointError(
            f"repeat step {made['step']} of {run.path} exactly",
            f"{key} was {a}, and is {b} now",
            "compare the run's lock.json with this machine: versions, threads, hardware, data",
        )


def _compare_weights(folder: Path, weights: dict[str, Tensor]) -> None:
    kept, _ = read_tensors(folder / MODEL)
    differ = [name for name in kept if name not in weights or not kept[name].equal(weights[name])]
    if differ:
        raise CheckpointError(
            f"repeat the steps up to {folder.name} exactly", f"weights differ: {', '.join(differ[:5])}", "see above"
        )
