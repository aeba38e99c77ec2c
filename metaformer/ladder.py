"""The rows of a study: the encoder's controls, and the ladder of how much of it is trained.

Source: Meta-Transformer's frozen and tuned protocols, arXiv 2307.10802, and the usual presets of transfer learning.
Ours differs: an absent and a random encoder stand beside them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from metaformer.assemble import assemble
from metaformer.errors import RecipeError
from metaformer.recipe import Control, Recipe
from metaformer.trainable import PRESETS, matches, words

LADDER = ("norm", "bitfit", "last-1", "last-2", "lora", "tuned")
"""Presets above `frozen`, from few trained parameters to all."""


@dataclass(frozen=True)
class Variant:
    """A row to be: the recipe with another encoder, or with more of it trained."""

    name: str
    about: str
    recipe: Recipe
    trained: int
    """Number of trained parameters."""


@dataclass(frozen=True)
class Plan:
    """The rows of a study, each distinct run once, and those that are left out."""

    variants: tuple[Variant, ...]
    absent: Mapping[str, str]
    """Name → why."""


def plan(recipe: Recipe) -> Plan:
    """Controls of the encoder, then the ladder. Left out are rows that would train what one above trains, on the same
    encoder, and rows that cannot be built."""
    given = any(entry.weights for entry in recipe.encoders.values())
    rungs: list[tuple[str, str, Control | None, str]] = [
        ("none", "frozen", "none", "no encoder: tokens go straight to the heads"),
        ("random", "frozen", "random", "a random encoder, frozen"),
        ("given", "frozen", None, "the encoder as the recipe gives it, frozen"),
        *((rung, rung, None, _about(rung)) for rung in LADDER),
    ]
    variants: list[Variant] = []
    absent: dict[str, str] = {}
    rows: dict[frozenset[str], str] = {}
    for name, trainable, control, about in rungs:
        if name == "given" and not given:
            absent[name] = "the recipe gives its encoders no weights, and frozen as drawn they are `random` again"
            continue
        changed = recipe.model_copy(update={"trainable": trainable, "control": control, "controls": ()})
        try:
            sizes = _trained(changed)
        except RecipeError as error:
            absent[name] = "; ".join(problem.found for problem in error.problems)
            continue
        names = frozenset(sizes)
        if control is None and names in rows:
            absent[name] = f"it trains what `{rows[names]}` trains"
            continue
        if control is None or (control == "random" and not given):
            rows[names] = name
        variants.append(Variant(name, about, _without_idle_groups(changed, names), sum(sizes.values())))
    return Plan(tuple(variants), absent)


def _about(rung: str) -> str:
    kind, _, number = rung.partition("-")
    if not number:
        return PRESETS[rung]
    return PRESETS[f"{kind}-N"].replace("N blocks", "block" if number == "1" else f"{number} blocks")


def _trained(recipe: Recipe) -> dict[str, int]:
    """Trained parameters and their sizes. Raises RecipeError where the model cannot be built."""
    with torch.device("meta"):
        model = assemble(recipe)
    return {name: p.numel() for name, p in model.named_parameters() if p.requires_grad}


def _without_idle_groups(recipe: Recipe, trained: frozenset[str]) -> Recipe:
    """A learning-rate group that is first to match nothing trained is an error where it was meant; here it is not."""
    optimizer = recipe.optimizer
    globs = [words(group.match) for group in optimizer.groups]
    first = {next((i for i, each in enumerate(globs) if matches(name, each)), None) for name in trained}
    groups = tuple(group for i, group in enumerate(optimizer.groups) if i in first)
    return recipe.model_copy(update={"optimizer": optimizer.model_copy(update={"groups": groups})})
