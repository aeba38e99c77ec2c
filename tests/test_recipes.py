"""Every recipe of the project: sound, and able to take two steps."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from metaformer.errors import Problem, RecipeError
from metaformer.recipe import Entry
from metaformer.recipe_file import check_file, read_recipe
from metaformer.train import train_command
from tests.faulty import plugin

FOLDER = Path(__file__).parent.parent / "recipes"
RECIPES = sorted(FOLDER.rglob("*.yaml"))
PUBLISHED = [FOLDER / "imagenet_frozen.yaml", *sorted((FOLDER / "meta_transformer").glob("*.yaml"))]
"""Recipes on published data sets, which cannot come with the project: a check may find nothing where they should be."""
FILES = r"tasks\.\w+\.data\.(train|valid)\.\w+"
FEW = 48


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_passes_its_check(path):
    problems = faults(path)
    if path in PUBLISHED:
        problems = [p for p in problems if not (re.fullmatch(FILES, p.path) and "does not exist" in p.found)]
    assert problems == []


def faults(path: Path) -> list[Problem]:
    """What `metaformer recipe check` finds."""
    try:
        check_file(path)
    except RecipeError as error:
        return error.problems
    return []


def few(entry: Entry) -> str:
    """The entry of some of its samples."""
    return json.dumps({"use": "few", "of": entry.model_dump(), "count": FEW})


@pytest.mark.parametrize("path", [p for p in RECIPES if p not in PUBLISHED], ids=lambda path: path.stem)
def test_every_recipe_can_take_two_steps(path, tmp_path, monkeypatch):
    """In this process, and its validation data are few: two steps say nothing of the rest."""
    recipe = read_recipe(path).recipe
    sets = ["steps=2", "batch_size=8", "controls=[]", "schedule.warmup=1", f"output={tmp_path}", "loader.workers=0"]
    sets += ["engine={use: torch}", "eval_batch=64"]
    for task, spec in recipe.tasks.items():
        if isinstance(spec.data.train.knobs.get("samples"), int):
            sets.append(f"tasks.{task}.data.train.samples=64")
        if spec.data.valid is not None:
            sets.append(f"tasks.{task}.data.valid={few(spec.data.valid)}")
    with plugin(monkeypatch):
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
