"""Going on with a run: never silently from scratch, never under another recipe or other data, provably the same run."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from metaformer.checkpoint import newest_valid
from metaformer.engine import find_place
from metaformer.errors import CheckpointError, PluginError, StoppedError
from metaformer.loop import train_step
from metaformer.predict import load
from metaformer.prepare import prepare
from metaformer.recipe_file import read_recipe
from metaformer.registry import registry
from metaformer.replay import verify_command
from metaformer.report.console import Console
from metaformer.run import Run, open_run
from metaformer.session import Options
from metaformer.stopping import StopSignal
from metaformer.train import drift, train_command
from metaformer.window import Window, take_window
from tests.faulty import SMALL, curve, plugin, status, steps

FROZEN = "trainable=frozen"


@pytest.fixture(autouse=True)
def faults(monkeypatch):
    with plugin(monkeypatch):
        yield


def train(output: Path, *sets: str, resume: str = "never", **options: bool) -> Run:
    train_command([SMALL], [*sets, f"output={output}"], resume, Options(**options))
    return open_run(output / "small")


@pytest.fixture
def stop_at(monkeypatch):
    """Stop runs, as a signal would, after a step; to be undone with `stop_at(None)`."""
    from metaformer import loop

    original = loop.train_step

    def choose(step: int | None) -> None:
        def stopping(session, window):
            record = original(session, window)
            if record["step"] == step:
                session.stop.request("SIGTERM")
            return record

        monkeypatch.setattr(loop, "train_step", stopping if step else original)

    return choose


def stopped(stop_at, output: Path, *sets: str, step: int = 5) -> Run:
    stop_at(step)
    with pytest.raises(StoppedError):
        train(output, *sets)
    stop_at(None)
    return open_run(output / "small")


def test_a_signal_inside_an_accumulation_window_is_answered_at_its_end(tmp_path, monkeypatch):
    from metaformer import loop

    sets = ("engine={use: torch, micro_batch: 2, accumulate: 4, threads: 1}", "steps=16")
    straight = train(tmp_path / "straight", *sets)
    original, calls = loop.reseed, []

    def signalling(session, index):
        calls.append(index)
        if len(calls) == 4 * 6 + 2:  # inside the seventh step
            os.kill(os.getpid(), signal.SIGTERM)
        original(session, index)

    monkeypatch.setattr(loop, "reseed", signalling)
    with pytest.raises(StoppedError, match="after step 7"):
        train(tmp_path / "parts", *sets)
    monkeypatch.setattr(loop, "reseed", original)
    resumed = train(tmp_path / "parts", *sets, resume="auto")
    # Every sample of every epoch once, in the same order, with the same targets.
    assert curve(resumed.path) == curve(straight.path)


def test_an_evaluation_that_was_interrupted_is_made_up_for(tmp_path, monkeypatch):
    from metaformer import loop

    sets = ("eval_every=3", "steps=6")
    whole = train(tmp_path / "whole", *sets)
    original = loop.evaluate

    def interrupted(runner, recipe, data, batch, bad, seen):
        os.kill(os.getpid(), signal.SIGTERM)
        while not seen():
            time.sleep(0.01)
        return original(runner, recipe, data, batch, bad, seen)

    monkeypatch.setattr(loop, "evaluate", interrupted)
    with pytest.raises(StoppedError, match="after step 3"):
        train(tmp_path / "parts", *sets)
    monkeypatch.setattr(loop, "evaluate", original)
    parts = train(tmp_path / "parts", *sets, resume="auto")
    evaluations = [[r for r in run.records() if r.get("event") == "eval"] for run in (whole, parts)]
    assert [record["step"] for record in evaluations[0]] == [3, 6]
    assert evaluations[0] == evaluations[1]
    assert curve(parts.path) == curve(whole.path)


def test_the_samples_of_an_epoch_are_the_data_set(tmp_path, monkeypatch, stop_at):
    from metaformer import loop

    seen: list[str] = []
    original = loop.take_window

    def watched(session) -> Window | None:
        window = original(session)
        seen.extend(name for batch in (window.batches if window else ()) for name in batch.ids)
        return window

    monkeypatch.setattr(loop, "take_window", watched)
    stopped(stop_at, tmp_path, "steps=16", step=5)
    train(tmp_path, "steps=16", resume="auto")
    assert sorted(map(int, seen[:64])) == list(range(64))
    assert sorted(map(int, seen[64:128])) == list(range(64))
    assert len(seen) == 128


def test_unequal_counts_in_the_passes_of_a_step_weigh_as_in_the_big_batch(tmp_path):
    """Bar R14: samples without target make the micro-batches count differently."""
    manifest = tmp_path / "rows.jsonl"
    rows = [
        {"vector": [float(i % 5), 1.0, -float(i % 3)], "sign": None if i % 8 in (0, 1, 2, 5) and i % 3 else "plus"}
        for i in range(64)
    ]
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = f"tasks.signs.data={{train: {{use: manifest, path: {manifest}, classes: {{sign: [minus, plus]}}}}}}"
    sets = (data, "encoders.shared.drop=0", "tasks.signs.metrics=[]", "batch_size=null", "optimizer.use=sgd", "steps=6")
    one = train(tmp_path / "one", *sets, "engine={use: torch, micro_batch: 32, threads: 1}")
    four = train(tmp_path / "four", *sets, "engine={use: torch, micro_batch: 8, accumulate: 4, threads: 1}")
    assert [r["data"] for r in curve(four.path)] == [r["data"] for r in curve(one.path)]
    for key in ("loss", "grad_norm"):
        assert [r[key] for r in curve(four.path)] == pytest.approx([r[key] for r in curve(one.path)], rel=2e-6)
    weights = [load_file(newest_valid(run)[0] / "model.safetensors") for run in (one, four)]
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=1e-5, atol=1e-6)


def test_a_changed_recipe_is_listed_and_refused(tmp_path, stop_at):
    run = stopped(stop_at, tmp_path)
    with pytest.raises(CheckpointError, match=r"optimizer\.lr: 0\.01 -> 0\.5") as caught:
        train(tmp_path, "optimizer.lr=0.5", "encoders.shared.drop=0.2", "log_every=1", resume="auto")
    assert caught.value.exit_code == 7
    assert "encoders.shared.drop: 0.1 -> 0.2" in str(caught.value)
    assert "log_every" not in str(caught.value)
    assert "--allow-drift" in str(caught.value)
    assert len(steps(run.path)) == 5


def test_harmless_changes_are_listed_and_taken_over(tmp_path, stop_at, capsys):
    straight = train(tmp_path / "straight")
    stopped(stop_at, tmp_path / "parts")
    run = train(tmp_path / "parts", "log_every=1", "save_every=4", "loader.workers=1", resume="auto")
    out = capsys.readouterr().out
    assert "the recipe has changed since" in out
    assert "loader.workers: 0 -> 1" in out
    assert curve(run.path) == curve(straight.path)
    assert run.recipe.log_every == 1
    assert json.loads((run.path / "run.json").read_text())["changes"][0]["step"] == 5


def test_with_consent_a_run_goes_on_under_another_recipe(tmp_path, stop_at):
    stopped(stop_at, tmp_path)
    run = train(tmp_path, "optimizer.lr=1e-3", resume="auto", drift=True)
    assert run.recipe.optimizer.lr == 1e-3
    records = steps(run.path)
    assert [record["step"] for record in records] == list(range(1, 13))
    assert records[5]["lr"] < records[4]["lr"] / 5


def test_drift_names_what_was_added_and_removed():
    assert drift({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "d": 3}}) == {"a.c": "2 -> None", "a.d": "None -> 3"}
    assert drift({"a": [1]}, {"a": [1]}) == {}


def test_other_data_are_refused(tmp_path, stop_at):
    run = stopped(stop_at, tmp_path)
    lock = json.loads((run.path / "lock.json").read_text())
    lock["data"]["signs.train"] = "vectors:63"
    (run.path / "lock.json").write_text(json.dumps(lock))
    with pytest.raises(CheckpointError, match=r"signs\.train was vectors:63, is vectors:64") as caught:
        train(tmp_path, resume="auto")
    assert "--allow-drift" in str(caught.value)
    assert status(train(tmp_path, resume="auto", drift=True).path)["state"] == "finished"


def test_never_silently_from_scratch(tmp_path, stop_at, capsys):
    run = stopped(stop_at, tmp_path, "save_every=2")
    for folder in run.checkpoints.glob("step_*"):
        (folder / "manifest.json").unlink()
    with pytest.raises(CheckpointError) as caught:
        train(tmp_path, "save_every=2", resume="auto")
    assert caught.value.exit_code == 7
    # Each is named, and why.
    assert str(caught.value).count("no usable manifest.json") == 2
    assert "--resume never" in str(caught.value)
    # A new run says that there is one to go on with.
    train(tmp_path, "save_every=2")
    assert f"{run.path} is unfinished: --resume auto goes on with it" in capsys.readouterr().out


def test_an_unusable_checkpoint_is_passed_over_loudly(tmp_path, stop_at, capsys):
    straight = train(tmp_path / "straight", "save_every=2")
    run = stopped(stop_at, tmp_path / "parts", "save_every=2")
    (run.checkpoints / "step_00000005/state.json").unlink()
    capsys.readouterr()
    resumed = train(tmp_path / "parts", "save_every=2", resume="auto")
    out = capsys.readouterr().out
    assert "unusable checkpoints are passed over: step_00000005: state.json is absent" in out
    assert "going on from step_00000004" in out
    assert curve(resumed.path) == curve(straight.path)


def test_a_newer_format_is_refused_in_so_many_words(tmp_path, stop_at):
    run = stopped(stop_at, tmp_path)
    manifest = run.checkpoints / "step_00000005/manifest.json"
    content = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**content, "format": 99}))
    with pytest.raises(CheckpointError, match="99") as caught:
        train(tmp_path, resume="auto")
    assert caught.value.exit_code == 7


# What is frozen is found again.


def test_frozen_weights_that_are_gone_are_found_again_by_their_digests(tmp_path, stop_at, capsys):
    straight = train(tmp_path / "straight", FROZEN)
    run = stopped(stop_at, tmp_path / "parts", FROZEN)
    (run.path / "frozen.safetensors").unlink()
    resumed = train(tmp_path / "parts", FROZEN, resume="auto")
    assert "were found again from the recipe, with equal digests" in capsys.readouterr().out
    assert curve(resumed.path) == curve(straight.path)
    assert (resumed.path / "frozen.safetensors").read_bytes() == (straight.path / "frozen.safetensors").read_bytes()


def test_frozen_weights_that_cannot_be_found_again_are_named(tmp_path, stop_at):
    first = train(tmp_path / "first", "trainable=tuned")
    weights = tmp_path / "encoder.safetensors"
    trained = load_file(newest_valid(first)[0] / "model.safetensors")
    prefix = "encoders.shared."
    save_file({n.removeprefix(prefix): t for n, t in trained.items() if n.startswith(prefix)}, weights)
    sets = (FROZEN, f"encoders.shared.weights=file:{weights}")
    run = stopped(stop_at, tmp_path / "second", *sets)
    (run.path / "frozen.safetensors").unlink()
    changed = load_file(weights)
    changed["blocks.0.norm1.bias"] += 1
    save_file(changed, weights)
    with pytest.raises(CheckpointError, match=r"1 of \d+ tensors: encoders\.shared\.blocks\.0\.norm1\.bias"):
        train(tmp_path / "second", *sets, resume="auto")


# Proof.


def test_verify_repeats_what_is_on_record(tmp_path, capsys):
    run = train(tmp_path, "save_every=4", "keep_last=3")
    before = {p: p.stat().st_mtime_ns for p in run.path.rglob("*") if p.is_file()}
    capsys.readouterr()
    verify_command(run.path, 20, Options())
    out = capsys.readouterr().out
    assert "steps 9 to 12 repeated from step_00000008: bitwise equal; weights equal to those of step_00000012" in out
    assert {p: p.stat().st_mtime_ns for p in run.path.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize("key", ["loss_hex", "data", "grad_norm"])
def test_verify_finds_a_number_that_was_another(tmp_path, key):
    run = train(tmp_path, "save_every=4")
    lines = (run.path / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    for record in records:
        if record["step"] == 11 and key in record:
            record[key] = "0x1.0p+0" if key == "loss_hex" else "ff" if key == "data" else 1.5
    (run.path / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    with pytest.raises(CheckpointError, match="repeat step 11") as caught:
        verify_command(run.path, 20, Options())
    assert key in str(caught.value)


def test_verify_needs_something_to_repeat(tmp_path):
    run = train(tmp_path)
    with pytest.raises(CheckpointError, match="no checkpoint lies before step 12"):
        verify_command(run.path, 20, Options())


# State of plugins.


def test_plugins_find_their_state_again(tmp_path, stop_at, monkeypatch):
    monkeypatch.setenv("FAULTS_STATE", "remember me")
    run = stopped(stop_at, tmp_path)
    kept = json.loads((run.checkpoints / "step_00000005/state.json").read_text())["plugins"]
    name = next(name for name in kept if "faults" in name)
    assert kept[name] == {"version": "1.0", "state": {"seen": "remember me"}}
    train(tmp_path, resume="auto")
    assert (run.path / "faults_state").read_text() == "remember me"


def test_another_version_of_a_plugin_warns_and_an_absent_one_is_refused(tmp_path):
    said: list[str] = []
    name = next(
        name for name in registry().save_states(Run(tmp_path, read_recipe(SMALL), tmp_path)) if "faults" in name
    )
    run = Run(tmp_path, read_recipe(SMALL), tmp_path)
    registry().load_states(run, {name: {"version": "0.9", "state": {"seen": ""}}}, said.append)
    assert "version 0.9, this is 1.0" in said[0]
    with pytest.raises(PluginError, match="'metaformer-plugin-gone'"):
        registry().load_states(run, {"metaformer-plugin-gone": {"version": "1.0", "state": {}}}, said.append)


# What was saved by a version that has been released.


FIXTURES = Path(__file__).parent / "fixtures/trained"


@pytest.mark.parametrize("version", sorted(path.name for path in FIXTURES.iterdir()))
def test_runs_of_every_version_still_load(tmp_path, version):
    """Bar R11: their steps can be repeated from their checkpoints, and they predict what they did. Made by
    `scripts/fixture.py`, on another machine perhaps: equal within rounding."""
    shutil.copytree(FIXTURES / version, tmp_path / version)
    opened = open_run(tmp_path / version / "run")
    run = Run(opened.path, opened.file, opened.base, writes=False)
    recorded = steps(run.path)
    with StopSignal() as stop:
        session = prepare(run, find_place(), Console(quiet=True), stop, before=len(recorded))
        session.engine.model.train()
        session.open_stream()
        first = session.progress.done
        made = [train_step(session, take_window(session)) for _ in recorded[first:]]
        session.batches.close()
    assert len(made) >= 6
    assert [record["data"] for record in made] == [record["data"] for record in recorded[first:]]
    assert [r["loss"] for r in made] == pytest.approx([r["loss"] for r in recorded[first:]], rel=1e-4)
    expected = json.loads((run.path / "expected.json").read_text())
    found = load(run.path, "latest").predict(vector=expected["vector"])["sign"]["probabilities"]
    assert found == pytest.approx(expected["probabilities"], rel=1e-5)
