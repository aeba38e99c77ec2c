"""`metaformer inspect`: what a recipe builds, and what it costs, on the meta device: nothing is allocated."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from metaformer.assemble import assemble
from metaformer.base import Objective
from metaformer.build import needs
from metaformer.errors import RecipeError
from metaformer.model import MetaFormer
from metaformer.recipe_check import component_problems
from metaformer.recipe_file import read_recipe
from metaformer.registry import registry
from metaformer.report.console import Console
from metaformer.types import Batch

KINDS = ("tokenizers", "passes", "encoders", "bridges", "heads", "objectives")


@dataclass(frozen=True)
class Part:
    """One component: its parameters and its forward FLOPs for one sample of full size."""

    name: str
    kind: str
    trained: int
    frozen: int
    flops: int
    """Forward pass, one sample, a multiply and an add counting two."""
    passes: int
    """What a training step costs in forward passes: 3 where weights are trained, 2 where gradients only pass
    through, 1 where nothing upstream is trained."""


@dataclass(frozen=True)
class Costs:
    """What a task's sample costs."""

    task: str
    tokens: dict[str, int]
    """Stream → tokens of a sample of full size."""
    parts: list[Part]

    @property
    def forward(self) -> int:
        """Forward FLOPs of one sample."""
        return sum(part.flops for part in self.parts)

    @property
    def training(self) -> int:
        """FLOPs of one sample in a training step."""
        return sum(part.flops * part.passes for part in self.parts)


def costs(model: MetaFormer, task: str) -> Costs:
    """Count a task's parts. `model` must be on the meta device."""
    streams, _ = needs(model, task)
    preprocess = {s: model.tokenizer(s).preprocess for s in streams}
    raw = {s: {k: t.to("meta") for k, t in p.collate([p.example()]).items()} for s, p in preprocess.items()}
    present = {s: torch.ones(1, dtype=torch.bool, device="meta") for s in streams}
    batch = Batch(task, raw, present, {}, ["example"])
    model.eval()
    flops = _count(model, batch, [n for o in cast(nn.ModuleList, model.objectives[task]) for n in _uses(o)])
    tokens = {s: model.tokens(batch, s).x.shape[1] for s in streams}
    return Costs(task, tokens, _parts(model, flops))


def _uses(objective: nn.Module) -> tuple[str, ...]:
    return cast(Objective, objective).uses


def _count(model: MetaFormer, batch: Batch, names: list[str]) -> dict[str, int]:
    """Forward FLOPs of each component on the way to the named heads and streams."""
    flops: dict[str, int] = {}
    counter = FlopCounterMode(display=False)

    def add(name: str, sign: int) -> None:
        flops[name] = flops.get(name, 0) + sign * counter.get_total_flops()

    hooks = []
    for kind in KINDS[:-1]:
        for name, module in cast(nn.ModuleDict, model.get_submodule(kind)).items():
            key = f"{kind}.{name}"
            hooks.append(module.register_forward_pre_hook(lambda *_, key=key: add(key, -1)))
            hooks.append(module.register_forward_hook(lambda *_, key=key: add(key, 1)))
    # The counter hooks the gradients of what requires them, and there are none here.
    trained = [p for p in model.parameters() if p.requires_grad]
    model.requires_grad_(False)
    with counter, torch.no_grad():
        for name in names:
            if name in model.heads:
                model.predict(batch, name)
            elif name in model.routes or name in model.bridge_reads:
                model.stream(batch, name)
    for hook in hooks:
        hook.remove()
    for parameter in trained:
        parameter.requires_grad_(True)
    return flops


def _parts(model: MetaFormer, flops: dict[str, int]) -> list[Part]:
    out = []
    upstream = False
    for kind in KINDS:
        trained_here = False
        for name, module in cast(nn.ModuleDict, model.get_submodule(kind)).items():
            key = f"{kind}.{name}"
            trained = sum(p.numel() for p in module.parameters() if p.requires_grad)
            frozen = sum(p.numel() for p in module.parameters() if not p.requires_grad)
            trained_here |= trained > 0
            passes = 3 if trained else 2 if upstream else 1
            if trained or frozen or flops.get(key):
                out.append(Part(key, type(module).__name__, trained, frozen, flops.get(key, 0), passes))
        upstream |= trained_here
    return out


def inspect_command(path: Path, sets: list[str]) -> None:
    """Print the parts of a recipe, their parameters, tokens and FLOPs. Data and weights need not be there."""
    file = read_recipe(path, tuple(sets))
    problems = component_problems(file.source.data, registry())
    if problems:
        raise file.error(problems)
    try:
        with torch.device("meta"):
            model = assemble(file.recipe)
    except RecipeError as error:
        raise file.error(error.problems) from error
    console = Console()
    columns = ["part", "class", "trained", "frozen", "total", "FLOPs forward", "in training"]
    for task in file.recipe.tasks:
        cost = costs(model, task)
        rows = [_row(part) for part in cost.parts if part.flops or len(file.recipe.tasks) == 1]
        console.table(f"{file.recipe.name}, task {task}", columns, rows)
        tokens = ", ".join(f"{stream} {count}" for stream, count in cost.tokens.items())
        flops = f"{human(cost.forward)} forward, {human(cost.training)} in training"
        console.say(f"tokens per sample: {tokens}; FLOPs per sample: {flops}")
        for stream in cost.tokens:
            console.say(f"  {stream}: {model.tokenizer(stream).describe()}")
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    total = sum(p.numel() for p in model.parameters())
    console.say(f"parameters: {trained:,} trained, {total - trained:,} frozen, {total:,} in all")


def _row(part: Part) -> list[str]:
    counts = [f"{n:,}" for n in (part.trained, part.frozen, part.trained + part.frozen)]
    return [part.name, part.kind, *counts, human(part.flops), f"{part.passes}x"]


def human(number: float) -> str:
    """A number with a unit prefix: 17.6G."""
    for prefix in ("", "k", "M", "G", "T"):
        if abs(number) < 1000:
            return f"{number:.3g}{prefix}"
        number /= 1000
    return f"{number:.3g}P"
