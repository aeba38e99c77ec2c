"""Waiting for batches: interruptible, bounded, and the same batches whatever fails on the way (bars C9, T1, T4, T5)."""

from __future__ import annotations

import itertools
import json
import random
import time

import numpy as np
import pytest
import torch

from metaformer.data.order import Address, Order, substitutes
from metaformer.data.stream import BatchStream
from metaformer.errors import DataError
from metaformer.types import Batch
from metaformer.window import sample_digest
from tests.faulty import arguments, curve, only_run, plugin, run, run_ranks, status, steps, train_here


def addresses(reader, micro=4):
    order = Order(0, {"signs": len(reader)}, {"signs": 1.0}, micro, 1)
    return order.rank_stream(0, 0, 1)


def stream(reader, **options):
    return BatchStream({"signs": reader}, addresses(reader), **options)


@pytest.fixture
def reader(make_model, make_reader):
    return make_reader(make_model())


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_come_in_order_and_no_global_random_state_moves(reader, workers):
    states = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()
    with stream(reader, workers=workers) as batches:
        found = [batches.next().ids for _ in range(6)]
    expected = [[reader.dataset.sample_id(a.index) for a in batch] for batch in itertools.islice(addresses(reader), 6)]
    assert found == expected
    assert torch.equal(states[2], torch.get_rng_state())
    assert (states[1] == np.random.get_state()[1]).all()


def test_the_end_is_none(reader):
    with BatchStream({"signs": reader}, [[Address("signs", 0, 1)]]) as batches:
        assert batches.next().ids == ["1"]
        assert batches.next() is None


@pytest.mark.parametrize("workers", [0, 1])
def test_a_wait_can_be_interrupted(reader, monkeypatch, workers):
    monkeypatch.setattr(type(reader.dataset), "__getitem__", lambda self, i: time.sleep(60))
    batches = stream(reader, workers=workers)
    began = time.monotonic()
    assert batches.next(lambda: time.monotonic() - began > 0.3) is None
    assert time.monotonic() - began < 3


@pytest.mark.parametrize("workers", [0, 1])
def test_a_read_that_takes_too_long_is_named(reader, monkeypatch, workers):
    first = next(addresses(reader))
    monkeypatch.setattr(type(reader.dataset), "__getitem__", lambda self, i: time.sleep(60))
    with pytest.raises(DataError, match=r"loader\.timeout") as caught:
        stream(reader, workers=workers, timeout=0.5).next()
    assert f"samples {first[0].index}" in str(caught.value)
    assert caught.value.exit_code == 3


def test_an_error_of_the_data_set_comes_as_it_is(reader, monkeypatch):
    def explode(self, index):
        raise KeyError("a fault of the data set")

    monkeypatch.setattr(type(reader.dataset), "__getitem__", explode)
    with pytest.raises(KeyError, match="a fault of the data set"), stream(reader) as batches:
        batches.next()


def test_closing_ends_the_thread(reader):
    batches = stream(reader)
    batches.next()
    batches.close()
    assert not batches._thread.is_alive()


def test_a_killed_worker_process_ends_the_run_with_its_samples(tmp_path):
    out = run(arguments(tmp_path, "tasks.signs.data.train.kill=[9]", "loader.workers=2"), 3)
    assert "a worker process has died" in out
    assert "task 'signs'" in out
    assert "Traceback" not in out
    assert status(only_run(tmp_path))["exit_code"] == 3


def test_a_stuck_read_ends_the_run(tmp_path):
    out = run(arguments(tmp_path, "tasks.signs.data.train.slow=[9]", "loader.timeout=2", "batch_size=4"), 3)
    assert "nothing came within loader.timeout: 2 seconds" in out


# Bad samples.

BAD = ("tasks.signs.data.train.bad=[9]", "loader.max_bad_fraction=0.5")


def bad_samples(path):
    return [json.loads(line) for line in (path / "bad_samples.jsonl").read_text().splitlines()]


