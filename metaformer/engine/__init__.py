"""Engines: backward, step, save, load. `deepspeed` is the default, `torch` the plain reference."""

from __future__ import annotations

from metaformer.engine.base import Batching, Engine, batching, recut
from metaformer.engine.place import Place, find_place, leave_place
from metaformer.model import Step
from metaformer.recipe import Recipe

__all__ = ["Batching", "Engine", "Place", "batching", "find_place", "leave_place", "recut", "start_engine"]


def start_engine(step: Step, recipe: Recipe, place: Place, cut: Batching | None = None) -> Engine:
    """The engine of the recipe around a step module; deepspeed is imported only where it is used. `cut`: how steps
    are cut where a run goes on that was begun otherwise."""
    cut = cut or batching(recipe, place.world)
    if recipe.engine.use == "deepspeed":
        from metaformer.engine.deepspeed import DeepSpeedEngine

        return DeepSpeedEngine(step, recipe, place, cut)
    from metaformer.engine.torch import TorchEngine

    return TorchEngine(step, recipe, place, cut)
