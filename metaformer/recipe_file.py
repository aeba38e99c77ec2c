"""Reads recipe files: YAML, `--set`, shape and structure, and reports every fault at once, each with its line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from metaformer.errors import PluginError, Problem, RecipeError
from metaformer.faults import dotted, explain, known_keys, takes_keys, validated
from metaformer.plaintext import printable
from metaformer.recipe import Engine, MetricEntry, Recipe
from metaformer.recipe_check import component_problems, offload_problems, output_problems, structure_problems
from metaformer.recipe_data import mapping, metric_data
from metaformer.registry import Registry, registry
from metaformer.spelling import suggest
from metaformer.yamlfile import Key, parse_value, read_yaml, write_yaml

ELSEWHERE: Mapping[str, str] = {
    "learning_rate": "optimizer.lr", "lr": "optimizer.lr", "base_lr": "optimizer.lr",
    "weight_decay": "optimizer.weight_decay", "wd": "optimizer.weight_decay",
    "epochs": "steps", "num_epochs": "steps", "num_train_epochs": "steps", "max_epochs": "steps",
    "max_steps": "steps", "num_steps": "steps", "total_steps": "steps", "iterations": "steps",
    "batch": "batch_size", "train_batch_size": "batch_size", "global_batch_size": "batch_size",
    "per_device_train_batch_size": "engine.micro_batch", "micro_batch_size": "engine.micro_batch",
    "train_micro_batch_size_per_gpu": "engine.micro_batch", "per_device_eval_batch_size": "eval_batch",
    "gradient_accumulation_steps": "engine.accumulate", "accumulate_grad_batches": "engine.accumulate",
    "max_grad_norm": "engine.clip", "gradient_clip_val": "engine.clip", "gradient_clipping": "engine.clip",
    "clip_grad": "engine.clip", "precision": "engine.precision", "mixed_precision": "engine.precision",
    "bf16": "engine.precision", "fp16": "engine.precision", "amp": "engine.precision",
    "zero_stage": "engine.zero", "stage": "engine.zero", "deepspeed": "engine",
    "num_workers": "loader.workers", "workers": "loader.workers", "dataloader_num_workers": "loader.workers",
    "prefetch_factor": "loader.prefetch", "dataloader": "loader",
    "warmup": "schedule.warmup", "warmup_steps": "schedule.warmup", "scheduler": "schedule",
    "lr_scheduler": "schedule", "lr_scheduler_type": "schedule.decay", "min_lr": "schedule.floor",
    "output_dir": "output", "default_root_dir": "output", "log_dir": "output",
    "eval_steps": "eval_every", "eval_interval": "eval_every", "val_check_interval": "eval_every",
    "save_steps": "save_every", "logging_steps": "log_every", "log_every_n_steps": "log_every",
    "save_total_limit": "keep_last", "metric_for_best_model": "best.metric",
    "model": "encoders", "backbone": "encoders", "encoder": "encoders", "tokenizer": "tokenizers",
    "head": "heads", "task": "tasks", "modalities": "tokenizers", "plugins": "requires",
    "data": "tasks.NAME.data", "dataset": "tasks.NAME.data.train", "datasets": "tasks.NAME.data",
    "loss": "tasks.NAME.objective", "objective": "tasks.NAME.objective", "metrics": "tasks.NAME.metrics",
    "val": "valid", "validation": "valid", "eval": "valid", "test": "valid",
    "freeze": "trainable", "frozen": "trainable", "param_groups": "optimizer.groups", "peft": "lora",
}  # fmt: skip
"""Names from other tools → what a recipe calls it."""


@dataclass(frozen=True)
class Source:
    """A recipe as written: plain data after `--set`, and the line of each value."""

    path: Path
    text: str
    sets: tuple[str, ...]
    data: dict[str, Any]
    lines: Mapping[str, int]
    """Dotted path → 1-based line."""

    def line(self, at: str) -> int | None:
        """Line of a value, or of the nearest one around it; None for what `--set` gave."""
        if any(_within(at, given.partition("=")[0].strip()) for given in self.sets):
            return None
        parts = at.split(".") if at else []
        for end in range(len(parts), 0, -1):
            line = self.lines.get(".".join(parts[:end]))
            if line is not None:
                return line
        return None

    def error(self, problems: Sequence[Problem]) -> RecipeError:
        """An error that carries the problems in the order of the file, each with its line."""
        placed = list(dict.fromkeys(self._placed(problem) for problem in problems))
        placed.sort(key=lambda p: p.line or 10**9)
        error = RecipeError(str(self.path), placed)
        broken = [other.distribution for other in registry().broken]
        if placed and all(any(name in p.found for name in broken) for p in placed):
            # Nothing is wrong with the recipe: a plugin it needs is broken.
            error.exit_code = PluginError.exit_code
        return error

    def _placed(self, problem: Problem) -> Problem:
        traced = problem.found.startswith("--set") or "(from --set" in problem.found
        if problem.line is not None or not problem.path or traced:
            return problem
        for given in self.sets:
            if _within(problem.path, given.partition("=")[0].strip()):
                return replace(problem, found=f"{problem.found} (from --set {given})")
        return replace(problem, line=self.line(problem.path))


@dataclass(frozen=True)
class RecipeFile:
    """A sound recipe and the file it comes from."""

    recipe: Recipe
    source: Source

    @property
    def path(self) -> Path:
        return self.source.path

    @property
    def text(self) -> str:
        """The file as the user wrote it."""
        return self.source.text

    @property
    def sets(self) -> tuple[str, ...]:
        """The overrides of the command line."""
        return self.source.sets

    def line(self, at: str) -> int | None:
        """Line of a dotted path, or of the nearest value around it; None for what `--set` gave."""
        return self.source.line(at)

    def error(self, problems: Sequence[Problem]) -> RecipeError:
        """An error that carries the problems, each with its line."""
        return self.source.error(problems)

    def replaced(self, recipe: Recipe) -> RecipeFile:
        """Another recipe that comes from the same file, such as a control's."""
        return replace(self, recipe=recipe)


