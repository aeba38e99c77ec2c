"""Guards: wrong numbers never reach the weights, on any rank, and the run says what they were (bars N1 to N4)."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from metaformer.engine import find_place
from metaformer.errors import DivergedError
from metaformer.guard import Spikes
from metaformer.loop import run_steps, train_step
from metaformer.prepare import prepare
from metaformer.recipe_file import read_recipe
from metaformer.report.console import Console
from metaformer.run import Run
from metaformer.saver import copied
from metaformer.session import Session
from metaformer.stopping import StopSignal
from metaformer.window import take_window
from tests.faulty import SMALL, arguments, curve, only_run, plugin, run_ranks, status

EVERY_STEP_SEES_SAMPLE_9 = "batch_size=64"
ENGINES = ["{use: torch}", "{use: deepspeed}", *(f"{{use: deepspeed, zero: {zero}}}" for zero in (1, 2, 3))]
REGRESSION = (
    "heads.sign={use: regression, reads: vector, pool: mean}",
    "tasks.signs.objective={use: regression, head: sign, target: total}",
    "tasks.signs.metrics=[mae]",
    "tasks.signs.data.train.size=640",
    "steps=60",
    "optimizer.lr=1e-3",
)


@pytest.fixture
def make_session(tmp_path, monkeypatch):
    """A prepared run."""
    with plugin(monkeypatch), StopSignal() as stop:

        def make(*sets: str, name: str = "run") -> Session:
            file = read_recipe(SMALL, (f"output={tmp_path}", *sets))
            session = prepare(Run(tmp_path / name, file, SMALL.parent), find_place(), Console(quiet=True), stop)
            session.engine.model.train()
            session.open_stream()
            return session

        yield make


def state(session: Session) -> dict[str, torch.Tensor]:
    model = session.engine.model
    with session.engine.whole(list(model.parameters())):
        return {name: value.detach().clone() for name, value in model.state_dict().items()}


def optimizer_state(session: Session) -> list[torch.Tensor]:
    """Every tensor that a checkpoint would hold of the optimizer."""
    found: list[torch.Tensor] = []
    folder = session.run.path / "looked_at"
    folder.mkdir(exist_ok=True)
    session.engine.save(folder, lambda name, value: found.extend(tensors(copied(value))))
    return found


def tensors(value) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    return [inner for one in value for inner in tensors(one)] if isinstance(value, list | tuple) else []


def same(before: dict, after: dict) -> bool:
    return all(before[name].equal(after[name]) for name in before)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("fault", ["loss", "gradient"])
def test_what_is_not_finite_never_reaches_the_weights(make_session, engine, fault):
    data = "tasks.signs.data.train.nan=[9]" if fault == "loss" else "steps=12"
    objective = "cross_entropy" if fault == "loss" else "cliff"
    sets = (
        data,
        f"engine={engine}",
        "batch_size=64",
        "tokenizers.vector.batch_norm=true",
        f"tasks.signs.objective={{use: {objective}, head: sign}}",
        "tasks.signs.metrics=[]" if fault == "gradient" else "log_every=1",
    )
    session = make_session(*sets)
    before = state(session)
    with pytest.raises(DivergedError, match="step 1") as caught:
        train_step(session, take_window(session))
    assert caught.value.exit_code == 5
    after = state(session)
    # The passes that look for the culprit move running statistics; nothing is saved from here on.
    assert same({k: v for k, v in before.items() if "running" not in k and "num_batches" not in k}, after)
    record = json.loads((session.run.path / "diverged.json").read_text())
    part = record["ranks"][0]
    assert record["step"] == 1
    assert "9" in part["samples"]
    if fault == "loss":
        assert part["inputs"] == ["vector"]
        assert part["first_nonfinite_module"] == "tokenizers.vector.linear"
    else:
        assert part["inputs"] == []
        assert part["first_nonfinite_module"] is None
        assert part["first_nonfinite_gradient"].startswith("heads.sign")
    assert any(value == "nan" for value in record["gradient_norms"].values())


@pytest.mark.parametrize("engine", ENGINES)
def test_a_step_that_is_left_out_leaves_no_trace(make_session, engine):
    sets = ("tasks.signs.data.train.nan=[9]", f"engine={engine}", "tokenizers.vector.batch_norm=true")
    session = make_session(*sets, "guard.nonfinite=skip", "batch_size=8")
    left_out = 0
    for _ in range(12):
        before = state(session)
        optimizer = optimizer_state(session)
        record = train_step(session, take_window(session))
        if record.get("guard") == "nonfinite":
            left_out += 1
            assert record["loss"] is None
            assert same(before, state(session))
            kept = optimizer_state(session)
            assert all(a.equal(b) for a, b in zip(kept, optimizer, strict=True))
        else:
            assert not same(before, state(session))
    assert left_out == 2  # sample 9 comes once in each of 12 x 8 / 64 epochs
    assert session.progress.done == 12
    assert all(torch.isfinite(value).all() for value in state(session).values())


def test_too_many_steps_left_out_in_a_row_end_the_run(make_session):
    session = make_session("tasks.signs.data.train.nan=[9]", "guard={nonfinite: skip, max_skipped: 3}", "batch_size=64")
    with pytest.raises(DivergedError, match="at most 3 updates in a row"):
        run_steps(session)
    assert session.progress.done == 4


def test_replaying_the_dump_gives_the_same_end(make_session):
    sets = ("tasks.signs.data.train.nan=[9]", "batch_size=4", "save_every=2", "steps=40")
    first = make_session(*sets)
    with pytest.raises(DivergedError) as caught:
        run_steps(first)
    dump = json.loads((first.run.path / "diverged.json").read_text())
    again = make_session(*sets)
    assert 0 < again.progress.done < dump["step"]
    with pytest.raises(DivergedError) as second:
        run_steps(again)
    assert json.loads((first.run.path / "diverged.json").read_text()) == dump
    assert str(second.value) == str(caught.value)


def test_one_rank_with_wrong_numbers_stops_both_before_the_step(tmp_path):
    words = arguments(tmp_path, "tasks.signs.data.train.nan=[9]", "engine={use: deepspeed, zero: 2, threads: 1}")
    outs = run_ranks(words, (5, 5))
    run = only_run(tmp_path)
    dump = json.loads((run / "diverged.json").read_text())
    guilty = [part["rank"] for part in dump["ranks"] if part["first_nonfinite_module"]]
    assert len(guilty) == 1
    # Both end with the same error; rank zero says it.
    assert f"rank {guilty[0]}" in outs[0]
    assert "Traceback" not in "".join(outs)
    assert status(run)["exit_code"] == 5
    assert [record["step"] for record in curve(run)] == list(range(1, dump["step"]))


def noisy(seed: int, steps: int = 120) -> np.ndarray:
    """A healthy loss: it falls, with the noise of small batches, of which one in a hundred is far harder."""
    generator = np.random.default_rng(seed)
    falling = 0.3 + 2.0 * np.exp(-np.arange(steps) / (20 + 200 * generator.random()))
    hard = np.where(generator.random(steps) < 0.01, 2.5, 1.0)
    return falling * hard * np.exp(0.25 * generator.standard_normal(steps))


def alarms(losses, threshold: float = 20.0) -> int:
    spikes = Spikes(64, threshold)
    found = 0
    for loss in losses:
        if spikes.is_spike("task", float(loss)):
            found += 1
        else:
            spikes.add("task", float(loss))
    return found


def test_a_thousand_healthy_curves_raise_at_most_one_false_alarm():
    assert sum(alarms(noisy(seed)) > 0 for seed in range(1000)) <= 1


def test_a_spike_of_fifty_times_is_always_seen():
    for seed in range(200):
        losses = noisy(seed)
        losses[20 + seed % 100] *= 50
        assert alarms(losses) >= 1


def test_spikes_are_not_added_to_what_they_are_measured_by():
    spikes = Spikes(64, 20.0)
    for loss in noisy(0):
        spikes.add("a", float(loss))
    kept = list(spikes.seen["a"])
    assert spikes.is_spike("a", 1000.0)
    assert spikes.seen["a"] == kept
    assert not spikes.is_spike("b", 1000.0)


@pytest.mark.parametrize("policy", ["off", "warn", "skip", "rollback"])
def test_spike_policies(make_session, policy):
    # Sample 7 comes once among 640; 50 times its target is 2500 times its squared error.
    sets = (*REGRESSION, "tasks.signs.data.train.huge=[7]", f"guard={{spike: {policy}, window: 32}}", "save_every=10")
    session = make_session(*sets)
    said: list[str] = []
    session.console.say = said.append
    run_steps(session)
    records = [record for record in session.run.records() if "loss_hex" in record]
    events = [record for record in session.run.records() if record.get("event") == "rollback"]
    spiked = [record["step"] for record in records if record.get("guard") == "spike"]
    assert [record["step"] for record in records] == list(range(1, 61))
    if policy == "off":
        assert not spiked
        assert not events
    elif policy in ("warn", "skip"):
        assert len(spiked) == 1
        assert any("far above" in line for line in said)
        assert not events
    else:
        (event,) = events
        assert not spiked
        assert event["from"] > event["step"] >= 10
        assert session.progress.position == 60 + event["from"] - event["step"]
        assert session.progress.rollbacks == 1
        assert any("passed over" in line for line in said)


def test_a_rollback_goes_on_with_what_came_after_the_spike(make_session):
    sets = (*REGRESSION, "tasks.signs.data.train.huge=[7]", "save_every=10")
    quiet = make_session(*sets, "guard={spike: off}", name="quiet")
    run_steps(quiet)
    session = make_session(*sets, "guard={spike: rollback, window: 32}")
    run_steps(session)
    (event,) = [record for record in session.run.records() if record.get("event") == "rollback"]
    ours, theirs = curve(session.run.path), curve(quiet.run.path)
    assert ours[: event["step"]] == theirs[: event["step"]]
    # From the checkpoint on, the samples are those of the steps after the spike.
    gap = event["from"] - event["step"]
    assert [r["data"] for r in ours[event["step"] : 60 - gap]] == [r["data"] for r in theirs[event["from"] :]]


@pytest.mark.parametrize("engine", ENGINES[1:])
def test_every_engine_goes_back_alike(make_session, engine):
    sets = (*REGRESSION, "tasks.signs.data.train.huge=[7]", "save_every=10", "guard={spike: rollback, window: 32}")
    ours, theirs = make_session(*sets, f"engine={engine}"), make_session(*sets, "engine={use: torch}", name="reference")
    for session in (ours, theirs):
        run_steps(session)
        assert session.progress.rollbacks == 1
    losses = [[record["loss"] for record in curve(session.run.path)] for session in (ours, theirs)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_a_rollback_with_nothing_to_go_back_to_says_so(make_session):
    sets = (*REGRESSION, "tasks.signs.data.train.huge=[7]", "guard={spike: rollback, window: 32}")
    with pytest.raises(DivergedError, match="save_every"):
        run_steps(make_session(*sets))
