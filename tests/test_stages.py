"""Recipes that begin where another one ended: what is locked stays what it was, to the bit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from metaformer.train import train_command
from tests.faulty import only_run

RECIPES = Path(__file__).parent.parent / "recipes"
FEW = ["steps=2", "batch_size=8", "schedule.warmup=0", "controls=[]", "engine={use: torch}", "eval_every=2"]


def weights(run: Path) -> dict:
    """Everything of a finished run's model, frozen or not."""
    frozen = run / "frozen.safetensors"
    trained = load_file(run / "checkpoints/step_00000002/model.safetensors")
    return trained | (load_file(frozen) if frozen.exists() else {})


def train(tmp_path, monkeypatch, *names):
    monkeypatch.chdir(tmp_path)
    train_command([RECIPES / name for name in names], FEW)


def test_vlmos_second_stage_changes_the_experts_of_text_only(tmp_path, monkeypatch):
    train(tmp_path, monkeypatch, "vlmo/starter_1_vision.yaml", "vlmo/starter_2_text.yaml", "vlmo/starter_3_pairs.yaml")
    first, second, third = (
        only_run(tmp_path / "runs", f"starter_vlmo_{name}") for name in ("1_vision", "2_text", "3_pairs")
    )
    before, after = weights(first), weights(second)
    shared = [name for name in after if name.startswith("encoders.shared.")]
    changed = {name for name in shared if not after[name].equal(before[name])}
    text = {name for name in shared if any(part in name for part in (".mlp.text.", ".norm2.text.", "within_text"))}
    assert changed <= text
    assert len(changed) > len(text) / 2  # below the last block of pairs all of them
    record = json.loads((second / "freeze.json").read_text())
    assert record["start"] == record["end"]
    assert set(record["tensors"]) == set(shared) - text
    # The third begins with the second's and trains all of it.
    assert json.loads((third / "lock.json").read_text())["weights"]
    assert set(json.loads((third / "freeze.json").read_text())["tensors"]) == set()


def test_lits_picture_tower_is_locked(tmp_path, monkeypatch):
    train(tmp_path, monkeypatch, "digits_frozen.yaml", "lit/starter.yaml")
    before, after = (weights(only_run(tmp_path / "runs", name)) for name in ("digits_frozen", "starter_lit"))
    locked = {name for name in after if name.startswith(("encoders.vision.", "tokenizers.image."))}
    assert len(locked) > 48
    for name in locked:
        assert after[name].equal(before[name.replace("encoders.vision", "encoders.shared")]), name


TASKS = [("vilt", "two_pictures"), ("albef", "entailment")]


@pytest.mark.parametrize(("system", "name"), TASKS)
def test_tasks_begin_with_pretraining(tmp_path, monkeypatch, system, name):
    train(tmp_path, monkeypatch, f"{system}/starter.yaml", f"{system}/starter_{name}.yaml")
    run = only_run(tmp_path / "runs", f"starter_{system}_{name}")
    assert len(json.loads((run / "lock.json").read_text())["weights"]) >= 4
