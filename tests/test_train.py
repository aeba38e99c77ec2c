"""Whole runs on real digits at tiny size: records, freezing, repetition, resuming, stopping, failing well."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from metaformer.checkpoint import newest_valid, verify
from metaformer.engine import batching, find_place
from metaformer.errors import CheckpointError, DivergedError, FreezeError, MetaformerError, RecipeError, StoppedError
from metaformer.loop import run_steps
from metaformer.prepare import prepare
from metaformer.recipe_file import read_recipe
from metaformer.report.console import Console
from metaformer.run import Run, open_run
from metaformer.session import certify
from metaformer.stopping import StopSignal
from metaformer.train import train_command

ROOT = Path(__file__).parents[1]
DIGITS = ROOT / "recipes/digits_frozen.yaml"
TINY = [
    "steps=6", "batch_size=16", "eval_every=3", "controls=[]", "schedule.warmup=2",
    "encoders.shared={use: transformer, dim: 32, depth: 1, num_heads: 2}",
]  # fmt: skip
TORCH = "engine={use: torch, clip: 1.0}"


def train(output: Path, *sets: str, resume: str = "never", recipe: Path = DIGITS) -> Run:
    train_command([recipe], [*TINY, f"output={output}", TORCH, *sets], resume)
    return open_run(output / read_recipe(recipe, sets).recipe.name)


def lines(run: Run) -> list[dict]:
    return [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]


def curve(run: Run) -> list[str]:
    return [record["loss_hex"] for record in lines(run) if "loss_hex" in record]


@pytest.fixture
def session(tmp_path):
    """A prepared run that has not made a step."""
    file = read_recipe(DIGITS, (*TINY, f"output={tmp_path}", TORCH))
    place = find_place()
    with StopSignal() as stop:
        yield prepare(Run(tmp_path / "run", file, DIGITS.parent), place, Console(quiet=True), stop)


def test_the_run_directory_tells_everything(tmp_path):
    run = train(tmp_path)
    assert run.recipe.steps == 6
    assert json.loads((run.path / "status.json").read_text())["state"] == "finished"
    steps = [record for record in lines(run) if "loss_hex" in record]
    assert [record["step"] for record in steps] == [1, 2, 3, 4, 5, 6]
    assert all(float.fromhex(record["loss_hex"]) == record["loss"] for record in steps)
    assert steps[1]["lr"] == run.recipe.optimizer.lr
    assert [record["step"] for record in lines(run) if record.get("event") == "eval"] == [3, 6]
    lock = json.loads((run.path / "lock.json").read_text())
    assert lock["packages"]["torch"] == torch.__version__.split("+")[0]
    assert {"digits.train", "digits.valid"} == lock["data"].keys()
    assert "metaformer-plugin-image" in lock["plugins"]
    result = json.loads((run.path / "result.json").read_text())["this run"]
    assert 0 <= result["metrics"]["digits/accuracy"] <= 1
    assert list((run.path / "tensorboard").iterdir())
    folder, wrong = newest_valid(run)
    assert folder.name == "step_00000006"
    assert not wrong


def test_frozen_stays_frozen_and_the_record_says_so(tmp_path):
    run = train(tmp_path)
    record = json.loads((run.path / "freeze.json").read_text())
    assert record["start"] == record["end"]
    assert record["tensors"]
    assert all(name.startswith("encoders.shared.") for name in record["tensors"])
    assert "encoders.shared.blocks.0.attn.qkv.weight" in record["tensors"]


def test_a_frozen_tensor_that_moves_fails_the_run_by_name(session):
    run_steps(session)
    certify(session)
    with torch.no_grad():
        session.engine.model.encoders["shared"].blocks[0].norm1.bias[0] += 1e-6
    with pytest.raises(FreezeError, match=r"encoders\.shared\.blocks\.0\.norm1\.bias"):
        certify(session)


def test_the_same_recipe_twice_is_the_same_run(tmp_path):
    first, second = train(tmp_path / "a"), train(tmp_path / "b")
    assert curve(first) == curve(second)
    assert (
        json.loads((first.path / "result.json").read_text())["this run"]["metrics"]
        == json.loads((second.path / "result.json").read_text())["this run"]["metrics"]
    )


def test_evaluating_and_loading_by_workers_do_not_change_training(tmp_path):
    plain = train(tmp_path / "a", "eval_every=6")
    other = train(tmp_path / "b", "eval_every=1", "loader.workers=1", "save_every=2")
    assert curve(plain) == curve(other)


def test_another_seed_is_another_run(tmp_path):
    assert curve(train(tmp_path / "a")) != curve(train(tmp_path / "b", "seed=1"))


@pytest.mark.parametrize("trainable", ["frozen", "lora", "tuned"])
@pytest.mark.parametrize("engine", ["{use: torch, clip: 1.0, accumulate: 2}", "{use: deepspeed, clip: 1.0, zero: 1}"])
def test_a_resumed_run_is_the_uninterrupted_run(tmp_path, monkeypatch, trainable, engine):
    sets = (f"trainable={trainable}", f"engine={engine}", "encoders.shared.drop=0.1")
    straight = train(tmp_path / "straight", *sets)
    _stop_after(monkeypatch, 3)
    with pytest.raises(StoppedError, match="after step 3"):
        train(tmp_path / "parts", *sets)
    monkeypatch.undo()
    stopped = open_run(tmp_path / "parts/digits_frozen")
    assert json.loads((stopped.path / "status.json").read_text())["state"] == "stopped"
    resumed = train(tmp_path / "parts", *sets, resume="auto")
    assert resumed.path == stopped.path
    assert curve(resumed) == curve(straight)
    ours, theirs = (r.path / "checkpoints/step_00000006/model.safetensors" for r in (resumed, straight))
    assert ours.read_bytes() == theirs.read_bytes()


def _stop_after(monkeypatch, step: int) -> None:
    from metaformer import loop

    original = loop.train_step

    def stopping(session, window):
        record = original(session, window)
        if record["step"] == step:
            session.stop.request("SIGTERM")
        return record

    monkeypatch.setattr(loop, "train_step", stopping)


def test_resuming_under_a_changed_recipe_lists_what_changed(tmp_path, monkeypatch):
    _stop_after(monkeypatch, 2)
    with pytest.raises(StoppedError):
        train(tmp_path)
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match="optimizer"):
        train(tmp_path, "optimizer.lr=0.5", resume="auto")


def test_never_silently_from_scratch(tmp_path, monkeypatch):
    _stop_after(monkeypatch, 2)
    with pytest.raises(StoppedError):
        train(tmp_path)
    monkeypatch.undo()
    run = open_run(tmp_path / "digits_frozen")
    weights = run.checkpoints / "step_00000002/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="bytes"):
        verify(weights.parent)
    with pytest.raises(CheckpointError, match="step_00000002"):
        train(tmp_path, resume="auto")
    with pytest.raises(CheckpointError, match="no such folder"):
        train(tmp_path, resume=str(tmp_path / "nothing"))


def test_a_signal_saves_and_exits_75_and_the_run_goes_on(tmp_path):
    sets = [part for one in (*TINY, TORCH, f"output={tmp_path}", "steps=100000") for part in ("--set", one)]
    command = [sys.executable, "-m", "metaformer", "train", str(DIGITS), *sets]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    deadline = time.time() + 120
    while time.time() < deadline and not list(tmp_path.glob("digits_frozen/*/metrics.jsonl")):
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 75, out
    run = open_run(tmp_path / "digits_frozen")
    status = json.loads((run.path / "status.json").read_text())
    assert status["state"] == "stopped"
    assert "SIGINT" in status["reason"]
    resume = f"metaformer train --resume {run.path}"
    assert resume in out
    assert status["resume"] == resume
    before = len(curve(run))
    again = [sys.executable, "-m", *resume.split()]
    process = subprocess.Popen(again, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    deadline = time.time() + 120
    while time.time() < deadline and len(curve(run)) <= before:
        time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 75, out
    assert [r["step"] for r in lines(run) if "loss_hex" in r] == list(range(1, len(curve(run)) + 1))
    assert newest_valid(run)[0] is not None
    assert "Traceback" not in out


def test_controls_are_runs_of_their_own_beside_the_run(tmp_path):
    run = train(tmp_path, "controls=[none, random, shuffled]")
    result = json.loads((run.path / "result.json").read_text())
    assert list(result) == ["this run", "control none", "control random", "control shuffled"]
    curves = {name: curve(open_run(run.path / "controls" / name)) for name in ("none", "random", "shuffled")}
    curves["this run"] = curve(run)
    assert len({tuple(c) for c in curves.values()}) == 4
    assert all(r["trained"] == result["this run"]["trained"] for r in result.values())


def test_a_huge_rate_diverges_and_a_tiny_one_does_not(tmp_path):
    with pytest.raises(DivergedError, match="finite") as caught:
        train(tmp_path / "a", "optimizer.lr=1e20", "schedule.warmup=0", "trainable=tuned", "engine={use: torch}")
    assert caught.value.exit_code == 5
    assert open_run(tmp_path / "a/digits_frozen").read_json("status.json")["state"] == "failed"
    train(tmp_path / "b", "optimizer.lr=1e-10")


def test_bf16_tracks_fp32(tmp_path):
    exact, rough = train(tmp_path / "a"), train(tmp_path / "b", "engine={use: torch, precision: bf16, clip: 1.0}")
    losses = [[r["loss"] for r in lines(run) if "loss_hex" in r] for run in (exact, rough)]
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.03)


def test_bf16_reaches_the_accuracy_of_fp32(tmp_path):
    sets = (
        "steps=200",
        "batch_size=64",
        "eval_every=200",
        "encoders.shared={use: transformer, dim: 64, depth: 2, num_heads: 4}",
    )
    runs = [train(tmp_path / p, *sets, f"engine={{use: torch, precision: {p}, clip: 1.0}}") for p in ("fp32", "bf16")]
    exact, rough = (run.read_json("result.json")["this run"]["metrics"]["digits/accuracy"] for run in runs)
    assert exact > 0.85
    assert rough == pytest.approx(exact, abs=0.01)


def test_accumulation_equals_the_big_batch(tmp_path):
    one = train(tmp_path / "a", "engine={use: torch, micro_batch: 16}")
    four = train(tmp_path / "b", "engine={use: torch, micro_batch: 4}")
    losses = [[r["loss"] for r in lines(run) if "loss_hex" in r] for run in (one, four)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


def test_deepspeed_gives_the_reference_engines_curve(tmp_path):
    sets = ("steps=50", "trainable=tuned", "batch_size=8", "eval_every=50")
    reference = train(tmp_path / "a", *sets)
    ours = train(tmp_path / "b", *sets, "engine={use: deepspeed, clip: 1.0}")
    sharded = train(tmp_path / "c", *sets, "engine={use: deepspeed, clip: 1.0, zero: 2}")
    expected = [r["loss"] for r in lines(reference) if "loss_hex" in r]
    assert len(expected) == 50
    for run in (ours, sharded):
        assert [r["loss"] for r in lines(run) if "loss_hex" in r] == pytest.approx(expected, rel=1e-6)
    norms = [[r["grad_norm"] for r in lines(run) if "loss_hex" in r] for run in (reference, ours, sharded)]
    assert norms[1] == pytest.approx(norms[0], rel=1e-4)
    assert norms[2] == pytest.approx(norms[0], rel=1e-4)


@pytest.mark.parametrize("offload", ["{optimizer: cpu}", "{optimizer: cpu, parameters: cpu}"])
def test_offloading_changes_no_loss_and_resumes(tmp_path, monkeypatch, offload):
    zero = 3 if "parameters" in offload else 2
    plain = train(tmp_path / "plain", f"engine={{use: deepspeed, zero: {zero}, clip: 1.0}}")
    engine = f"engine={{use: deepspeed, zero: {zero}, clip: 1.0, offload: {offload}}}"
    ours = train(tmp_path / "ours", engine)
    losses = [[r["loss"] for r in lines(run) if "loss_hex" in r] for run in (plain, ours)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    _stop_after(monkeypatch, 3)
    with pytest.raises(StoppedError):
        train(tmp_path / "parts", engine)
    monkeypatch.undo()
    assert curve(train(tmp_path / "parts", engine, resume="auto")) == curve(ours)


def test_further_deepspeed_settings_are_passed_on(tmp_path):
    from metaformer.engine.deepspeed import deepspeed_config

    config = "{zero_optimization: {reduce_bucket_size: 1000}, communication_data_type: fp32}"
    engine = f"engine={{use: deepspeed, zero: 2, config: {config}}}"
    recipe = read_recipe(DIGITS, (*TINY, engine)).recipe
    made = deepspeed_config(recipe, batching(recipe, 1))
    assert made["communication_data_type"] == "fp32"
    assert made["zero_optimization"] == {"stage": 2, "reduce_bucket_size": 1000}
    train(tmp_path, engine)


def test_what_deepspeed_refuses_is_an_error_of_the_recipe(tmp_path):
    engine = "engine={use: deepspeed, zero: 2, config: {prescale_gradients: true}}"
    with pytest.raises(RecipeError, match="pre-scale gradients is not yet supported") as caught:
        train(tmp_path, engine)
    assert caught.value.exit_code == 2


def test_stages_chain_by_run_weights(tmp_path):
    first = train(tmp_path, "trainable=tuned", "name=stage1")
    uri = f"run:{tmp_path / 'stage1'}#encoders.shared"
    second = train(tmp_path, f"encoders.shared.weights={uri}", "name=stage2")
    from safetensors.torch import load_file

    name = "encoders.shared.blocks.0.mlp.fc1.weight"
    trained = load_file(first.checkpoints / first.read_json("best.json")["checkpoint"] / "model.safetensors")
    kept = load_file(second.path / "frozen.safetensors")
    assert torch.equal(trained[name], kept[name])
    receipt = json.loads((second.path / "lock.json").read_text())["weights"][0]
    assert receipt["uri"] == uri


def test_an_unwritable_output_is_said_before_training(tmp_path):
    blocker = tmp_path / "file"
    blocker.write_text("")
    with pytest.raises(MetaformerError, match="run directory"):
        train(blocker / "below")


def test_a_batch_that_cannot_be_cut_is_a_recipe_error(tmp_path):
    with pytest.raises(RecipeError, match="batch_size"):
        train(tmp_path, "batch_size=10", "engine={use: torch, micro_batch: 4}")


def test_only_the_last_checkpoints_and_the_best_are_kept(tmp_path):
    run = train(tmp_path, "save_every=1", "keep_last=1", "eval_every=6")
    kept = sorted(p.name for p in run.checkpoints.glob("step_*"))
    assert kept == ["step_00000006"]
    assert not list(run.checkpoints.glob(".tmp-*"))


def test_signals_are_given_back_after_training(tmp_path):
    before = signal.getsignal(signal.SIGINT)
    train(tmp_path)
    assert signal.getsignal(signal.SIGINT) is before