def read_recipe(path: str | Path, sets: Sequence[str] = (), partial: bool = False) -> RecipeFile:
    """Read a recipe, apply `--set`s, check shape and structure. Raises one RecipeError with all problems.
    `partial`: components that are not installed are no fault."""
    source, problems = _open(Path(path), sets, partial)
    if problems:
        raise source.error(problems)
    return RecipeFile(validated(Recipe, source.data), source)


def check_recipe(file: RecipeFile, plugins: Registry) -> list[Problem]:
    """Everything wrong with a recipe that was read: its components' knobs, and then what building shows."""
    return _finish(file.source, [], plugins)


def check_file(path: str | Path, sets: Sequence[str] = ()) -> None:
    """As `read_recipe` and `check_recipe` in one: raises one RecipeError with faults of shape and knobs alike."""
    source, problems = _open(Path(path), sets)
    found = _finish(source, problems, registry())
    if found:
        raise source.error(found)


def metric_entry(metric: str | MetricEntry) -> MetricEntry:
    """The entry behind a metric that may be written as a word: `accuracy@5` is `{use: accuracy, top_k: 5}`."""
    return MetricEntry(**metric_data(metric)) if isinstance(metric, str) else metric


def resolved(file: RecipeFile) -> str:
    """The recipe as YAML with every default in place; reads back as the same recipe."""
    # A line break in the name of the file would end the comment.
    name = printable(file.path.name, lines=False)
    head = f"# Every setting of {name}, defaults and overrides included.\n"
    return head + write_yaml(file.recipe.model_dump())


def locate(path: str | Path, base: Path) -> Path:
    """A file or folder named in a recipe: from the working directory, then beside the recipe.

    `base`: the recipe file or its folder. Where there is nothing, the first of the two places."""
    given = Path(path).expanduser()
    folder = base.parent if base.is_file() else base
    beside = folder / given
    return beside if not given.exists() and beside.exists() else given


def _open(path: Path, sets: Sequence[str], partial: bool = False) -> tuple[Source, list[Problem]]:
    file = read_yaml(path)
    lines = {dotted(at): line for at, line in file.lines.items() if at}
    problems = [problem for given in sets for problem in _set(file.data, given)]
    source = Source(path, file.text, tuple(sets), file.data, lines)
    try:
        validated(Recipe, file.data)
    except ValidationError as error:
        problems += [problem for _, problem in explain(error, Recipe, file.data, _elsewhere)]
    return source, problems + structure_problems(file.data, registry(), partial)


