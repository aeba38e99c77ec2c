"""A run whose plugins are gone in part goes on with the modalities that are left."""

import json

import numpy as np
import pytest

from metaformer.errors import PluginError, RecipeError
from metaformer.evaluate import eval_command
from metaformer.predict import load
from metaformer.recipe_file import check_file
from metaformer.registry import registry
from metaformer.remaining import remaining
from metaformer.run import open_run
from metaformer.train import train_command

RECIPE = """
name: both
tokenizers:
  image: {use: image, image_size: 8, patch_size: 4, channels: 1, resize: exact}
  row: {use: tabular, numeric: [alcohol, hue, proline]}
encoders: {shared: {use: transformer, dim: 16, depth: 1, num_heads: 2}}
passes: {image: {}, row: {}, together: {reads: [image, row]}}
heads:
  digit: {use: classification, reads: image, num_classes: 10}
  wine: {use: classification, reads: row, num_classes: 3}
  all: {use: classification, reads: together, num_classes: 10}
tasks:
  digits:
    data: {train: {use: digits, split: train, target: digit}, valid: {use: digits, split: valid, target: digit}}
    objective: {use: cross_entropy, head: digit}
    metrics: [accuracy]
  wines:
    data: {train: {use: wine, split: train, target: wine}, valid: {use: wine, split: valid, target: wine}}
    objective: {use: cross_entropy, head: wine}
    metrics: [accuracy]
  joint:
    data: {train: {use: digits, split: train, target: all}}
    objective: {use: cross_entropy, head: all}
steps: 2
batch_size: 8
engine: {use: torch, threads: 1}
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("both")
    (folder / "both.yaml").write_text(RECIPE)
    train_command([folder / "both.yaml"], [f"output={folder / 'runs'}"])
    return folder / "runs" / "both"


@pytest.fixture
def without(monkeypatch):
    """Make plugins absent."""

    def block(*names):
        monkeypatch.setenv("METAFORMER_DISABLE_PLUGINS", ",".join(names))
        registry.cache_clear()

    yield block
    monkeypatch.undo()
    registry.cache_clear()


IMAGE = np.zeros((8, 8), dtype=np.uint8)


def test_with_all_plugins_nothing_is_left_out(run):
    whole = open_run(run)
    same, lost = remaining(whole)
    assert same is whole
    assert lost == ()


def test_the_other_modality_predicts_as_before_and_is_evaluated(run, without, capsys):
    before = load(run).predict(image=IMAGE)
    assert set(before) == {"digit", "all"}
    without("metaformer-plugin-tabular")
    capsys.readouterr()
    after = load(run).predict(image=IMAGE)
    assert after == before
    said = capsys.readouterr().err
    assert "left out: tokenizers.row, heads.wine, objectives.wines" in said
    eval_command(run, [])
    printed = capsys.readouterr().out
    assert "digits/accuracy" in printed
    assert "wines" not in printed


def test_training_still_says_what_is_missing(run, without):
    without("metaformer-plugin-tabular")
    (resolved,) = run.glob("*/resolved.yaml")
    with pytest.raises(RecipeError, match=r"tokenizers\.row\.use: .*metaformer-plugin-tabular"):
        check_file(resolved)


def test_nothing_left_is_an_error(run, without):
    without("metaformer-plugin-tabular", "metaformer-plugin-image")
    with pytest.raises(PluginError, match=r"no installed plugin offers its tokenizers \(image, tabular\)"):
        load(run)


def test_a_sample_that_lacks_a_modality_trains_and_predicts(run):
    (result,) = run.glob("*/result.json")
    assert json.loads(result.read_text())["this run"]["metrics"]  # `joint` has pictures only, its pass reads both
    assert set(load(run).predict(row={"alcohol": 13.0, "hue": None, "proline": 700.0})) == {"wine", "all"}