def test_raise_names_the_sample(tmp_path, monkeypatch):
    with plugin(monkeypatch), pytest.raises(DataError, match="sample 9 cannot be used") as caught:
        train_here(tmp_path, *BAD)
    assert "bad value" in str(caught.value)


@pytest.mark.ranks
@pytest.mark.parametrize("policy", ["skip", "substitute"])
def test_bad_samples_keep_ranks_in_step_and_are_the_same_at_every_start(tmp_path, monkeypatch, policy):
    sets = (*BAD, f"loader.bad_samples={policy}", "steps=16", "engine={use: torch, threads: 1}")
    run_ranks(arguments(tmp_path / "two", *sets))
    two = only_run(tmp_path / "two")
    with plugin(monkeypatch):
        one = train_here(tmp_path / "one", *sets, "engine={use: torch, threads: 1, micro_batch: 4}")
    assert [r["data"] for r in curve(two)] == [r["data"] for r in curve(one)]
    assert [r["loss"] for r in curve(two)] == pytest.approx([r["loss"] for r in curve(one)], rel=1e-5)
    assert bad_samples(two) == bad_samples(one)
    # Two epochs of 64 in steps of 8: sample 9 comes twice.
    assert [record["id"] for record in bad_samples(two)] == ["9", "9"]
    assert all("bad value" in record["error"] for record in bad_samples(two))


def test_a_substitute_is_another_sample_and_always_the_same(make_model, make_reader, monkeypatch):
    reader = make_reader(make_model())
    reader.substitute = True
    original = type(reader.dataset).__getitem__
    monkeypatch.setattr(
        type(reader.dataset),
        "__getitem__",
        lambda self, i: {"left": "bad value", "sign": "plus"} if i == 7 else original(self, i),
    )
    item = reader.read(Address("signs", 2, 7))
    assert item.bad.id == "7"
    assert item.id != "7"
    assert item.streams["left"] is not None
    again = reader.read(Address("signs", 2, 7))
    assert again.id == item.id
    assert torch.equal(again.streams["left"]["values"], item.streams["left"]["values"])
    assert item.id == str(substitutes(0, Address("signs", 2, 7), len(reader))[0].index)
    assert {reader.read(Address("signs", epoch, 7)).id for epoch in range(20)} != {item.id}


def test_too_many_bad_samples_end_the_run(tmp_path, monkeypatch):
    sets = ("tasks.signs.data.train.bad=[" + ", ".join(map(str, range(20))) + "]", "loader.bad_samples=skip")
    with plugin(monkeypatch), pytest.raises(DataError, match=r"at most 10\.0% of the samples may be bad"):
        train_here(tmp_path, *sets, "loader.max_bad_fraction=0.1", "steps=40")
    path = only_run(tmp_path)
    assert len(bad_samples(path)) > 10
    assert len(steps(path)) < 40


# The digest of a step's samples.


def batch(ids, labels, task="signs"):
    return Batch(task, {}, {}, {"sign": torch.tensor(labels)}, ids)


def test_the_digest_sees_names_targets_places_and_tasks():
    first = sample_digest(batch(["a", "b"], [0, 1]), 0)
    others = [
        sample_digest(batch(["a", "c"], [0, 1]), 0),
        sample_digest(batch(["a", "b"], [1, 0]), 0),
        sample_digest(batch(["b", "a"], [0, 1]), 0),
        sample_digest(batch(["a", "b"], [0, 1]), 2),
        sample_digest(batch(["a", "b"], [0, 1], "other"), 0),
    ]
    assert first == sample_digest(batch(["a", "b"], [0, 1]), 0)
    assert len({first, *others}) == 6


def test_the_digest_of_a_step_does_not_depend_on_how_it_is_cut():
    whole = sample_digest(batch(list("abcd"), [0, 1, 1, 0]), 0)
    parts = sample_digest(batch(list("ab"), [0, 1]), 0) + sample_digest(batch(list("cd"), [1, 0]), 2)
    assert whole == parts