def _finish(source: Source, problems: list[Problem], plugins: Registry) -> list[Problem]:
    found = [*problems, *component_problems(source.data, plugins), *_engine_problems(source.data)]
    chosen = {given.partition("=")[0].strip() for given in source.sets}  # may be anywhere
    found += () if "output" in chosen else output_problems(source.data)
    found += () if "engine.offload.path" in chosen else offload_problems(source.data)
    if found:
        return source.error(found).problems
    from metaformer.build import probe

    try:
        probe(RecipeFile(validated(Recipe, source.data), source))
    except RecipeError as error:
        return source.error(error.problems).problems
    return []


def _engine_problems(data: Mapping[str, Any]) -> list[Problem]:
    """What this machine and the installed DeepSpeed say to the engine. Asks neither where there is nothing to ask:
    importing them takes seconds."""
    try:
        engine = validated(Engine, mapping(data, "engine"))
    except ValidationError:
        return []  # said already
    found: list[Problem] = []
    if engine.compile:
        from metaformer.layers.compile import missing_compiler

        if compiler := missing_compiler():
            do = "install one (apt-get install g++), name another in the environment variable CXX, or remove it"
            found.append(Problem("engine.compile", f"it needs a C++ compiler, and there is no '{compiler}'", do))
    if engine.use == "deepspeed" and (engine.config or engine.offload.path):
        from metaformer.engine.settings import settings_problems

        found += settings_problems(engine)
    return found


def _elsewhere(parent: Key, key: str) -> str | None:
    """What to do about a key that another tool has, if it is one."""
    here = ELSEWHERE.get(key)
    if here is None:
        return None
    if here == "steps" and "epoch" in key:
        return "training is counted in optimizer steps: `steps`"
    if "." not in here and here not in Recipe.model_fields and here not in known_keys(Recipe, parent):
        return None
    return f"it is called `{here}`"


def _set(data: dict[str, Any], given: str) -> list[Problem]:
    """Apply one `--set a.b=c` in place; what is wrong with it, if anything."""
    path, equals, text = given.partition("=")
    path = path.strip()
    parts = path.split(".")
    if not equals or not all(parts):
        return [Problem("", f"--set {given}: not of the form a.b=c", "for example: --set optimizer.lr=1e-4")]
    try:
        value = parse_value(text.strip())
    except RecipeError as error:
        return [Problem(path, f"--set {given}: {p.found}", p.do) for p in error.problems]
    here: Any = data
    walked: list[str | int] = []
    for part in parts[:-1]:
        absent = isinstance(here, dict) and here.get(part) is None
        if absent and part in known_keys(Recipe, walked) and takes_keys(Recipe, [*walked, part]):
            here[part] = {}  # a section of settings with defaults, which the file leaves out
        inner = _inside(here, part)
        if inner is None:
            return [_no_place(given, here, part, walked)]
        walked.append(int(part) if isinstance(here, list) else part)
        here = inner
    last = parts[-1]
    if isinstance(here, list) and _inside(here, last) is not None:
        here[int(last)] = value
    elif isinstance(here, dict):
        here[last] = value
    else:
        return [_no_place(given, here, last, walked)]
    return []


def _inside(here: Any, part: str) -> Any:
    if isinstance(here, list):
        return here[int(part)] if part.isdecimal() and int(part) < len(here) else None
    return here.get(part) if isinstance(here, dict) else None


def _no_place(given: str, here: Any, part: str, walked: Sequence[str | int]) -> Problem:
    where = dotted(walked) or "the recipe"
    if isinstance(here, list):
        found, do = f"{where} is a list of {len(here)}", f"use a position from 0 to {len(here) - 1}"
    elif isinstance(here, dict):
        found = f"{where} has no '{part}'"
        do = suggest(part, {*here, *known_keys(Recipe, walked)})
    else:
        found, do = f"{where} is a single value, with nothing inside", "shorten the path"
    return Problem(dotted((*walked, part)), f"--set {given}: {found}", do)


def _within(at: str, outer: str) -> bool:
    return at == outer or at.startswith(f"{outer}.")
