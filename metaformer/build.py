"""The only wiring: from a recipe to a model, its data and its metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from metaformer.base import Bridge, Dataset, Encoder, Head, Objective, Tokenizer
from metaformer.data.loader import Reader, isolated_rng
from metaformer.data.order import name_number
from metaformer.encoders.control import NoEncoder, shuffle_contents
from metaformer.errors import DataError, MetaformerError, Problem, RecipeError
from metaformer.judge import judges
from metaformer.layers.compile import compile_blocks
from metaformer.layers.recompute import recompute
from metaformer.model import MetaFormer, Route, Step
from metaformer.recipe import Entry, Recipe, Task, WeightedEntry
from metaformer.recipe_file import RecipeFile, locate
from metaformer.registry import registry
from metaformer.schema import construct, path_knobs
from metaformer.trainable import freeze, insert_lora, words
from metaformer.types import Target
from metaformer.weights.load import load_into
from metaformer.weights.receipt import Receipt
from metaformer.weights.uri import check_file


def assemble(recipe: Recipe) -> MetaFormer:
    """The model, freshly initialised on the current default device, frozen as the recipe says.

    Every component draws from its own seed, so that adding one leaves the others as they were. Raises RecipeError
    with everything that does not fit.
    """
    builder = _Builder(recipe)
    model = builder.model()
    if builder.problems:
        raise RecipeError("", builder.problems)
    assert model is not None
    if "lora" in words(recipe.trainable) and recipe.control != "none":
        from metaformer.recipe import Lora

        with _seeded(recipe.seed, "lora"):
            insert_lora(model, recipe.lora or Lora())
    _freeze(model, recipe)
    return model


def _freeze(model: MetaFormer, recipe: Recipe) -> None:
    if recipe.control == "none":
        # There is no encoder left for its globs to match.
        trainable = [word for word in words(recipe.trainable) if not word.startswith("encoders.")]
        freeze(model, trainable or "frozen")
        return
    freeze(model, recipe.trainable)
    if recipe.control == "random":
        model.encoders.requires_grad_(False)


def _seeded(seed: int, path: str) -> Any:
    return isolated_rng((seed * 1_000_003 + name_number(path)) % 2**32)


class _Builder:
    """Makes components one by one and collects what goes wrong."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.problems: list[Problem] = []

    def make(self, kind: str, path: str, entry: Entry, wired: Mapping[str, Any], draw: str = "") -> Any:
        """One component, or None and a problem. `draw` tells apart initialisations of the same component."""
        try:
            with _seeded(self.recipe.seed, draw + path):
                return construct(registry().load(kind, entry.use), entry.knobs, wired)
        except RecipeError as error:
            self.problems += [Problem(f"{path}.{p.path}" if p.path else path, p.found, p.do) for p in error.problems]
        except MetaformerError as error:
            self.problems.append(Problem(path, ", ".join(filter(None, [error.asked, error.found])), error.do))
        except (ValueError, TypeError, RuntimeError) as error:
            self.problems.append(Problem(path, f"{entry.use!r} cannot be made: {error}", "change its knobs"))
        return None

    def model(self) -> MetaFormer | None:
        """The whole model, or None with problems."""
        recipe = self.recipe
        encoders = {name: self.encoder(name, entry) for name, entry in recipe.encoders.items()}
        if self.problems:
            return None
        routes = routes_of(recipe)
        tokenizers = {name: self.tokenizer(name, entry, routes, encoders) for name, entry in recipe.tokenizers.items()}
        if self.problems:
            return None
        widths = {name: tokenizer_width(route.reads[0], routes, encoders) for name, route in routes.items()}
        bridges: dict[str, Bridge] = {}
        for name, bridge_entry in recipe.bridges.items():
            if not all(self.known(f"bridges.{name}.reads", stream, widths) for stream in bridge_entry.reads.values()):
                return None
            roles = {role: widths[stream] for role, stream in bridge_entry.reads.items()}
            bridge = self.make("bridge", f"bridges.{name}", bridge_entry, {"widths": roles})
            if bridge is None:
                return None
            bridges[name], widths[name] = bridge, bridge.dim
        heads = {name: self.head(name, entry, widths) for name, entry in recipe.heads.items()}
        if self.problems:
            return None
        reads = {name: entry.reads for name, entry in recipe.bridges.items()}
        model = MetaFormer(tokenizers, encoders, routes, bridges, reads, cast(dict[str, Head], heads))
        for task, spec in recipe.tasks.items():
            contents = {name: tokenizer.num_contents for name, tokenizer in tokenizers.items()}
            wired = {"task": task, "heads": heads, "widths": widths, "contents": contents}
            objectives = [
                self.make("objective", objective_path(task, spec, i), entry, wired)
                for i, entry in enumerate(spec.objectives)
            ]
            if not self.problems:
                model.add_objectives(task, objectives)
        return None if self.problems else model

    def encoder(self, name: str, entry: WeightedEntry) -> Encoder:
        # The control is another draw, so that a run whose own encoder is random can be compared with it.
        draw = "random/" if self.recipe.control == "random" else ""
        encoder: Encoder = self.make("encoder", f"encoders.{name}", entry, {}, draw)
        if encoder is not None and self.recipe.control == "none":
            return NoEncoder(encoder.dim)
        if encoder is not None and self.recipe.control == "shuffled":
            shuffle_contents(encoder)
        return encoder

    def tokenizer(
        self, name: str, entry: WeightedEntry, routes: Mapping[str, Route], encoders: Mapping[str, Encoder]
    ) -> Tokenizer:
        wired = {"dim": tokenizer_width(name, routes, encoders)}
        tokenizer: Tokenizer = self.make("tokenizer", f"tokenizers.{name}", entry, wired)
        if tokenizer is not None:
            tokenizer.modality = entry.use.rpartition(":")[2]
        return tokenizer

    def known(self, path: str, stream: str, widths: Mapping[str, int]) -> bool:
        """Whether a stream comes out of a pass or bridge; a problem where it only goes into a joint pass."""
        if stream not in widths:
            do = f"give it a pass of its own (passes: {{{stream}: {{}}}}), or read one of: {', '.join(widths)}"
            self.problems.append(Problem(path, f"'{stream}' is read by a joint pass only", do))
        return stream in widths

    def head(self, name: str, entry: Any, widths: Mapping[str, int]) -> Head | None:
        if not self.known(f"heads.{name}.reads", entry.reads, widths):
            return None
        head: Head = self.make("head", f"heads.{name}", entry, {"dim": widths[entry.reads]})
        if head is not None:
            head.reads = entry.reads
        return head


