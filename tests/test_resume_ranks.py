"""Two ranks: a run that was stopped and went on in new processes is, bit for bit, the run that was not (bar R1)."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors import safe_open
from safetensors.torch import load_file

from tests.faulty import ROOT, curve, environment, free_port, only_run, status
from tests.ranks.matrix import CASES, HALF, PRECISION, TEACHERS

pytestmark = [pytest.mark.ranks, pytest.mark.timeout(900)]


def launch(output: Path, phase: str) -> None:
    """All cases in two ranks."""
    port = str(free_port())
    command = [sys.executable, "-m", "tests.ranks.matrix", str(output), phase]
    ranks = [
        subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env=environment(RANK=r, LOCAL_RANK=r, WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=port),
        )
        for r in ("0", "1")
    ]  # fmt: skip
    outs = []
    try:
        outs = [rank.communicate(timeout=600)[0] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == [0, 0], "\n----\n".join(out[-3000:] for out in outs)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    output = tmp_path_factory.mktemp("matrix")
    launch(output, "straight")
    stopped = {case: json.loads((path(output, "parts", case) / "status.json").read_text()) for case in ALL}
    launch(output, "resume")
    return output, stopped


ALL = (*CASES, *TEACHERS, *PRECISION)


def path(output: Path, part: str, case: str) -> Path:
    return only_run(output / part, case)


def weights(run: Path) -> dict:
    return load_file(run / "checkpoints/step_00000020/model.safetensors")


@pytest.mark.parametrize("case", ALL)
def test_the_resumed_run_is_the_uninterrupted_run(runs, case):
    output, stopped = runs
    straight, parts = path(output, "straight", case), path(output, "parts", case)
    assert stopped[case]["state"] == "stopped"
    assert stopped[case]["step"] == HALF
    assert status(parts)["state"] == "finished"
    # Loss, learning rate, gradient norm and the samples of every step; floats are written so that they read back equal.
    assert curve(parts) == curve(straight)
    assert [record["step"] for record in curve(parts)] == list(range(1, 21))
    ours, theirs = weights(parts), weights(straight)
    assert ours.keys() == theirs.keys()
    assert [name for name in theirs if not ours[name].equal(theirs[name])] == []


@pytest.mark.parametrize("case", [case for case in CASES if "tuned" not in case])
def test_frozen_stays_frozen_and_stays_out_of_the_checkpoint(runs, case):
    output, _ = runs
    run = path(output, "parts", case)
    record = json.loads((run / "freeze.json").read_text())
    assert record["start"] == record["end"]
    # Looked at again whenever something was saved, before the signal and after it.
    assert set(record["checkpoints"].values()) == {record["start"]}
    assert {f"step_{HALF:08d}", "step_00000020"} <= record["checkpoints"].keys()
    frozen = {name for name in record["tensors"] if name.startswith("encoders")}
    assert "encoders.shared.blocks.0.mlp.fc1.weight" in frozen
    with safe_open(run / "checkpoints/step_00000020/model.safetensors", framework="pt") as file:
        assert not frozen & set(file.keys())
    trained = sum(t.numel() * 4 for t in weights(run).values())
    engine = sum(p.stat().st_size for p in (run / "checkpoints/step_00000020/engine").rglob("*.pt"))
    every = trained + sum(t.numel() * 4 for t in load_file(run / "frozen.safetensors").values())
    assert engine < 4 * trained + 400_000 < 4 * every + 400_000


@pytest.mark.parametrize("case", TEACHERS)
def test_teacher_queue_and_pointer_survive(runs, case):
    output, _ = runs
    ours, theirs = (weights(path(output, part, case)) for part in ("parts", "straight"))
    state = [name for name in theirs if name.split(".")[-1] in ("teacher", "queue", "pointer")]
    assert len(state) == 3
    assert int(theirs[next(name for name in state if name.endswith("pointer"))]) == 20 % 8
    assert float(theirs[next(name for name in state if name.endswith("queue"))].abs().sum()) > 0
    assert all(ours[name].equal(theirs[name]) for name in state)


def test_teachers_are_the_same_at_every_stage(runs):
    output, _ = runs
    name = "objectives.signs.1.teacher"
    first, *others = (weights(path(output, "straight", case))[name] for case in TEACHERS)
    for other in others:
        assert other.allclose(first, atol=1e-5)


@pytest.mark.parametrize("case", PRECISION)
def test_the_loss_scale_of_fp16_survives(runs, case):
    output, _ = runs
    run = path(output, "parts", case)
    state = json.loads((run / "checkpoints/step_00000020/state.json").read_text())
    value, good = state["progress"]["scale"]
    assert value >= 1
    assert good > 0
    assert all(record["loss"] is not None for record in curve(run))
