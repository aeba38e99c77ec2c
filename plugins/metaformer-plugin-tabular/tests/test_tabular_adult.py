"""UCI Adult in its published layout, and the paper's recipes on a few rows of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from metaformer_plugin_tabular.adult import COLUMNS, NUMERIC, Adult
from metaformer_plugin_tabular.conformance import adult

from metaformer.errors import DataError
from metaformer.recipe_file import read_recipe
from metaformer.train import train_command

RECIPES = Path(__file__).parents[3] / "recipes" / "meta_transformer"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    adult(tmp_path)
    return tmp_path


def test_rows_are_read_as_published(root: Path) -> None:
    train, valid = Adult(root=root, split="train"), Adult(root=root, split="valid")
    assert (len(train), len(valid)) == (8, 2)
    assert valid[0] == train[0]
    sample = valid[1]
    assert sample["label"] == ">50K"
    assert sample["row"]["occupation"] is None
    assert tuple(sample["row"]) == COLUMNS
    assert valid.sample_id(0) == "adult.test:2"


def test_what_is_damaged_is_refused(root: Path) -> None:
    with pytest.raises(DataError, match=r"unpack the UCI archive"):
        Adult(root=root / "nowhere", split="train")
    (root / "adult.data").write_text("1, 2\n")
    with pytest.raises(DataError, match="2 cells in line 1"):
        Adult(root=root, split="train")[0]


@pytest.mark.parametrize("which", ["frozen", "tuned"])
def test_the_papers_recipe_trains(which: str, root: Path) -> None:
    path = RECIPES / f"tabular_{which}.yaml"
    row = read_recipe(path).recipe.tokenizers["row"].knobs
    assert {*row["numeric"], *row["categorical"]} == set(COLUMNS)
    assert tuple(row["numeric"]) == NUMERIC
    sets = [
        *(f"tasks.adult.data.{part}.root={root}" for part in ("train", "valid")),
        *("encoders.shared.weights=null", "encoders.shared.dim=16", "encoders.shared.depth=1"),
        *("encoders.shared.num_heads=2", "steps=2", "batch_size=4", "engine={use: torch}", "schedule.warmup=1"),
        *("loader.workers=0", f"output={root / 'runs'}"),
    ]
    train_command([path], sets)
    (result,) = root.rglob("result.json")
    assert set(json.loads(result.read_text())["this run"]["metrics"]) == {"adult/loss", "adult/accuracy", "adult/auroc"}
