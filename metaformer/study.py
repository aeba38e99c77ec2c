"""`metaformer study RECIPE`: what the encoder brings, and how much of it to train, over several seeds in one table."""

from __future__ import annotations

import errno
import gc
import json
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from metaformer.durable import write_atomic
from metaformer.engine import Place, find_place
from metaformer.errors import (
    CheckpointError,
    DivergedError,
    MetaformerError,
    NoSpaceError,
    OutOfMemoryError,
    Problem,
    StoppedError,
)
from metaformer.ladder import Variant, plan
from metaformer.recipe import Recipe
from metaformer.recipe_file import RecipeFile, check_recipe, read_recipe, resolved
from metaformer.registry import registry
from metaformer.report.console import Console
from metaformer.report.study import Outcome, Row, Table
from metaformer.report.tensorboard import TensorBoard
from metaformer.run import RESOLVED, Run, open_run
from metaformer.stopping import StopSignal
from metaformer.train import HARMLESS, drift, train

FOLDER = "study"
"""Below the folder of the recipe's runs; in it a folder per variant, and in that a run directory per seed."""
RECIPE = "study.yaml"
"""The recipe that all numbers of the study come from, with every default."""
Work = TypeVar("Work")


def study_command(path: Path, sets: Sequence[str], seeds: int) -> None:
    """`metaformer study RECIPE`: train every variant with every seed, or what is left of that, then print and write the
    table. Raises StoppedError after a signal, and an error at the end where runs have failed."""
    file = read_recipe(path, sets)
    problems = _unfit(file.recipe) or check_recipe(file, registry())
    if problems:
        raise file.error(problems)
    engine = file.recipe.engine
    place = find_place(engine.threads, engine.timeout)
    console = Console(quiet=not place.leads)
    if place.leads:
        registry().register_observer(TensorBoard(), "tensorboard")
    given = [word for one in sets for word in ("--set", one)]
    command = shlex.join(["metaformer", "study", str(path), *given, "--seeds", str(seeds)])
    study = Study(file, command, range(file.recipe.seed, file.recipe.seed + seeds), place, console)
    try:
        study.run()
    except StoppedError as error:
        raise StoppedError(error.asked, error.found, f"go on with: {command}") from error
    study.end()


def _unfit(recipe: Recipe) -> list[Problem]:
    """Why a recipe that may be trained is nothing to study."""
    found = []
    if not recipe.encoders:
        found.append(Problem("encoders", "a study compares encoders, and there is none", "add one"))
    if recipe.control is not None:
        found.append(Problem("control", "a study makes its controls itself", "remove it"))
    if not any(task.data.valid for task in recipe.tasks.values()):
        do = "add `data.valid` to a task"
        found.append(Problem("tasks", "a study compares held-out numbers, and no data are held out", do))
    return found


