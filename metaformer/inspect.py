"""`metaformer inspect`: what a recipe builds, and what it costs, on the meta device: nothing is allocated."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from metaformer.base import Tokenizer
from metaformer.build import needs, probe
from metaformer.model import MetaFormer
from metaformer.recipe_file import check_recipe, read_recipe
from metaformer.registry import registry
from metaformer.report.console import Console
from metaformer.types import Batch


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
    preprocess = {s: cast(Tokenizer, model.tokenizers[s]).preprocess for s in streams}
    raw = {s: {k: t.unsqueeze(0).to("meta") for k, t in p.example().items()} for s, p in preprocess.items()}
    present = {s: torch.ones(1, dtype=torch.bool, device="meta") for s in streams}
    batch = Batch(task, raw, present, {}, ["example"])
    model.eval()
    with FlopCounterMode(model, display=False) as counter, torch.no_grad():
        for objective in cast(nn.ModuleList, model.objectives[task]):
            for name in objective.uses:  # type: ignore[union-attr]
                if name in model.heads:
                    model.predict(batch, name)
                else:
                    model.stream(batch, name)
    flops = {name.removeprefix("MetaFormer."): sum(ops.values()) for name, ops in counter.get_flop_counts().items()}
    tokens = {s: model.tokens(batch, s).x.shape[1] for s in streams}
    return Costs(task, tokens, _parts(model, flops))


def _parts(model: MetaFormer, flops: dict[str, int]) -> list[Part]:
    out = []
    upstream = False
    for kind in ("tokenizers", "encoders", "bridges", "heads", "objectives"):
        group = cast(nn.ModuleDict, model.get_submodule(kind))
        trained_here = False
        for name, module in group.items():
            trained = sum(p.numel() for p in module.parameters() if p.requires_grad)
            frozen = sum(p.numel() for p in module.parameters() if not p.requires_grad)
            trained_here |= trained > 0
            passes = 3 if trained else 2 if upstream else 1
            out.append(
                Part(f"{kind}.{name}", type(module).__name__, trained, frozen, flops.get(f"{kind}.{name}", 0), passes)
            )
        upstream |= trained_here
    return out


def inspect_command(path: Path, sets: list[str]) -> None:
    """Print the parts of a recipe, their parameters, tokens and FLOPs."""
    file = read_recipe(path, tuple(sets))
    error = file.error(check_recipe(file, registry()))
    if error.problems:
        raise error
    model = probe(file)
    console = Console()
    parameters = list(model.parameters())
    trained = sum(p.numel() for p in parameters if p.requires_grad)
    total = sum(p.numel() for p in parameters)
    for task in file.recipe.tasks:
        cost = costs(model, task)
        rows = [
            [
                p.name,
                p.kind,
                f"{p.trained:,}",
                f"{p.frozen:,}",
                f"{p.trained + p.frozen:,}",
                human(p.flops),
                f"{p.passes}x",
            ]
            for p in cost.parts
        ]
        columns = ["part", "class", "trained", "frozen", "total", "FLOPs forward", "in training"]
        console.table(f"{file.recipe.name}, task {task}", columns, rows)
        counts = ", ".join(f"{stream} {count}" for stream, count in cost.tokens.items())
        console.say(
            f"tokens per sample: {counts}; FLOPs per sample: {human(cost.forward)} forward, {human(cost.training)} in training"
        )
    console.say(f"parameters: {trained:,} trained, {total - trained:,} frozen, {total:,} in all")


def human(number: float) -> str:
    """A number with a unit prefix: 17.6G."""
    for prefix in ("", "k", "M", "G", "T"):
        if abs(number) < 1000:
            return f"{number:.3g}{prefix}"
        number /= 1000
    return f"{number:.3g}P"
