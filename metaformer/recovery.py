"""What a run does about a step whose numbers were wrong: look at it closely and end, or go back and pass over it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NoReturn

from metaformer.checkpoint import ENGINE, newest_valid, read_state, reload_weights
from metaformer.errors import DivergedError
from metaformer.guard import diagnose
from metaformer.session import Session
from metaformer.window import Window, reseed


def diverged(session: Session, window: Window, asked: str) -> NoReturn:
    """Look at the step once more, write down what was found, and end the run on all ranks."""
    progress, place = session.progress, session.place
    step = progress.done
    # The passes of the step that was just counted: look at them at their own place.
    progress.position -= 1
    found = diagnose(session.engine, window.batches, lambda index: reseed(session, index))
    progress.position += 1
    ids = [name for batch in window.batches for name in batch.ids]
    parts = place.gather({"rank": place.rank, "samples": ids, **found.record()})
    record = {
        "step": step,
        "position": progress.position - 1,
        "ranks": parts,
        "gradient_norms": {
            name: value if math.isfinite(value) else str(value) for name, value in found.parameters.items()
        },
        "replay": f"metaformer train --resume {session.run.path}",
    }
    with session.alone():
        session.run.write_json("diverged.json", record)
    place.together(session.failed)
    part = next((part for part in parts if _culprit(part)), parts[0])
    first = _culprit(part) or "no single pass shows it: the values have grown over the steps before"
    samples = ", ".join(part["samples"][:8]) + (" ..." if len(part["samples"]) > 8 else "")
    raise DivergedError(
        f"step {step}: {asked}",
        f"{first}, rank {part['rank']}, on samples {samples}; more in {session.run.path / 'diverged.json'}",
        "lower optimizer.lr, lengthen schedule.warmup, set engine.clip, look at the samples, or guard.nonfinite: skip",
    )


def _culprit(part: Mapping[str, Any]) -> str:
    """What a rank has found, in words; empty where it has found nothing."""
    if part["inputs"]:
        return f"the input {', '.join(part['inputs'])} is not finite"
    if part["first_nonfinite_module"]:
        return f"the first module whose output is not finite is {part['first_nonfinite_module']}"
    if part["first_nonfinite_gradient"]:
        return f"the gradient is not finite first at {part['first_nonfinite_gradient']}"
    return ""


def roll_back(session: Session, window: Window, loss: float | None) -> None:
    """Back to the newest checkpoint, and on from there with the samples that come after the spike."""
    run, place, progress = session.run, session.place, session.progress
    session.saver.finish()
    if progress.rollbacks >= session.recipe.guard.max_rollbacks:
        diverged(session, window, f"at most {session.recipe.guard.max_rollbacks} rollbacks may be needed")
    folder, _ = place.broadcast(newest_valid(run) if place.leads else None)
    if folder is None:
        diverged(session, window, "a spike of the loss needs a checkpoint to go back to (save_every)")
    state = read_state(folder)
    reload_weights(folder, session.engine)
    session.engine.load(folder / ENGINE)
    spiked, rollbacks = progress, progress.rollbacks + 1
    session.restore(state)
    session.progress.position, session.progress.rollbacks = spiked.position, rollbacks
    session.progress.seen, session.progress.bad = spiked.seen, spiked.bad
    session.saver.saved = session.progress.done
    run.truncate_metrics(session.progress.done)
    event = {
        "step": session.progress.done,
        "event": "rollback",
        "from": spiked.done,
        "loss": loss,
        "position": spiked.position,
    }
    run.append("metrics.jsonl", event)
    passed = spiked.done - session.progress.done
    session.console.say(f"step {spiked.done}: back to {folder.name}; the samples of {passed} steps are passed over")
    session.engine.model.train()
    session.open_stream()