class Study:
    """The runs of a plan, one after the other, seed by seed: an interrupted study has whole seeds."""

    def __init__(self, file: RecipeFile, command: str, seeds: range, place: Place, console: Console) -> None:
        self.file, self.command, self.seeds, self.place, self.console = file, command, seeds, place, console
        self.folder = Path(file.recipe.output) / file.recipe.name / FOLDER
        self.plan = plan(file.recipe)
        self.outcomes: dict[str, list[Outcome]] = {variant.name: [] for variant in self.plan.variants}

    def run(self) -> None:
        """Make every run that has not been made; the table is written anew after each."""
        total = len(self.seeds) * len(self.plan.variants)
        with StopSignal(self.place) as stop:
            self._on_rank_zero(self._open, stop)
            for seed in self.seeds:
                for variant in self.plan.variants:
                    path = self.folder / variant.name / f"seed-{seed}"
                    outcome = self._on_rank_zero(partial(_made, path, seed), stop)
                    if outcome is None:
                        number = sum(map(len, self.outcomes.values())) + 1
                        self.console.say(f"study, run {number} of {total}: {variant.name}, seed {seed}")
                        outcome = self._train(variant, path, seed)
                    self.outcomes[variant.name].append(outcome)
                    self._on_rank_zero(self._write, stop)

    def end(self) -> None:
        """Print the table; raise where runs have failed."""
        if self.place.leads:
            table = self._table()
            self.console.table(table.title, ["", *table.metrics, "trained parameters", "seconds"], table.cells())
            for remark in table.remarks():
                self.console.say(remark)
            self.console.say(f"study: {self.folder / 'study.md'}")
        states = [outcome.state for outcomes in self.outcomes.values() for outcome in outcomes]
        failed = [state for state in states if state != "finished"]
        if failed:
            kind = DivergedError if "diverged" in failed else OutOfMemoryError
            do = "the table says which, and why; the others are as they should be"
            raise kind(f"all runs of {self.folder}", f"{len(failed)} of {len(states)} failed", do)

    def _on_rank_zero(self, work: Callable[[], Work], stop: StopSignal) -> Work:
        """Rank zero's result, on all ranks; where it fails, or any rank was asked to stop, all end."""
        error: Exception | None = None
        result: Any = None
        try:
            if self.place.leads:
                result = work()
        except Exception as caught:
            error = caught
        if self.place.together(error, [float(stop.seen())])[0]:
            name = stop.name or "a signal to another rank"
            raise StoppedError(f"the study was stopped by {name} between two runs", "finished runs stay as they are")
        found: Work = self.place.broadcast(result)
        return found

    def _open(self) -> None:
        """Begin the study, or refuse to mix the numbers of two recipes in one table."""
        kept = self.folder / RECIPE
        if kept.exists():
            changes = drift(read_recipe(kept).recipe.model_dump(), self.file.recipe.model_dump())
            serious = [f"{path}: {change}" for path, change in changes.items() if path not in HARMLESS]
            if serious:
                raise CheckpointError(
                    f"go on with the study in {self.folder}",
                    f"the recipe has changed since in what decides its numbers: {'; '.join(serious)}",
                    "study it under another name (--set name=NAME), or move that folder away and begin anew",
                )
        self._put(RECIPE, resolved(self.file))

    def _train(self, variant: Variant, path: Path, seed: int) -> Outcome:
        """One run, from its newest checkpoint where it was interrupted. One that diverges is an outcome as well."""
        gc.collect()  # engines of earlier runs hold themselves in circles
        file = self.file.replaced(variant.recipe.model_copy(update={"seed": seed}))
        changes: list[str] = []
        if (path / RESOLVED).exists():
            before = open_run(path).recipe.model_dump()
            changes = [f"{key}: {change}" for key, change in drift(before, file.recipe.model_dump()).items()]
        run = Run(path, file, file.path.parent, self.place.leads, changes)
        try:
            result = train(run, self.place, self.console)
        except DivergedError as error:
            self.console.say(str(error))
            return _diverged(seed, str(error))
        except OutOfMemoryError as error:
            if self.place.world > 1:
                raise  # the other ranks wait for this one
            self.console.say(str(error))
            return Outcome(seed, "out of memory", {}, None, _first_line(error.found))
        return Outcome(seed, "finished", result.metrics, result.seconds)

    def _write(self) -> None:
        table = self._table()
        self._put("study.json", json.dumps(table.record(), indent=1) + "\n")
        self._put("study.md", table.markdown())

    def _put(self, name: str, text: str) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_atomic(self.folder / name, text)
        except OSError as error:
            kind = NoSpaceError if error.errno in (errno.ENOSPC, errno.EDQUOT) else MetaformerError
            do = "make room, or choose another place: --set output=FOLDER"
            raise kind(f"write {self.folder / name}", str(error), do) from error

    def _table(self) -> Table:
        rows = tuple(
            Row(variant.name, variant.about, variant.trained, tuple(self.outcomes[variant.name]))
            for variant in self.plan.variants
        )
        locks = [json.loads(path.read_text()) for path in sorted(self.folder.glob("*/seed-*/lock.json"))]
        versions = {
            name: " and ".join(dict.fromkeys(lock["packages"].get(name, "?") for lock in locks))
            for name in ("torch", "metaformer")
        }
        hardware = " and ".join(dict.fromkeys(_machine(lock["hardware"]) for lock in locks))
        ranks = f"{self.place.world} rank{'s' if self.place.world > 1 else ''}"
        return Table(
            self.file.recipe.name,
            self.command,
            time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
            tuple(self.seeds),
            versions,
            f"{hardware}, {ranks}",
            rows,
            tuple(self._notes()),
        )

    def _notes(self) -> list[str]:
        notes = [f"there is no row {name}: {why}" for name, why in self.plan.absent.items()]
        if any(v.recipe.optimizer.groups != self.file.recipe.optimizer.groups for v in self.plan.variants):
            notes.append("learning-rate groups are left out of the rows in which nothing they match is trained")
        notes.append(
            "all rows have the recipe's data, steps, optimizer and schedule; a seed decides initial weights, the order "
            "of the samples, augmentation and dropout"
        )
        return notes


def _made(path: Path, seed: int) -> Outcome | None:
    """What came of a run before; None where it was not made, or can go on. One that has diverged would do so again."""
    file = path / "status.json"
    status = json.loads(file.read_text()) if file.exists() else {}
    if status.get("state") == "finished":
        record = json.loads((path / "result.json").read_text())["this run"]
        return Outcome(seed, "finished", record["metrics"], record["seconds"])
    if status.get("state") == "failed" and status.get("exit_code") == DivergedError.exit_code:
        return _diverged(seed, status["reason"].partition(": ")[2])
    return None


def _diverged(seed: int, reason: str) -> Outcome:
    return Outcome(seed, "diverged", {}, None, _first_line(reason))


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0]


def _machine(hardware: Mapping[str, Any]) -> str:
    """A run's `lock.json` on what it ran on, in one line."""
    threads = hardware["threads"]
    return (
        f"{hardware['machine']}, {hardware['cpus']} CPUs, {threads} thread{'s' if threads > 1 else ''} per rank, "
        f"{hardware['accelerator'] or 'no accelerator'}"
    )
