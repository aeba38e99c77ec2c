"""Training: from recipes to runs, each with its controls beside it."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch

from metaformer.build import weighted
from metaformer.engine import Place, find_place
from metaformer.engine.base import size_of
from metaformer.engine.place import lost_peer
from metaformer.errors import CheckpointError, MetaformerError, OutOfMemoryError, StoppedError, UsageError
from metaformer.loop import run_steps
from metaformer.prepare import prepare
from metaformer.recipe_file import RecipeFile, check_recipe, read_recipe
from metaformer.registry import registry
from metaformer.report.console import Console
from metaformer.report.tensorboard import TensorBoard
from metaformer.run import RESOLVED, Run, find_run, new_run_name, open_run
from metaformer.session import Options, Session, certify
from metaformer.stopping import StopSignal
from metaformer.writer import Writer


@dataclass
class Result:
    """What came of a run."""

    path: Path
    metrics: dict[str, float]
    trained: int
    """Number of trained parameters."""
    seconds: float
    """That it took, over all parts of the run."""

    def record(self) -> dict[str, Any]:
        """For `result.json`."""
        return {"metrics": self.metrics, "trained": self.trained, "seconds": round(self.seconds, 2)}


def train_command(recipes: list[Path], sets: list[str], resume: str = "never", options: Options | None = None) -> None:
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
    engine = files[0].recipe.engine
    place = find_place(engine.threads, engine.timeout)
    console = Console(quiet=not place.leads)
    if place.leads:
        registry().register_observer(TensorBoard(), "tensorboard")
    for i, file in enumerate(files):
        if i > 0:
            _check(file)
        train_with_controls(file, place, console, resume, options)


def _check(file: RecipeFile, later: bool = False) -> None:
    """Raise what is wrong with a recipe. `later`: weights of runs need not be there yet, stages before make them."""
    problems = check_recipe(file, registry())
    if later:
        waiting = {f"{path}.weights" for path, e in weighted(file.recipe) if (e.weights or "").startswith("run:")}
        problems = [problem for problem in problems if problem.path not in waiting]
    if problems:
        raise file.error(problems)


def train_with_controls(
    file: RecipeFile, place: Place, console: Console, resume: str = "never", options: Options | None = None
) -> Result:
    """A recipe's run, then its controls, each a run of its own under `RUN/controls`; prints them side by side."""
    run = start_run(file, place, console, resume, options or Options())
    result = train(run, place, console, options)
    results = {"this run": result}
    for control in run.recipe.controls:
        recipe = run.recipe.model_copy(update={"control": control, "controls": ()})
        companion = Run(run.path / "controls" / control, run.file.replaced(recipe), run.base, place.leads)
        console.say(f"control {control}:")
        results[f"control {control}"] = train(companion, place, console, options)
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


def start_run(file: RecipeFile, place: Place, console: Console, resume: str, options: Options) -> Run:
    """A new run directory, or the one to go on with. Rank zero decides for all: the others may look later, when
    it has begun to write."""
    folder = Path(file.recipe.output) / file.recipe.name
    choice, error = "", None
    try:
        if place.leads:
            unfinished = _unfinished(folder)
            old = None if resume == "never" else unfinished if resume == "auto" else find_run(Path(resume))
            choice = f"new:{folder / new_run_name()}" if old is None else f"old:{old}"
            if resume == "never" and unfinished is not None:
                console.say(f"this starts anew; {unfinished} is unfinished: --resume auto goes on with it")
    except Exception as caught:
        error = caught
    place.together(error)
    kind, _, path = place.broadcast(choice).partition(":")
    if kind == "new":
        return Run(Path(path), file, file.path.parent, place.leads)
    return _go_on(open_run(Path(path)), file, place, console, options)


def _check_shared(run: Run, place: Place) -> None:
    """All ranks must see the run directory: each writes its part of a checkpoint there."""
    error: Exception | None = None
    try:
        run.begin()
        if place.leads:
            run.checkpoints.mkdir(exist_ok=True)
    except Exception as caught:
        error = caught
    place.together(error)
    missing = None
    if not (run.path / RESOLVED).exists():
        missing = CheckpointError(
            f"rank {place.rank} of {place.world} writes its part of checkpoints to {run.path.absolute()}",
            "that folder, which rank zero has made, is not there on this machine",
            "set output to a folder on a disk that all machines share",
        )
    place.together(missing)


HARMLESS = (
    *("output", "log_every", "save_every", "eval_every", "keep_last", "keep_best", "save_async", "best", "controls"),
    "observe.every",
    *("loader.workers", "loader.prefetch", "loader.timeout", "engine.timeout"),
)
"""What may change between the parts of a run without changing a single number of it."""


def drift(old: Mapping[str, Any], new: Mapping[str, Any], path: str = "") -> dict[str, str]:
    """Dotted path → `old -> new` of every value in which two recipes differ."""
    found: dict[str, str] = {}
    for key in {**old, **new}:
        at, a, b = f"{path}{key}", old.get(key), new.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            found |= drift(a, b, f"{at}.")
        elif a != b:
            found[at] = f"{a!r} -> {b!r}"
    return found


def _go_on(run: Run, file: RecipeFile, place: Place, console: Console, options: Options) -> Run:
    """The run under the recipe as it is now; what has changed since is listed, and what would change the numbers is
    refused unless the user insists."""
    changes = drift(run.recipe.model_dump(), file.recipe.model_dump())
    listed = [f"{path}: {change}" for path, change in changes.items()]
    serious = [line for path, line in zip(changes, listed, strict=True) if path not in HARMLESS]
    if serious and not options.drift:
        raise CheckpointError(
            f"go on with {run.path} under {file.path}",
            "the recipe differs from the run's in what decides its numbers: " + "; ".join(serious),
            f"go on with the run's own recipe, metaformer train --resume {run.path}; say --allow-drift to go on under "
            "the changed one; or start anew with --resume never",
        )
    if not changes:
        return Run(run.path, run.file, run.base, place.leads)
    console.say("the recipe has changed since: " + "; ".join(listed))
    return Run(run.path, file, run.base, place.leads, listed)


