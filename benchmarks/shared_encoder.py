"""One encoder for all tasks of a recipe, against one encoder each: the same data, steps per task and settings.

    python benchmarks/shared_encoder.py recipes/many_modalities.yaml [--set K=V ...]

The shared run gives a task `weight / total` of its steps; the separate run of that task makes as many.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from metaformer.engine import Place, find_place
from metaformer.recipe import Recipe
from metaformer.recipe_file import RecipeFile, read_recipe
from metaformer.report.console import Console
from metaformer.run import Run, new_run_name
from metaformer.train import Result, train


def alone(recipe: Recipe, task: str, streams: set[str]) -> Recipe:
    """The recipe with one task, the parts it needs, and its share of the steps."""
    spec = recipe.tasks[task]
    heads = {entry.knobs["head"] for entry in spec.objectives}
    share = spec.weight / sum(other.weight for other in recipe.tasks.values())
    return recipe.model_copy(
        update={
            "name": f"{recipe.name}_{task}",
            "tokenizers": {name: entry for name, entry in recipe.tokenizers.items() if name in streams},
            "heads": {name: entry for name, entry in recipe.heads.items() if name in heads},
            "tasks": {task: spec.model_copy(update={"weight": 1.0})},
            "steps": max(round(recipe.steps * share), 1),
            "schedule": recipe.schedule.model_copy(update={"warmup": round(recipe.schedule.warmup * share)}),
            "eval_every": None,
            "best": None,
        }
    )


def run(file: RecipeFile, recipe: Recipe, place: Place, console: Console) -> Result:
    """Train a recipe in a directory of its own."""
    path = Path(recipe.output) / recipe.name / new_run_name()
    return train(Run(path, replace(file, recipe=recipe), file.path.parent, place.leads), place, console)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--set", action="append", default=[], dest="sets")
    arguments = parser.parse_args()
    file = read_recipe(arguments.recipe, arguments.sets)
    place = find_place(file.recipe.engine.threads)
    console = Console(quiet=not place.leads)
    shared = run(file, file.recipe, place, console)
    rows = []
    for task, spec in file.recipe.tasks.items():
        streams = {file.recipe.heads[entry.knobs["head"]].reads for entry in spec.objectives}
        separate = run(file, alone(file.recipe, task, streams), place, console)
        for name, value in separate.metrics.items():
            rows.append([name, f"{shared.metrics[name]:.4f}", f"{value:.4f}", f"{separate.trained:,}"])
    rows.append(["trained parameters", f"{shared.trained:,}", "", ""])
    console.table(
        f"{file.recipe.name}: one encoder for all, or one each",
        ["held out", "shared", "separate", "trained, separate"],
        rows,
    )


if __name__ == "__main__":
    main()
