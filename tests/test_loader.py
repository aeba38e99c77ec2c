"""Loading: the same batches whatever the workers, no global random state touched, bad samples named."""

import random

import numpy as np
import pytest
import torch

from metaformer.data.loader import isolated_rng, load_batches
from metaformer.data.order import PADDING, Address, Order


def take(reader, workers, count=5):
    order = Order(0, {"signs": len(reader)}, {"signs": 1.0}, 4, 1)
    batches = load_batches({"signs": reader}, order.rank_stream(0, 0, 1), workers=workers)
    return [next(batches) for _ in range(count)]


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_do_not_change_batches(make_model, make_reader, workers):
    reader = make_reader(make_model())
    for here, there in zip(take(reader, 0), take(reader, workers), strict=True):
        assert here.ids == there.ids
        for key, value in here.streams["left"].items():
            assert torch.equal(value, there.streams["left"][key])
        assert torch.equal(here.targets["sign"], there.targets["sign"])


def test_augmentation_differs_by_epoch_and_sample_but_repeats(make_model, make_reader):
    reader = make_reader(make_model())

    def noise(epoch, index):
        return reader.read(Address("signs", epoch, index)).streams["left"]["values"]

    assert torch.equal(noise(0, 1), noise(0, 1))
    assert not torch.equal(noise(0, 1), noise(1, 1))
    quiet = make_reader(make_model(), train=False)
    assert torch.equal(
        quiet.read(Address("signs", 0, 1)).streams["left"]["values"], torch.tensor(quiet.dataset.rows[1])
    )


def test_no_global_random_state_moves(make_model, make_reader):
    reader = make_reader(make_model())
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    take(reader, 0)
    assert torch.equal(before[0], torch.get_rng_state())
    assert (before[1] == np.random.get_state()[1]).all()


def test_isolated_rng_leaves_python_numpy_and_torch_as_they_were():
    # Tested on its own: the run-time type checks of the tests draw from python's generator themselves.
    before = random.getstate(), torch.get_rng_state(), np.random.get_state()[1].copy()
    with isolated_rng(1):
        drawn = random.random(), np.random.rand(), torch.rand(1).item()
    after = random.getstate(), torch.get_rng_state(), np.random.get_state()[1].copy()
    with isolated_rng(1):
        again = random.random(), np.random.rand(), torch.rand(1).item()
    assert drawn == again
    assert before[0] == after[0]
    assert torch.equal(before[1], after[1])
    assert (before[2] == after[2]).all()


def test_isolated_rng_restores_after_an_error():
    before = torch.get_rng_state()

    def fail():
        with isolated_rng(1):
            torch.rand(3)
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        fail()
    assert torch.equal(before, torch.get_rng_state())


def test_padding_lacks_everything(make_model, make_reader):
    reader = make_reader(make_model())
    batch = reader.collate([reader.read(Address("signs", 0, i)) for i in (1, PADDING)])
    assert batch.present["left"].tolist() == [True, False]
    assert batch.targets["sign"][1] == -100
    assert batch.ids == ["1", ""]
    assert not batch.bad


def test_a_bad_sample_says_which_and_why(make_model, make_reader, monkeypatch):
    reader = make_reader(make_model())
    monkeypatch.setattr(type(reader.dataset), "__getitem__", lambda self, i: {"left": "bad value", "sign": "plus"})
    item = reader.read(Address("signs", 2, 7))
    assert item.streams == {"left": None}
    assert item.bad.index == 7
    assert item.bad.epoch == 2
    assert "stream 'left'" in item.bad.error
    assert "bad value" in item.bad.error


def test_another_error_names_task_and_sample(make_model, make_reader, monkeypatch):
    reader = make_reader(make_model())

    def explode(self, index):
        raise KeyError("a fault of the data set")

    monkeypatch.setattr(type(reader.dataset), "__getitem__", explode)
    with pytest.raises(KeyError) as caught:
        reader.read(Address("signs", 0, 7))
    assert "sample 7 of task 'signs'" in caught.value.__notes__[0]
