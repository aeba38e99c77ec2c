"""Training: from recipes to runs, each with its controls beside it."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from metaformer.build import weighted
from metaformer.engine import Place, find_place
from metaformer.engine.place import broadcast_text
from metaformer.errors import CheckpointError, StoppedError, UsageError
from metaformer.loop import run_steps
from metaformer.recipe_file import RecipeFile, check_recipe, read_recipe
from metaformer.registry import registry
from metaformer.report.console import Console
from metaformer.report.tensorboard import TensorBoard
from metaformer.run import Run, find_run, new_run_name, open_run
from metaformer.session import Session, certify, prepare
from metaformer.stopping import StopSignal


@dataclass
class Result:
    """What came of a run."""

    path: Path
    metrics: dict[str, float]
    trained: int
    """Number of trained parameters."""
    seconds: float

    def record(self) -> dict[str, Any]:
        """For `result.json`."""
        return {"metrics": self.metrics, "trained": self.trained, "seconds": round(self.seconds, 2)}


def train_command(recipes: list[Path], sets: list[str], resume: str = "never") -> None:
    """`metaformer train RECIPE...`: each recipe in turn, its controls after it. `resume`: `never` starts anew, `auto`
    goes on with the recipe's newest unfinished run where there is one, and a path goes on with that run, under its
    own recipe where none is given."""
    if not recipes and resume in ("never", "auto"):
        raise UsageError("train needs a recipe", "none", "metaformer train RECIPE, or metaformer train --resume RUN")
    if resume not in ("never", "auto") and len(recipes) > 1:
        raise UsageError("--resume RUN goes with one recipe", f"{len(recipes)} recipes")
    files = [read_recipe(path, tuple(sets)) for path in recipes]
    for i, file in enumerate(files):
        _check(file, later=i > 0)
    if not files:
        files = [open_run(Path(resume), tuple(sets)).file]
    place = find_place(files[0].recipe.engine.threads)
    console = Console(quiet=not place.leads)
    if place.leads:
        registry().register_observer(TensorBoard(), "tensorboard")
    for i, file in enumerate(files):
        if i > 0:
            _check(file)
        train_with_controls(file, place, console, resume)


def _check(file: RecipeFile, later: bool = False) -> None:
    """Raise what is wrong with a recipe. `later`: weights of runs need not be there yet, stages before make them."""
    problems = check_recipe(file, registry())
    if later:
        waiting = {f"{path}.weights" for path, e in weighted(file.recipe) if (e.weights or "").startswith("run:")}
        problems = [problem for problem in problems if problem.path not in waiting]
    if problems:
        raise file.error(problems)


def train_with_controls(file: RecipeFile, place: Place, console: Console, resume: str = "never") -> Result:
    """A recipe's run, then its controls, each a run of its own under `RUN/controls`; prints them side by side."""
    run = start_run(file, place, resume)
    result = train(run, place, console)
    results = {"this run": result}
    for control in run.recipe.controls:
        recipe = run.recipe.model_copy(update={"control": control, "controls": ()})
        companion = Run(run.path / "controls" / control, run.file.replaced(recipe), run.base, place.leads)
        console.say(f"control {control}:")
        results[f"control {control}"] = train(companion, place, console)
    report(run, console, results)
    return result


def report(run: Run, console: Console, results: Mapping[str, Result]) -> None:
    """The final table, printed and kept in `result.json`."""
    main = results["this run"]
    run.write_json(
        "result.json",
        {
            name: {"metrics": r.metrics, "trained": r.trained, "seconds": round(r.seconds, 2)}
            for name, r in results.items()
        },
    )
    rows = [[key, *(f"{r.metrics[key]:.4f}" for r in results.values())] for key in main.metrics]
    rows.append(["trained parameters", *(f"{r.trained:,}" for r in results.values())])
    rows.append(["seconds", *(f"{r.seconds:.1f}" for r in results.values())])
    console.table(f"{run.recipe.name}: held-out results", ["", *results], rows)
    drawn = not any(entry.weights for entry in run.recipe.encoders.values())
    if drawn and "control random" in results and results["control random"].trained == main.trained:
        console.say("no weights were given: this run's encoder is random itself, and control random is another draw")
    console.say(f"run directory: {run.path}")


def start_run(file: RecipeFile, place: Place, resume: str) -> Run:
    """A new run directory, or the one to go on with. Rank zero decides for all: the others may look later, when
    it has begun to write."""
    folder = Path(file.recipe.output) / file.recipe.name
    choice = ""
    if place.leads:
        old = None if resume == "never" else _unfinished(folder) if resume == "auto" else find_run(Path(resume))
        choice = f"new:{folder / new_run_name()}" if old is None else f"old:{old}"
    kind, _, path = broadcast_text(choice, place).partition(":")
    if kind == "new":
        return Run(Path(path), file, file.path.parent, place.leads)
    run = open_run(Path(path))
    _refuse_drift(run, file)
    return Run(run.path, run.file, run.base, place.leads)


def _refuse_drift(run: Run, file: RecipeFile) -> None:
    """A run goes on under its own recipe: say what differs."""
    old, new = run.recipe.model_dump(), file.recipe.model_dump()
    changed = sorted(key for key in old if old[key] != new[key] and key not in ("output", "log_every"))
    if changed:
        raise CheckpointError(
            f"go on with {run.path} under {file.path}",
            f"the recipe differs from the run's in: {', '.join(changed)}",
            f"go on with the run's own recipe, {run.path / 'recipe.yaml'}, or start anew with --resume never",
        )


def _unfinished(folder: Path) -> Path | None:
    """The newest run in a folder, unless it has finished."""
    newest = max(folder.glob("*/status.json"), default=None)
    if newest is None or json.loads(newest.read_text())["state"] == "finished":
        return None
    return newest.parent


def train(run: Run, place: Place, console: Console) -> Result:
    """Train one run to its end, from its newest checkpoint where it has one. Raises StoppedError after a signal."""
    if (before := _finished(run)) is not None:
        return before
    began = time.perf_counter()
    session: Session | None = None
    error: BaseException | None = None
    with StopSignal() as stop:
        try:
            session = prepare(run, place, console, stop)
            if place.leads:
                registry().observe("run_started", run=run)
            metrics = run_steps(session)
            certify(session)
            trained = sum(_size(p) for p in session.engine.model.parameters() if p.requires_grad)
            result = Result(run.path, metrics, trained, time.perf_counter() - began)
            run.write_json("result.json", {"this run": result.record()})
            run.status("finished", session.done)
            return result
        except BaseException as caught:
            error = caught
            _record_end(run, session.done if session else 0, caught)
            raise
        finally:
            console.end()
            if place.leads:
                registry().observe("run_finished", run=run, error=error)


def _finished(run: Run) -> Result | None:
    """The result of a run that has finished before (a control, when the run beside it is resumed)."""
    status = run.read_json("status.json")
    if status is None or status["state"] != "finished":
        return None
    record = run.read_json("result.json")["this run"]
    return Result(run.path, record["metrics"], record["trained"], record["seconds"])


def _size(parameter: torch.nn.Parameter) -> int:
    # ZeRO-3 keeps an empty stand-in; the true size is in `ds_numel`.
    return int(getattr(parameter, "ds_numel", parameter.numel()))


def _record_end(run: Run, step: int, error: BaseException) -> None:
    if not run.path.exists():
        return
    if isinstance(error, StoppedError):
        run.status("stopped", step, error.asked, resume=f"metaformer train --resume {run.path}")
    else:
        run.status("failed", step, f"{type(error).__name__}: {error}")
