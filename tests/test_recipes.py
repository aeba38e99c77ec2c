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
SYSTEMS = ("meta_transformer", "clip", "lit", "align", "imagebind", "vilt", "albef", "vlmo")
STARTERS = [path for path in RECIPES if "starter" in path.relative_to(FOLDER).as_posix()]
PUBLISHED = [
    FOLDER / "imagenet_frozen.yaml",
    *(path for path in RECIPES if path.parent.name in SYSTEMS and path not in STARTERS),
]
"""Recipes on published data sets, which cannot come with the project: a check may find nothing where they should be."""
LATER = [path for path in STARTERS if 'weights: "run:' in path.read_text(encoding="utf-8")]
"""Recipes that begin with the weights of another one, see tests/test_stages.py."""
FILES = r"tasks\.\w+\.data\.(train|valid)\.\w+"
WEIGHTS = r"[\w.]+\.weights"
HUB = re.compile(r"(\w+): \{use: text, vocabulary: \"hf:bert-base-uncased\"")
"""A vocabulary that the test's machine may not have: bytes stand in for it."""
FEW = 48


def name(path: Path) -> str:
    return path.relative_to(FOLDER).with_suffix("").as_posix()


@pytest.mark.parametrize("path", RECIPES, ids=name)
def test_every_recipe_passes_its_check(path):
    problems = faults(
        path, *(f"tokenizers.{s}.vocabulary=bytes" for s in HUB.findall(path.read_text(encoding="utf-8")))
    )
    if path in PUBLISHED:
        problems = [p for p in problems if not (re.fullmatch(FILES, p.path) and "does not exist" in p.found)]
    if path in PUBLISHED or path in LATER:
        problems = [p for p in problems if not (re.fullmatch(WEIGHTS, p.path) and "no such file" in p.found)]
        problems = [p for p in problems if not (re.fullmatch(WEIGHTS, p.path) and "no run directory" in p.found)]
    assert problems == []


def faults(path: Path, *sets: str) -> list[Problem]:
    """What `metaformer recipe check` finds."""
    try:
        check_file(path, sets)
    except RecipeError as error:
        return error.problems
    return []


def few(entry: Entry) -> str:
    """The entry of some of its samples."""
    return json.dumps({"use": "few", "of": entry.model_dump(), "count": FEW})


@pytest.mark.parametrize("path", [p for p in RECIPES if p not in PUBLISHED and p not in LATER], ids=name)
def test_every_recipe_can_take_two_steps(path, tmp_path, monkeypatch):
    """In this process, and its validation data are few: two steps say nothing of the rest."""
    recipe = read_recipe(path).recipe
    sets = ["steps=2", "batch_size=8", "controls=[]", "schedule.warmup=1", f"output={tmp_path}", "loader.workers=0"]
    sets += ["engine={use: torch}", "eval_batch=64"]
    for task, spec in recipe.tasks.items():
        if spec.data.train is not None and isinstance(spec.data.train.knobs.get("samples"), int):
            sets.append(f"tasks.{task}.data.train.samples=64")
        if spec.data.valid is not None:
            sets.append(f"tasks.{task}.data.valid={few(spec.data.valid)}")
    with plugin(monkeypatch):
        train_command([path], sets)
    (result,) = tmp_path.rglob("result.json")
    metrics = json.loads(result.read_text())["this run"]["metrics"]
    assert {name.partition("/")[0] for name in metrics} == {t for t, s in recipe.tasks.items() if s.data.valid}
    assert all(value == value for value in metrics.values())


def test_every_recipe_says_where_it_comes_from():
    for path in RECIPES:
        lines = path.read_text(encoding="utf-8").splitlines()
        said = [line for line in lines if line.startswith("#") and "yaml-language-server" not in line]
        assert len(" ".join(said)) > 80, f"{path.name}: the header says source and result"
    names = [read_recipe(path).recipe.name for path in RECIPES]
    assert len(set(names)) == len(names)