def _unfinished(folder: Path) -> Path | None:
    """The newest run in a folder, unless it has finished."""
    newest = max(folder.glob("*/status.json"), default=None)
    if newest is None or json.loads(newest.read_text())["state"] == "finished":
        return None
    return newest.parent


def train(run: Run, place: Place, console: Console, options: Options | None = None) -> Result:
    """Train one run to its end, from its newest checkpoint where it has one. Raises StoppedError after a signal."""
    if (before := _finished(run)) is not None:
        return before
    began = time.perf_counter()
    session: Session | None = None
    error: BaseException | None = None
    with ExitStack() as stack:
        stop = stack.enter_context(StopSignal(place))
        try:
            _check_shared(run, place)
            _lock(run, place, console, stack)
            session = prepare(run, place, console, stop, options)
            with session.alone():
                if place.leads:
                    registry().observe("run_started", run=run)
            metrics = run_steps(session)
            certify(session)
            trained = sum(size_of(p) for p in session.engine.model.parameters() if p.requires_grad)
            seconds = session.earlier + time.perf_counter() - began
            result = Result(run.path, metrics, trained, seconds)
            with session.alone():
                run.write_json("result.json", {"this run": result.record()})
                run.status("finished", session.progress.done)
            place.together(session.failed)
            return result
        except BaseException as caught:
            error = explained(caught, session, place)
            _record_end(run, session.progress.done if session else 0, error)
            if error is caught:
                raise
            raise error from caught
        finally:
            console.end()
            if place.leads:
                _tell_the_end(run, error)


def _tell_the_end(run: Run, error: BaseException | None) -> None:
    """Observers hear of the end; one that fails then does not take the place of what ended the run."""
    try:
        registry().observe("run_finished", run=run, error=error)
    except MetaformerError as second:
        if error is None:
            raise
        error.add_note(str(second))


def _lock(run: Run, place: Place, console: Console, stack: ExitStack) -> None:
    """Rank zero becomes the one writer of the directory, and only then writes down under what recipe it goes on."""
    error: Exception | None = None
    try:
        if place.leads:
            stack.enter_context(Writer(run.path, console.say))
            run.adopt()
    except Exception as caught:
        error = caught
    place.together(error)


def explained(error: BaseException, session: Session | None, place: Place) -> BaseException:
    """An error in the user's terms, where it is one that has them."""
    if isinstance(error, MetaformerError):
        return error
    return out_of_memory(error, session) or lost_peer(error, place) or error


def out_of_memory(error: BaseException, session: Session | None) -> OutOfMemoryError | None:
    """What to say where memory has run out: how much was asked of it, and what would ask less."""
    text = str(error)
    signs = ("can't allocate memory", "cannot allocate memory", "not enough memory", "bad_alloc", "out of memory")
    if not isinstance(error, MemoryError | torch.OutOfMemoryError) and not (
        isinstance(error, RuntimeError) and any(sign in text.lower() for sign in signs)
    ):
        return None
    what = text.strip().splitlines()[0] if text.strip() else type(error).__name__
    if session is None:
        return OutOfMemoryError(
            "prepare the run in the memory there is", what, "use a smaller model, or engine.offload"
        )
    cut, batch = session.engine.batching, session.current
    sizes = []
    for stream, raw in (batch.streams if batch else {}).items():
        tokens = batch.memo.get(("tokens", stream)) if batch else None
        largest = "x".join(map(str, max((list(t.shape) for t in raw.values()), key=prod)))
        sizes.append(f"{stream}: {tokens.x.shape[1]} tokens" if tokens is not None else f"{stream}: {largest} numbers")
    do = ["turn on engine.activation_checkpointing"] if not session.recipe.engine.activation_checkpointing else []
    if cut.micro > 1:
        half = -(-cut.micro // 2)
        more = cut.accumulate * cut.micro // half
        do.insert(0, f"the same step in smaller passes: --set engine.micro_batch={half} --set engine.accumulate={more}")
    do.append("or engine.offload, ZeRO, a shorter sequence")
    return OutOfMemoryError(
        f"step {session.progress.done + 1}: a pass over {cut.micro} samples per rank ({'; '.join(sizes) or '-'})",
        what,
        "; ".join(do),
    )


def _finished(run: Run) -> Result | None:
    """The result of a run that has finished before (a control, when the run beside it is resumed)."""
    status = run.read_json("status.json")
    if status is None or status["state"] != "finished":
        return None
    record = run.read_json("result.json")["this run"]
    return Result(run.path, record["metrics"], record["trained"], record["seconds"])


def _record_end(run: Run, step: int, error: BaseException) -> None:
    if not run.path.exists():
        return
    resume = f"metaformer train --resume {run.path}"
    code = getattr(error, "exit_code", 1)
    try:
        if isinstance(error, StoppedError):
            run.status("stopped", step, error.asked, exit_code=code, resume=resume)
        else:
            run.status("failed", step, f"{type(error).__name__}: {error}", exit_code=code, resume=resume)
    except MetaformerError as second:
        # The directory cannot be written any more: what ended the run matters more than that.
        error.add_note(f"status.json could not be written: {second.found}")
