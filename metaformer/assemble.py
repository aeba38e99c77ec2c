"""From a recipe to a model: every component made, wired to what it reads, frozen as the recipe says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from torch import nn

from metaformer.base import Bridge, Encoder, Head, Objective, Tokenizer
from metaformer.data.loader import isolated_rng
from metaformer.data.order import name_number
from metaformer.encoders.control import NoEncoder, shuffle_contents
from metaformer.errors import MetaformerError, Problem, RecipeError
from metaformer.model import MetaFormer, Route
from metaformer.recipe import Entry, Recipe, Task, WeightedEntry
from metaformer.registry import registry
from metaformer.schema import construct
from metaformer.sequence import TypeVectors
from metaformer.teacher import Teacher
from metaformer.trainable import freeze, insert_lora, words


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
    _add_teacher(model)
    return model


def _add_teacher(model: MetaFormer) -> None:
    """Where objectives ask for one. It takes over the student's weights when the run begins."""
    asked = [
        (f"{task}.{i}", cast(Objective, objective).momentum)
        for task, objectives in model.objectives.items()
        for i, objective in enumerate(cast(nn.ModuleList, objectives))
        if cast(Objective, objective).momentum is not None
    ]
    if len({momentum for _, momentum in asked}) > 1:
        told = ", ".join(f"{name}: {momentum}" for name, momentum in asked)
        raise RecipeError("", [Problem("tasks", f"objectives ask for different teachers ({told})", "there is one")])
    if asked:
        model.teacher = Teacher(model, cast(float, asked[0][1]))


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
        passes = self.passes(routes, encoders, widths)
        bridges: dict[str, Bridge] = {}
        for name, bridge_entry in recipe.bridges.items():
            if not all(self.known(f"bridges.{name}.reads", stream, widths) for stream in bridge_entry.reads.values()):
                return None
            roles = {role: widths[stream] for role, stream in bridge_entry.reads.items()}
            bridge = self.make("bridge", f"bridges.{name}", bridge_entry, {"widths": roles})
            if bridge is None:
                return None
            bridges[name], widths[name] = bridge, bridge.dim
        like = {**{name: name for name in tokenizers}, **recipe.streams}
        wired: dict[str, Any] = {
            "widths": widths,
            "contents": {name: tokenizers[of].num_contents for name, of in like.items()},
            "vocabularies": {name: tokenizers[of].num_ids for name, of in like.items()},
        }
        heads = {name: self.head(name, entry, wired, tokenizers) for name, entry in recipe.heads.items()}
        if self.problems:
            return None
        reads = {name: entry.reads for name, entry in recipe.bridges.items()}
        model = MetaFormer(
            tokenizers, encoders, routes, bridges, reads, cast(dict[str, Head], heads), recipe.streams, passes
        )
        for task, spec in recipe.tasks.items():
            objectives = [self.objective(task, spec, i, wired | {"heads": heads}) for i in range(len(spec.objectives))]
            if not self.problems:
                model.add_objectives(task, cast(list[Objective], objectives))
        return None if self.problems else model

    def passes(
        self, routes: Mapping[str, Route], encoders: Mapping[str, Encoder], widths: Mapping[str, int]
    ) -> dict[str, TypeVectors]:
        """The vectors of passes that tell their streams apart by one."""
        out = {}
        for name, spec in self.recipe.passes.items():
            if spec.types:
                with _seeded(self.recipe.seed, f"passes.{name}"):
                    out[name] = TypeVectors(len(routes[name].reads), widths[name])
            elif spec.weights is not None:
                self.problems.append(Problem(f"passes.{name}.weights", "a pass has weights with `types: true` only"))
        return out

    def objective(self, task: str, spec: Task, index: int, wired: Mapping[str, Any]) -> Objective | None:
        entry = spec.objectives[index]
        made: Objective | None = self.make(
            "objective", objective_path(task, spec, index), entry, {**wired, "task": task}
        )
        if made is not None:
            made.weight = entry.weight
        return made

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
        readers = [name, *(stream for stream, of in self.recipe.streams.items() if of == name)]
        widths = {stream: tokenizer_width(stream, routes, encoders) for stream in readers}
        if len(set(widths.values())) > 1:
            found = f"its streams are read by encoders of different widths: {widths}"
            self.problems.append(Problem(f"tokenizers.{name}", found, "give each stream a tokenizer of its own"))
        wired = {"dim": widths[name]}
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

    def head(self, name: str, entry: Any, wired: Mapping[str, Any], tokenizers: Mapping[str, Tokenizer]) -> Head | None:
        widths = wired["widths"]
        if not self.known(f"heads.{name}.reads", entry.reads, widths):
            return None
        head: Head = self.make("head", f"heads.{name}", entry, {**wired, "dim": widths[entry.reads]})
        if head is not None:
            head.reads = entry.reads
            if head.ties is not None:
                self.tie(name, head, tokenizers[self.recipe.streams.get(head.ties, head.ties)])
        return head

    def tie(self, name: str, head: Head, tokenizer: Tokenizer) -> None:
        vectors = tokenizer.word_vectors()
        try:
            if vectors is None:
                raise MetaformerError(f"tie head {name!r} to stream {head.ties!r}", "it has no word vectors")
            head.tie(vectors)
        except MetaformerError as error:
            self.problems.append(Problem(f"heads.{name}", f"{error.asked}: {error.found}", error.do))


def objective_path(task: str, spec: Task, index: int) -> str:
    """Dotted recipe path of a task's objective."""
    path = f"tasks.{task}.objective"
    return f"{path}.{index}" if isinstance(spec.objective, tuple) else path


def routes_of(recipe: Recipe) -> dict[str, Route]:
    """Every pass, the default ones included: each stream that no pass names goes alone through `shared`."""
    routes = {
        name: Route(spec.reads or (name,), spec.encoder, spec.expert or "") for name, spec in recipe.passes.items()
    }
    named = {stream for route in routes.values() for stream in route.reads}
    for stream in (*recipe.tokenizers, *recipe.streams):
        if stream not in named:
            routes[stream] = Route((stream,), "shared")
    return routes


def tokenizer_width(stream: str, routes: Mapping[str, Route], encoders: Mapping[str, Encoder]) -> int:
    """Width of the encoder that reads a stream's tokens; of the first encoder where none does."""
    for route in routes.values():
        if stream in route.reads and route.encoder is not None:
            return encoders[route.encoder].dim
    return next(iter(encoders.values())).dim
