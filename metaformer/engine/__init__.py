"""Engines: backward, step, save, load. `deepspeed` is the default, `torch` the plain reference."""

from __future__ import annotations

from metaformer.engine.base import Engine, Place
from metaformer.engine.place import find_place, leave_place
from metaformer.model import Step
from metaformer.recipe import Recipe

__all__ = ["Engine", "Place", "find_place", "leave_place", "start_engine"]


def start_engine(step: Step, recipe: Recipe, place: Place) -> Engine:
    """The engine of the recipe around a step module; deepspeed is imported only where it is used."""
    if recipe.engine.use == "deepspeed":
        from metaformer.engine.deepspeed import DeepSpeedEngine

        return DeepSpeedEngine(step, recipe, place)
    from metaformer.engine.torch import TorchEngine

    return TorchEngine(step, recipe, place)
