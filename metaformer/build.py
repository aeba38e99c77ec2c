"""A model's weights and data, and the module that an engine wraps: what a recipe says beside the model itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from metaformer.assemble import assemble
from metaformer.base import Dataset, Encoder, Objective, Tokenizer, Weighted
from metaformer.data.loader import Reader
from metaformer.errors import DataError, Problem, RecipeError
from metaformer.judge import judges
from metaformer.layers.compile import compile_blocks
from metaformer.layers.recompute import recompute
from metaformer.model import MetaFormer, Step
from metaformer.recipe import Entry, Recipe, Task, WeightedEntry
from metaformer.recipe_file import RecipeFile, locate
from metaformer.registry import registry
from metaformer.schema import construct, path_knobs
from metaformer.types import Target
from metaformer.weights.load import load_into
from metaformer.weights.receipt import Receipt
from metaformer.weights.uri import check_file


def load_pretrained(model: MetaFormer, recipe: Recipe, base: Path) -> list[Receipt]:
    """Load every `weights:` of the recipe into the model; a receipt each. `base`: folder of the recipe file."""
    receipts = []
    for path, entry in weighted(recipe):
        kind = path.partition(".")[0]
        if entry.weights is None or (kind == "encoders" and recipe.control in ("none", "random")):
            continue
        module = model.get_submodule(path)
        receipts.append(
            load_into(
                module,
                entry.weights,
                name=path,
                allow_missing=_fresh(module, entry),
                base=base,
                plugins=registry().load_weights,
                translate=cast(Weighted, module).translate,
            )
        )
    return receipts


def _fresh(module: nn.Module, entry: WeightedEntry) -> tuple[str, ...]:
    """What no file can have: the recipe's `allow_missing`, and low-rank updates that start at zero."""
    lora = [name for name, _ in module.named_parameters() if name.endswith((".lora_a", ".lora_b"))]
    return (*entry.allow_missing, *lora)


def weighted(recipe: Recipe) -> list[tuple[str, WeightedEntry]]:
    """Every component that may have weights, with its dotted path, which is also its module's name."""
    groups: list[tuple[str, Mapping[str, WeightedEntry]]] = [
        ("tokenizers", recipe.tokenizers),
        ("encoders", recipe.encoders),
        ("bridges", recipe.bridges),
        ("heads", recipe.heads),
    ]
    out = [(f"{group}.{name}", entry) for group, entries in groups for name, entry in entries.items()]
    for name, spec in recipe.passes.items():
        if spec.types:
            shape = WeightedEntry(use="types", weights=spec.weights, allow_missing=spec.allow_missing)
            out.append((f"passes.{name}", shape))
    return out


@dataclass
class TaskData:
    """The data of one task."""

    train: Reader | None
    """None: the task is only evaluated."""
    valid: Reader | None
    streams: tuple[str, ...]
    targets: dict[str, Target]
    classes: dict[str, list[str]]


def open_data(recipe: Recipe, model: MetaFormer, base: Path, *, train: bool = True) -> dict[str, TaskData]:
    """Readers of every task. Streams and targets are those its objectives use; class names are the training set's."""
    return {task: _open_task(recipe, model, task, spec, base) for task, spec in recipe.tasks.items()}


def needs(model: MetaFormer, task: str) -> tuple[tuple[str, ...], dict[str, Target]]:
    """Streams (in tokenizer order) and targets that a task's objectives use."""
    objectives = cast(Sequence[Objective], model.objectives[task])
    used = set().union(*(model.sources(name) for objective in objectives for name in objective.uses))
    targets = {key: target for objective in objectives for key, target in objective.targets.items()}
    return tuple(stream for stream in model.streams if stream in used), targets


def _open_task(recipe: Recipe, model: MetaFormer, task: str, spec: Task, base: Path) -> TaskData:
    streams, targets = needs(model, task)
    train = open_dataset(spec.data.train, base) if spec.data.train else None
    valid = open_dataset(spec.data.valid, base) if spec.data.valid else None
    for which, dataset in (("train", train), ("valid", valid)):
        if dataset is not None and len(dataset) == 0:
            raise DataError(f"task {task!r} needs {which} data", "no samples")
    named = train or valid
    assert named is not None  # the recipe's check asks for one of them
    classes = class_names(task, targets, named)
    for objective in cast(Sequence[Objective], model.objectives[task]):
        objective.class_names = classes
    preprocess = {stream: model.tokenizer(stream).preprocess for stream in streams}

    def reader(dataset: Dataset, training: bool) -> Reader:
        substitute = training and recipe.loader.bad_samples == "substitute"
        return Reader(task, dataset, preprocess, targets, classes, training, recipe.seed, substitute)

    return TaskData(
        reader(train, True) if train is not None else None,
        reader(valid, False) if valid is not None else None,
        streams,
        targets,
        classes,
    )