def objective_path(task: str, spec: Task, index: int) -> str:
    """Dotted recipe path of a task's objective."""
    path = f"tasks.{task}.objective"
    return f"{path}.{index}" if isinstance(spec.objective, tuple) else path


def routes_of(recipe: Recipe) -> dict[str, Route]:
    """Every pass, the default ones included: each stream that no pass names goes alone through `shared`."""
    routes = {name: Route(spec.reads or (name,), spec.encoder) for name, spec in recipe.passes.items()}
    named = {stream for route in routes.values() for stream in route.reads}
    for stream in recipe.tokenizers:
        if stream not in named:
            routes[stream] = Route((stream,), "shared")
    return routes


def tokenizer_width(stream: str, routes: Mapping[str, Route], encoders: Mapping[str, Encoder]) -> int:
    """Width of the encoder that reads a stream's tokens; of the first encoder where none does."""
    for route in routes.values():
        if stream in route.reads and route.encoder is not None:
            return encoders[route.encoder].dim
    return next(iter(encoders.values())).dim


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
                translate=module.translate if isinstance(module, Tokenizer) else None,
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
    return [(f"{group}.{name}", entry) for group, entries in groups for name, entry in entries.items()]


@dataclass
class TaskData:
    """The data of one task."""

    train: Reader
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
    return tuple(stream for stream in model.tokenizers if stream in used), targets


def _open_task(recipe: Recipe, model: MetaFormer, task: str, spec: Task, base: Path) -> TaskData:
    streams, targets = needs(model, task)
    train = open_dataset(spec.data.train, base)
    valid = open_dataset(spec.data.valid, base) if spec.data.valid else None
    for which, dataset in (("train", train), ("valid", valid)):
        if dataset is not None and len(dataset) == 0:
            raise DataError(f"task {task!r} needs {which} data", "no samples")
    classes = class_names(task, targets, train)
    preprocess = {stream: cast(Tokenizer, model.tokenizers[stream]).preprocess for stream in streams}

    def reader(dataset: Dataset, training: bool) -> Reader:
        substitute = training and recipe.loader.bad_samples == "substitute"
        return Reader(task, dataset, preprocess, targets, classes, training, recipe.seed, substitute)

    return TaskData(reader(train, True), reader(valid, False) if valid is not None else None, streams, targets, classes)


def class_names(task: str, targets: Mapping[str, Target], train: Dataset) -> dict[str, list[str]]:
    """Class names by target, where the training set knows them; more of them than the head has is an error."""
    out = {}
    for key, target in targets.items():
        names = train.classes.get(key)
        if names is None or target.kind == "values":
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
    return cast(Dataset, construct(cls, knobs, {}))


def fit_tokenizers(
    model: MetaFormer, data: Mapping[str, TaskData], interrupted: Callable[[], None] = lambda: None
) -> None:
    """Let the tokenizers that learn statistics see the training values of their streams, tasks in recipe order.
    `interrupted` is called before each value and may raise."""

    def values(stream: str) -> Iterator[Any]:
        for task in data.values():
            if stream in task.streams:
                for value in task.train.values(stream):
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
    blanks = {task: spec.train.blank_batch() for task, spec in data.items()}
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
