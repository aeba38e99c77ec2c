"""Looks at what tasks do to the encoders: the numbers are right, on one rank and two, and the run does not notice."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from metaformer.engine import find_place
from metaformer.errors import RecipeError
from metaformer.loop import train_step
from metaformer.prepare import prepare
from metaformer.recipe_file import read_recipe
from metaformer.report.console import Console
from metaformer.run import Run
from metaformer.stopping import StopSignal
from metaformer.train import HARMLESS
from metaformer.window import take_window
from tests.faulty import SMALL, finish, free_port, only_run, plugin, spawn, status, steps, train_here
from tests.ranks.looks import CASES, TWO, train

TWO_TASKS = [case for case in CASES if case.startswith("two")]
LOOKS = "observe.every=3"


@pytest.fixture(autouse=True)
def known(monkeypatch):
    with plugin(monkeypatch):
        yield


def looks(path: Path) -> dict[int, dict[str, float]]:
    """Step → what a look showed, where there was one."""
    found = {
        r["step"]: {key: value for key, value in r.items() if key.startswith(("grad_norm/", "grad_cosine/"))}
        for r in steps(path)
    }
    return {step: numbers for step, numbers in found.items() if numbers}


def numbers(path: Path) -> list[tuple]:
    return [(r["step"], r["loss_hex"], r["grad_norm"], r["data"]) for r in steps(path)]


def weights(path: Path) -> bytes:
    return (path / "checkpoints/step_00000012/model.safetensors").read_bytes()


RUNS = {
    # With dropout in all of them, and running statistics here: forward passes draw, and move what is no parameter.
    "torch, one task": ("engine={use: torch, threads: 1}", "tokenizers.vector.batch_norm=true"),
    "torch": (*TWO, "engine={use: torch, threads: 1, clip: 1.0, micro_batch: 4, accumulate: 2}"),
    "zero0": (*TWO, "engine={threads: 1, micro_batch: 4, accumulate: 2}"),
    "zero2": (*TWO, "engine={zero: 2, threads: 1, micro_batch: 4, accumulate: 2}"),
    "fp16": (*TWO, "engine={zero: 1, precision: fp16, threads: 1}"),
    "recomputed": (*TWO, "engine={use: torch, threads: 1, activation_checkpointing: true}"),
}


@pytest.mark.parametrize("name", RUNS)
def test_a_run_that_is_looked_at_is_the_same_run(tmp_path, name):
    sets = (*RUNS[name], "save_every=5")
    plain, seen = train_here(tmp_path / "a", *sets), train_here(tmp_path / "b", *sets, LOOKS)
    assert numbers(plain) == numbers(seen)
    assert weights(plain) == weights(seen)
    assert set(looks(seen)) == {3, 6, 9, 12}
    assert not looks(plain)


def test_norms_and_cosines_are_those_of_the_gradients(tmp_path):
    sets = (*TWO, "encoders.shared.drop=0.0", "steps=3", LOOKS)
    sets = (*sets, "engine={use: torch, threads: 1, micro_batch: 2, accumulate: 4}")
    path = train_here(tmp_path, *sets)
    (found,) = looks(path).values()
    assert set(found) == {"grad_norm/signs", "grad_norm/sums", "grad_cosine/signs,sums"}
    # A second run that stops before its third step has the weights at which the look was taken.
    file = read_recipe(SMALL, (*sets, f"output={tmp_path}"))
    with StopSignal() as stop:
        session = prepare(Run(tmp_path / "again", file, SMALL.parent), find_place(), Console(quiet=True), stop)
        session.engine.model.train()
        session.open_stream()
        newest = {}
        for step in range(3):
            window = take_window(session)
            newest |= {batch.task: batch for batch in window.batches}
            if step < 2:
                train_step(session, window)
        session.batches.close()
    model, gradients = session.engine.model, {}
    for task, batch in newest.items():
        model.zero_grad()
        batch.memo.clear()
        for objective in model.objectives[task]:
            sum(objective(model, batch).values()).backward()
        gradients[task] = torch.cat([p.grad.flatten() for p in model.encoders.parameters()]).double()
    for task, gradient in gradients.items():
        assert found[f"grad_norm/{task}"] == pytest.approx(float(gradient.norm()), rel=1e-5)
    cosine = torch.nn.functional.cosine_similarity(gradients["signs"], gradients["sums"], dim=0)
    assert found["grad_cosine/signs,sums"] == pytest.approx(float(cosine), abs=1e-5)


def test_the_same_task_twice_pulls_one_way(tmp_path):
    signs = "{data: {train: {use: vectors, size: 8}}, objective: {use: cross_entropy, head: sign}}"
    sets = (f"tasks={{a: {signs}, b: {signs}}}", "encoders.shared.drop=0.0", "batch_size=null", "steps=40")
    sets = (*sets, "engine={use: torch, threads: 1, micro_batch: 8, accumulate: 4}", "optimizer.lr=1e-9")
    path = train_here(tmp_path, *sets, "observe.every=40")
    (found,) = looks(path).values()
    # The same eight samples, with other noise on them.
    assert found["grad_cosine/a,b"] > 0.9


def test_the_terminal_says_it_at_evaluations_only(tmp_path, capsys):
    train_here(tmp_path, *TWO, LOOKS, "eval_every=6")
    said = [line for line in capsys.readouterr().out.splitlines() if "gradients on the encoders" in line]
    assert [line.split(":")[0] for line in said] == [f"gradients on the encoders at step {n}" for n in (6, 12)]
    assert "pairs pull apart, lowest cosine" in said[0]
    assert "(signs,sums)" in said[0]


def test_one_task_alone_has_a_norm(tmp_path):
    found = looks(train_here(tmp_path, LOOKS))
    assert set(found) == {3, 6, 9, 12}
    assert all(numbers.keys() == {"grad_norm/signs"} and numbers["grad_norm/signs"] > 0 for numbers in found.values())


@pytest.mark.parametrize("sets", [("trainable=frozen",), ("control=random",), ("control=none",)], ids=str)
def test_where_nothing_of_the_encoders_is_trained_the_run_says_so(tmp_path, capsys, sets):
    path = train_here(tmp_path, *TWO, *sets, LOOKS, "steps=3")
    assert not looks(path)
    assert "nothing of the encoders is trained" in capsys.readouterr().out


def test_low_rank_updates_are_looked_at(tmp_path):
    (found,) = looks(train_here(tmp_path, "trainable=lora", "observe.every=12")).values()
    assert math.isfinite(found["grad_norm/signs"])


def test_zero_3_is_refused_before_anything_runs():
    with pytest.raises(RecipeError, match=r"observe\.every: .*ZeRO 3"):
        read_recipe(SMALL, ("engine={zero: 3}", LOOKS))


def test_how_often_may_change_when_a_run_goes_on():
    assert "observe.every" in HARMLESS


# Two ranks.


@pytest.fixture(scope="module")
def ranks(tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("looks")
    port = str(free_port())
    processes = [
        spawn(
            ["python", "-m", "tests.ranks.looks", str(output)],
            RANK=r, LOCAL_RANK=r, WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=port,
        )
        for r in ("0", "1")
    ]  # fmt: skip
    outs = [finish(process, 240) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n----\n".join(outs)
    return output


@pytest.mark.ranks
@pytest.mark.parametrize("case", CASES)
def test_two_ranks_do_not_notice_either(ranks, case):
    plain, seen = only_run(ranks / "plain", case), only_run(ranks / "seen", case)
    assert status(seen)["state"] == "finished"
    assert numbers(plain) == numbers(seen)
    assert weights(plain) == weights(seen)
    assert set(looks(seen)) == {3, 6, 9, 12}


@pytest.mark.ranks
@pytest.mark.parametrize("case", CASES)
def test_two_ranks_see_the_gradient_of_their_samples_together(ranks, case, tmp_path):
    found = looks(only_run(ranks / "seen", case))
    if case in TWO_TASKS:
        for step, numbers in looks(only_run(ranks / "seen", "two_torch")).items():
            assert found[step] == pytest.approx(numbers, rel=1e-3, abs=1e-3)
        return
    # One task: its newest micro-batches on the two ranks are the samples of one pass in one process.
    alone = looks(train(tmp_path, "alone", (*CASES[case], "engine={use: torch, threads: 1, micro_batch: 8}"), LOOKS))
    for step, numbers in found.items():
        assert numbers == pytest.approx(alone[step], rel=1e-4)
