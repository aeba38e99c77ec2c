"""Splits by place: no pixel is in a training and in a validation sample."""

from __future__ import annotations

import numpy as np
import pytest
from metaformer_plugin_hyperspectral.datasets import IndianPines
from metaformer_plugin_hyperspectral.scene import mirrored
from metaformer_plugin_hyperspectral.split import at_random, checkerboard, few

from metaformer.errors import DataError


def seen(places: np.ndarray, size: int, shape: tuple[int, int]) -> np.ndarray:
    """Every pixel that is in the neighbourhood of one of the places, as samples are really cut."""
    out = np.zeros(shape, dtype=bool)
    for row, column in places:
        out[mirrored(int(row), size, shape[0])[:, None], mirrored(int(column), size, shape[1])] = True
    return out


@pytest.mark.parametrize("size", [1, 3, 5, 7])
@pytest.mark.parametrize("shape", [(31, 40), (24, 24), (17, 53)])
def test_training_and_validation_share_no_pixel(size: int, shape: tuple[int, int]) -> None:
    for block in (size + 1, 8, 11):
        train, valid = checkerboard(shape, block, size // 2, gap=0)
        assert train.any()
        assert valid.any()
        assert not (seen(np.argwhere(train), size, shape) & seen(np.argwhere(valid), size, shape)).any()


def test_the_gap_is_as_wide_as_it_says() -> None:
    train, valid = checkerboard((40, 40), 10, radius=0, gap=2)
    # Two pixels left out on both sides of an edge: centres are five apart at least.
    distance = np.abs(np.argwhere(train)[:, None] - np.argwhere(valid)[None]).max(axis=2)
    assert distance.min() == 5


def test_without_neighbourhood_and_gap_every_pixel_is_on_one_side() -> None:
    train, valid = checkerboard((25, 31), 6, 0, 0)
    assert (train ^ valid).all()


@pytest.mark.parametrize(("shape", "block", "radius"), [((20, 20), 6, 3), ((20, 5), 10, 1)])
def test_blocks_that_leave_nothing_are_refused(shape: tuple[int, int], block: int, radius: int) -> None:
    with pytest.raises(DataError):
        checkerboard(shape, block, radius, 0)


def test_indian_pines_shares_no_pixel_and_is_as_large_as_the_readme_says() -> None:
    pytest.importorskip("tensorly")
    sets = [IndianPines(split=split, patch_size=3) for split in ("train", "valid")]
    assert [len(one) for one in sets] == [3258, 3307]
    assert [set(range(16)) - set(data.labels.tolist()) for data in sets] == [set(), {sets[0].names.index("oats")}]
    one, two = (seen(data.places, 3, (145, 145)) for data in sets)
    assert not (one & two).any()


def test_random_splits_take_a_share_of_every_class() -> None:
    labels = np.repeat([0, 1, 2, 3], [10, 100, 50, 1]).reshape(7, 23)
    train, valid = at_random(labels, 0.1, seed=0)
    assert np.bincount(labels[train]).tolist() == [0, 10, 5, 1]
    assert np.bincount(labels[valid], minlength=4).tolist() == [0, 90, 45, 0]
    again, _ = at_random(labels, 0.1, seed=0)
    other, _ = at_random(labels, 0.1, seed=1)
    assert (train == again).all()
    assert (train != other).any()


def test_few_per_class() -> None:
    labels = np.repeat([1, 2], [8, 2])
    places = np.stack([np.arange(10), np.arange(10)], axis=1)
    kept = few(places, labels, 3, seed=0)
    assert np.bincount(labels[kept[:, 0]]).tolist() == [0, 3, 2]
    assert (np.diff(kept[:, 0]) > 0).all()
