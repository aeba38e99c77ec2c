"""The bundled sets: what is in them, that they are split cleanly, and that they never change unseen."""

from __future__ import annotations

import pickle
import sys

import numpy as np
import pytest
from metaformer_plugin_image.datasets import DigitsDataset, PhotoCropsDataset
from PIL import Image

from metaformer.errors import DataError

pytest.importorskip("sklearn", reason='pip install "metaformer-plugin-image[samples]"')


def test_digits_are_scikit_learns_split_in_two():
    from sklearn.datasets import load_digits

    train, valid = DigitsDataset(split="train"), DigitsDataset(split="valid")
    assert (len(train), len(valid)) == (1438, 359)
    assert sorted([*train.index, *valid.index]) == list(range(1797))
    raw = load_digits()
    for part in (train, valid):
        shares = np.bincount(part.labels) / np.bincount(raw.target)
        assert np.ptp(shares) < 0.01  # stratified
        for index in (0, len(part) - 1):
            sample, source = part[index], part.index[index]
            assert sample["label"] == str(raw.target[source])
            assert sample["image"].dtype == np.uint8
            np.testing.assert_allclose(sample["image"] * (16 / 255), raw.images[source], atol=0.04)
            assert part.sample_id(index) == f"digits-{source:04d}"
    assert train.classes == {"label": [str(digit) for digit in range(10)]}


def test_fingerprints_tell_data_apart_and_stay():
    train = DigitsDataset(split="train")
    assert train.fingerprint() == DigitsDataset(split="train", stream="x").fingerprint()
    assert train.fingerprint() != DigitsDataset(split="valid").fingerprint()
    crops = PhotoCropsDataset(split="train")
    assert crops.fingerprint() == pickle.loads(pickle.dumps(crops)).fingerprint()
    assert crops.fingerprint() != PhotoCropsDataset(split="train", seed=1).fingerprint()


def test_keys_follow_the_knobs():
    assert set(DigitsDataset(split="valid", stream="a", target="b")[0]) == {"a", "b"}
    assert set(PhotoCropsDataset(split="valid", stream="a", target="b")[0]) == {"a", "b"}


def test_crops_depend_on_their_index_alone_and_turn_as_said():
    data = PhotoCropsDataset(split="train", size=10, samples=64)
    np.random.seed(3)  # global state must not matter
    backwards = [data[index] for index in reversed(range(64))][::-1]
    for index, sample in enumerate(backwards):
        again = data[index]
        np.testing.assert_array_equal(sample["image"], again["image"])
        assert sample["image"].shape == (10, 10)
        turns = int(sample["rotation"]) // 90
        np.testing.assert_array_equal(np.rot90(sample["image"], -turns), data.crop(index // 4))
    assert [sample["rotation"] for sample in backwards[:4]] == ["0", "90", "180", "270"]
    with pytest.raises(IndexError):
        data[64]


def test_train_and_valid_show_different_parts_of_the_photographs():
    train, valid = PhotoCropsDataset(split="train"), PhotoCropsDataset(split="valid")
    from sklearn.datasets import load_sample_images

    for number, photo in enumerate(load_sample_images().images):
        left, right = train.photos[2 * number : 2 * number + 2]
        whole = np.concatenate([left, valid.photos[number], right], axis=1)
        np.testing.assert_array_equal(whole, Image.fromarray(photo).convert("L"))
    assert not np.array_equal(train.crop(0), valid.crop(0))


def test_most_crops_have_something_to_see():
    for split in ("train", "valid"):
        data = PhotoCropsDataset(split=split)
        assert np.mean([data.crop(number).std() > 6 for number in range(200)]) > 0.9


def test_impossible_crops():
    with pytest.raises(DataError, match="160 pixels across"):
        PhotoCropsDataset(split="valid", size=50)
    with pytest.raises(DataError, match="zoom"):
        PhotoCropsDataset(split="valid", zoom=(2.0, 1.0))


def test_missing_scikit_learn_names_the_line_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    for dataset in (DigitsDataset, PhotoCropsDataset):
        with pytest.raises(DataError, match=r'pip install "metaformer-plugin-image\[samples\]"'):
            dataset(split="train")
