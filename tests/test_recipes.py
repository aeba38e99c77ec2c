"""Every recipe of the project: sound, and able to take two steps."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from metaformer.errors import Problem, RecipeError
from metaformer.recipe_file import check_file, read_recipe
from metaformer.train import train_command

RECIPES = sorted((Path(__file__).parent.parent / "recipes").rglob("*.yaml"))
ABSENT_DATA = {"imagenet_frozen": r"tasks\.imagenet\.data\.(train|valid)\.root"}
"""Recipe -> the paths at which a check may find nothing: data that cannot come with the project."""


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_passes_its_check(path):
    absent = ABSENT_DATA.get(path.stem, "(?!)")
    problems = [p for p in faults(path) if not (re.fullmatch(absent, p.path) and "does not exist" in p.found)]
    assert problems == []


def faults(path: Path) -> list[Problem]:
    """What `metaformer recipe check` finds."""
    try:
        check_file(path)
    except RecipeError as error:
        return error.problems
    return []


@pytest.mark.parametrize("path", [p for p in RECIPES if p.stem not in ABSENT_DATA], ids=lambda path: path.stem)
def test_every_recipe_can_take_two_steps(path, tmp_path):
    recipe = read_recipe(path).recipe
    sets = ["steps=2", "batch_size=8", "controls=[]", "schedule.warmup=1", f"output={tmp_path}", "loader.workers=0"]
    sets += ["engine={use: torch}", "eval_batch=64"]
    for task, spec in recipe.tasks.items():
        for which, entry in (("train", spec.data.train), ("valid", spec.data.valid)):
            if entry is not None and "samples" in entry.knobs:
                sets.append(f"tasks.{task}.data.{which}.samples=64")
    train_command([path], sets)
    (result,) = tmp_path.rglob("result.json")
    metrics = json.loads(result.read_text())["this run"]["metrics"]
    assert {name.partition("/")[0] for name in metrics} == set(recipe.tasks)
    assert all(value == value for value in metrics.values())


def test_every_recipe_says_where_it_comes_from():
    for path in RECIPES:
        lines = path.read_text(encoding="utf-8").splitlines()
        said = [line for line in lines if line.startswith("#") and "yaml-language-server" not in line]
        assert len(" ".join(said)) > 80, f"{path.name}: the header says source and result"
    names = [read_recipe(path).recipe.name for path in RECIPES]
    assert len(set(names)) == len(names)