def class_names(task: str, targets: Mapping[str, Target], data: Dataset) -> dict[str, list[str]]:
    """Class names by target, where the data set knows them; more of them than the head has is an error."""
    out = {}
    for key, target in targets.items():
        names = data.classes.get(key)
        if names is None or target.kind in ("values", "identity"):
            continue
        if len(names) > target.size:
            raise DataError(
                f"task {task!r}, target {key!r}: the head has {target.size} classes",
                f"{len(names)} in the data: {', '.join(names[:8])}{' ...' if len(names) > 8 else ''}",
                f"set the head's num_classes to {len(names)}",
            )
        out[key] = list(names)
    return out


def open_dataset(entry: Entry, base: Path) -> Dataset:
    """A data set, its path knobs looked up from the working directory, then from the recipe's folder."""
    cls = registry().load("dataset", entry.use)
    knobs = entry.knobs
    for name in path_knobs(cls):
        if isinstance(knobs.get(name), str):
            knobs[name] = str(locate(knobs[name], base))
    return cast(Dataset, construct(cls, knobs, {"open_data": lambda data: open_dataset(Entry(**data), base)}))


def fit_tokenizers(
    model: MetaFormer, data: Mapping[str, TaskData], interrupted: Callable[[], None] = lambda: None
) -> None:
    """Let the tokenizers that learn statistics see the training values of their streams, tasks in recipe order.
    `interrupted` is called before each value and may raise."""

    def values(stream: str) -> Iterator[Any]:
        readers = {name for name, of in model.streams.items() if of == stream}
        for task in data.values():
            for name in task.streams:
                if task.train is not None and name in readers:
                    for value in task.train.values(name):
                        interrupted()
                        yield value

    for stream, tokenizer in model.tokenizers.items():
        if cast(Tokenizer, tokenizer).fits:
            cast(Tokenizer, tokenizer).fit(values(stream))


def step_module(model: MetaFormer, data: Mapping[str, TaskData], recipe: Recipe, train: bool = True) -> Step:
    """What the engine wraps. `train`: its encoders' blocks recompute and are compiled as the recipe says."""
    blocks = dict.fromkeys(block for encoder in model.encoders.values() for block in cast(Encoder, encoder).blocks)
    if train and recipe.engine.activation_checkpointing:
        recompute(blocks)
    if train and recipe.engine.compile:
        compile_blocks(blocks)
    blanks = {task: spec.train.blank_batch() for task, spec in data.items() if spec.train is not None}
    return Step(model, blanks, {"bf16": torch.bfloat16, "fp16": torch.float16}.get(recipe.engine.precision))


def probe(file: RecipeFile) -> MetaFormer:
    """Build the model without memory, on the meta device, and check that data and local weights are where the
    recipe says. Raises RecipeError with everything found; returns the model."""
    problems: list[Problem] = []
    base = file.path.parent
    for path, entry in weighted(file.recipe):
        if entry.weights is not None:
            problems += _missing_weights(path, entry.weights, base)
    for task, spec in file.recipe.tasks.items():
        for which in ("train", "valid"):
            data = getattr(spec.data, which)
            if data is not None:
                problems += _missing_paths(f"tasks.{task}.data.{which}", data, base)
    try:
        with torch.device("meta"):
            model = assemble(file.recipe)
        for task in file.recipe.tasks:
            judges(file.recipe, model, task)
    except RecipeError as error:
        raise RecipeError(str(file.path), [*error.problems, *problems]) from error
    if problems:
        raise RecipeError(str(file.path), problems)
    return model


def _missing_weights(path: str, uri: str, base: Path) -> list[Problem]:
    found = check_file(uri, base)
    return [Problem(f"{path}.weights", found, "correct the path, or make the file first")] if found else []


def _missing_paths(path: str, entry: Entry, base: Path) -> list[Problem]:
    out = []
    for name in path_knobs(registry().load("dataset", entry.use)):
        value = entry.knobs.get(name)
        if isinstance(value, str) and not locate(value, base).exists():
            found = f"{value!r} does not exist (looked in {Path.cwd()} and {base.absolute()})"
            do = f"put the data there, or say where they are: --set {path}.{name}=PATH"
            out.append(Problem(f"{path}.{name}", found, "; ".join(filter(None, [do, _advice(entry, base)]))))
    return out


def _advice(entry: Entry, base: Path) -> str:
    """What the data set itself says where its files are not there: how they are laid out, where they come from."""
    try:
        open_dataset(entry, base)
    except DataError as error:
        return error.do
    return ""
