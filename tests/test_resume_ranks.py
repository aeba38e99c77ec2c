"""Two ranks: a run that was stopped and went on in new processes is, bit for bit, the run that was not (bar R1)."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from tests.faulty import curve, launch, only_run, status
from tests.ranks.matrix import CASES, HALF, PRECISION, TEACHERS
from tests.selected import selected, thorough

ALL = (*CASES, *TEACHERS, *PRECISION)
USUAL = {
    *("zero0_lora_x3", "zero1_frozen_x1", "zero2_tuned_x3", "zero3_frozen_x1"),
    *("teacher_zero0", "teacher_zero3", "fp16_zero1"),
}
"""Every stage, everything that is trained, both numbers of passes; teachers; a loss scale."""
assert set(ALL) >= USUAL
pytestmark = [pytest.mark.ranks, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def runs(tmp_path_factory, request):
    """(folder of all runs, case -> status of its run when the signal had stopped it)."""
    output = tmp_path_factory.mktemp("matrix")
    cases = selected(request, "case")
    if cases & TEACHERS.keys():
        cases.add("teacher_zero0")  # the others are compared with it
    launch([sys.executable, "-m", "tests.ranks.matrix", str(output), ",".join(cases)], 800)
    return output, json.loads((output / "stopped.json").read_text())


def path(output: Path, part: str, case: str) -> Path:
    return only_run(output / part, case)


def weights(run: Path) -> dict:
    return load_file(run / "checkpoints/step_00000020/model.safetensors")


@pytest.mark.parametrize("case", thorough(ALL, USUAL))
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


@pytest.mark.parametrize("case", thorough([case for case in CASES if "tuned" not in case], USUAL))
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


TEACHER, QUEUE = "teacher.twin.", "objectives.pairs.0."
"""Names of a teacher's weights and of a queue's buffers."""


@pytest.mark.parametrize("case", thorough(TEACHERS, USUAL))
def test_teacher_queue_and_pointer_survive(runs, case):
    output, _ = runs
    ours, theirs = (weights(path(output, part, case)) for part in ("parts", "straight"))
    state = [name for name in theirs if name.startswith((TEACHER, QUEUE)) and not name.endswith("temperature")]
    assert {"teacher.twin.heads.words.linear.weight", f"{QUEUE}queue_one", f"{QUEUE}pointer"} <= set(state)
    assert int(theirs[f"{QUEUE}alpha.updates"]) == 20
    assert all(ours[name].equal(theirs[name]) for name in state)


@pytest.mark.parametrize("case", thorough(TEACHERS, USUAL))
def test_teacher_queue_and_pointer_are_those_of_a_straightforward_loop(runs, case):
    output, _ = runs
    saved = weights(path(output, "straight", case))
    first, snapshots, embedded = torch.load(output / f"straight/{case}.pt")
    assert len(snapshots) == len(embedded) == 20
    assert sum(len(one) for one, _ in embedded) == 160
    # A queue of 20 places, eight rows at a time: the third write goes over its end.
    queues, pointer = [torch.zeros(20, 8), torch.zeros(20, 8)], 0
    for passed in embedded:
        for rows in zip(*passed, strict=True):
            for queue, row in zip(queues, rows, strict=True):
                queue[pointer] = row
            pointer = (pointer + 1) % 20
    assert int(saved[f"{QUEUE}pointer"]) == pointer
    assert saved[f"{QUEUE}queue_one"].equal(queues[0])
    assert saved[f"{QUEUE}queue_other"].equal(queues[1])
    for name, last in snapshots[-1].items():
        teacher = first[name]
        for snapshot in snapshots:
            teacher = teacher.mul(0.9).add(snapshot[name], alpha=1 - 0.9)
        assert saved[f"{TEACHER}{name}"].equal(teacher), name
        assert not last.equal(teacher) or last.count_nonzero() == 0


@pytest.mark.parametrize("case", thorough([*TEACHERS][1:], USUAL))
def test_teachers_are_the_same_at_every_stage(runs, case):
    output, _ = runs
    first, other = (weights(path(output, "straight", which)) for which in ("teacher_zero0", case))
    for name in (name for name in first if name.startswith(TEACHER)):
        # Keys' biases have no gradient but for rounding, which Adam makes steps of.
        if not name.endswith("qkv.bias"):
            assert other[name].allclose(first[name], atol=1e-4), name


@pytest.mark.parametrize("case", thorough(PRECISION, USUAL))
def test_the_loss_scale_of_fp16_survives(runs, case):
    output, _ = runs
    run = path(output, "parts", case)
    state = json.loads((run / "checkpoints/step_00000020/state.json").read_text())
    value, good = state["progress"]["scale"]
    assert value >= 1
    assert good > 0
    assert all(record["loss"] is not None for record in curve(run))
