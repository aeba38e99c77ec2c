"""Data order: a pure function of the seed and the step."""

from collections import Counter
from dataclasses import replace

import pytest

from metaformer.data.loader import eval_addresses
from metaformer.data.order import PADDING, Order, sample_seed

SIZES, WEIGHTS = {"a": 10, "b": 7}, {"a": 1.0, "b": 3.0}


def order(micro=4, per_step=2, seed=0):
    return Order(seed, SIZES, WEIGHTS, micro, per_step)


def test_any_step_can_be_asked_in_any_order():
    straight = [order().micro_batches(0)]
    one = order()
    straight = [one.micro_batches(step) for step in range(20)]
    assert order().micro_batches(13) == straight[13]
    assert one.micro_batches(5) == straight[5]
    assert one.micro_batches(6) == straight[6]


def test_every_epoch_has_every_sample_once():
    one = Order(0, {"a": 10}, {"a": 1.0}, 4, 1)
    seen = [address for step in range(25) for batch in one.micro_batches(step) for address in batch]
    for epoch in range(10):
        assert sorted(a.index for a in seen if a.epoch == epoch) == list(range(10))
    assert [a.index for a in seen[:10]] != [a.index for a in seen[10:20]]


@pytest.mark.parametrize("world", [1, 2, 4])
def test_the_number_of_ranks_does_not_change_the_global_batches(world):
    streams = [order(per_step=4).rank_stream(0, rank, world) for rank in range(world)]
    for step in range(6):
        expected = order(per_step=4).micro_batches(step)
        got = [[next(streams[rank]) for _ in range(4 // world)] for rank in range(world)]
        assert [got[i % world][i // world] for i in range(4)] == expected


def test_a_stream_may_start_anywhere():
    late = order().rank_stream(7, 1, 2)
    early = order().rank_stream(0, 1, 2)
    for _ in range(7):
        next(early)
    assert [next(late) for _ in range(5)] == [next(early) for _ in range(5)]


def test_tasks_are_drawn_by_weight():
    one = order(micro=1, per_step=1)
    counts = Counter(one.micro_batches(step)[0][0].task for step in range(2000))
    assert counts["b"] / 2000 == pytest.approx(0.75, abs=0.04)


def test_seeds_differ_by_seed_epoch_task_and_sample():
    address = order().micro_batches(0)[0][0]
    seeds = {
        sample_seed(0, address),
        sample_seed(1, address),
        sample_seed(0, replace(address, epoch=1)),
        sample_seed(0, replace(address, index=address.index + 1)),
        sample_seed(0, replace(address, task="other")),
    }
    assert len(seeds) == 5


@pytest.mark.parametrize(("size", "world"), [(10, 1), (10, 3), (1, 2), (7, 4)])
def test_evaluation_sees_every_sample_once_in_equally_many_batches(size, world):
    shares = [eval_addresses("a", size, 2, rank, world) for rank in range(world)]
    assert len({len(share) for share in shares}) == 1
    seen = [a.index for share in shares for batch in share for a in batch if a.index != PADDING]
    assert sorted(seen) == list(range(size))
