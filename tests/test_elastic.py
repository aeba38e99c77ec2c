"""Other ranks, other stages, other engines: the same samples in every step, the same losses within rounding."""

from __future__ import annotations

import json
import shutil

import pytest

from metaformer.engine import Batching, recut
from metaformer.engine.place import read_ranks
from metaformer.errors import CheckpointError, PluginError
from tests.faulty import arguments, curve, only_run, plugin, run_ranks, status, steps, train_here

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(autouse=True)
def faults(monkeypatch):
    with plugin(monkeypatch):
        yield


CUT = ("batch_size=null", "steps=12")


def engine(zero: int | None = 0, micro: int = 2, accumulate: int = 2) -> str:
    use = "use: torch" if zero is None else f"use: deepspeed, zero: {zero}"
    return f"engine={{{use}, clip: 1.0, threads: 1, micro_batch: {micro}, accumulate: {accumulate}}}"


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """Two ranks with two passes each, and no interruption."""
    output = tmp_path_factory.mktemp("straight")
    run_ranks(arguments(output, *CUT, engine(1)))
    return only_run(output)


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    """The first half of it, as a run that a rank has been lost of."""
    output = tmp_path_factory.mktemp("half")
    run_ranks(arguments(output, *CUT, engine(1), "save_every=6"), (4, 4), FAULTS_FAIL_AT="8")
    return only_run(output)


def check(ours, theirs, first: int = 0) -> None:
    assert [r["data"] for r in ours] == [r["data"] for r in theirs]
    assert [r["loss"] for r in ours] == pytest.approx([r["loss"] for r in theirs], rel=1e-5)
    assert [r["grad_norm"] for r in ours[first:]] == pytest.approx([r["grad_norm"] for r in theirs[first:]], rel=1e-3)


@pytest.mark.ranks
@pytest.mark.parametrize(("world", "per_rank"), [(1, 4), (1, 1)])
def test_the_number_of_ranks_changes_no_sample_and_no_loss(straight, tmp_path, world, per_rank):
    """Bar R5, with dropout: what is drawn depends on the place in the run, not on the rank. The second case cuts the
    step into passes of another size, which a single task allows."""
    sets = engine(1, accumulate=4) if per_rank == 4 else engine(1, micro=8, accumulate=1)
    path = train_here(tmp_path, *CUT, sets, "encoders.shared.drop=0.0" if per_rank == 1 else "log_every=1")
    ours, theirs = curve(path), curve(straight)
    assert [r["data"] for r in ours] == [r["data"] for r in theirs]
    if per_rank == 4:
        check(ours, theirs)


@pytest.mark.ranks
@pytest.mark.parametrize("zero", [0, 3, None])
def test_a_run_goes_on_with_fewer_ranks_and_another_stage(straight, two_ranks, tmp_path, capsys, zero):
    """Bars C8 and R6: one rank instead of two, with twice the passes, and stage 1 becomes 0, 3 or plain torch."""
    copy = tmp_path / "small" / two_ranks.name
    shutil.copytree(two_ranks, copy)
    train_here(tmp_path, *CUT, engine(zero), resume=str(copy), drift=True)
    out = capsys.readouterr().out
    assert "world 2 -> 1" in out
    assert "its optimizer state is cut anew" in out
    check(curve(copy), curve(straight))
    state = json.loads((copy / "checkpoints/step_00000012/state.json").read_text())
    assert state["cut"] == {"micro": 2, "per_step": 4}
    assert state["world"] == 1
    assert status(copy)["state"] == "finished"
    assert not list(copy.glob("checkpoints/.tmp*"))


@pytest.mark.ranks
@pytest.mark.thorough
def test_a_run_goes_on_with_more_ranks(straight, tmp_path, monkeypatch):
    monkeypatch.setenv("FAULTS_FAIL_AT", "8")
    with pytest.raises(PluginError):
        train_here(tmp_path, *CUT, engine(2, accumulate=4), "save_every=6")
    path = only_run(tmp_path)
    monkeypatch.delenv("FAULTS_FAIL_AT")
    run_ranks([*arguments(tmp_path, *CUT, engine(2)), "--resume", str(path), "--allow-drift"])
    check(curve(path), curve(straight))
    assert len(steps(path)) == 12


def test_steps_are_cut_anew_where_that_is_possible():
    assert recut(Batching(2, 2, 2), 1, tasks=3) == Batching(2, 4, 1)
    assert recut(Batching(2, 2, 2), 4, tasks=3) == Batching(2, 1, 4)
    # A single task: micro-batches of another size hold the same samples.
    assert recut(Batching(8, 1, 1), 2, tasks=1) == Batching(4, 1, 2)
    assert recut(Batching(6, 1, 1), 3, tasks=1).total == 6
    with pytest.raises(CheckpointError, match="4 micro-batches of 2 samples, which 3 ranks cannot share"):
        recut(Batching(2, 2, 2), 3, tasks=2)
    with pytest.raises(CheckpointError):
        recut(Batching(8, 1, 1), 3, tasks=1)


def test_ranks_are_found_under_every_launcher():
    alone = (0, 1, 0)
    assert read_ranks({}) == alone
    assert read_ranks({"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}) == (3, 8, 1)
    ompi = {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_LOCAL_RANK": "1"}
    # mpirun inside a slurm job: every rank has the variables of the job's script.
    assert read_ranks({**ompi, "SLURM_PROCID": "0", "SLURM_NTASKS": "2"}) == (1, 2, 1)
    assert read_ranks({"SLURM_PROCID": "5", "SLURM_STEP_NUM_TASKS": "8", "SLURM_LOCALID": "1"}) == (5, 8, 1)
    # A batch script without srun is one process, whatever the job may start.
    assert read_ranks({"SLURM_PROCID": "0", "SLURM_NTASKS": "8"}) == alone
