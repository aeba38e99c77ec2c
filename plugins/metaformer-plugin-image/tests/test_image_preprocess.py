"""From a picture to pixels: timm's numbers, the right part of the picture, the same under the same seeds."""

from __future__ import annotations

import pickle
import random

import numpy as np
import pytest
import torch
from metaformer_plugin_image.tokenizer import ImageTokenizer
from PIL import Image

from metaformer.arrays.raster import crop_box

NOISE = np.random.default_rng(0).integers(0, 256, (90, 131, 3), dtype=np.uint8)
AUGMENTS = [{"augment": "none"}, {"augment": "light"}, {"augment": "timm", "erase": 0.9}]


def preprocess(size=32, **knobs):
    return ImageTokenizer(8, image_size=size, patch_size=8, **knobs).preprocess


def seed(value: int) -> None:
    random.seed(value)
    np.random.seed(value)
    torch.manual_seed(value)


@pytest.mark.parametrize("knobs", AUGMENTS)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("train", [False, True])
def test_shape_and_type(knobs, channels, train):
    make = preprocess((16, 24), channels=channels, **knobs)
    for picture in (NOISE, NOISE[..., 0], NOISE[:1], NOISE[:, :1], NOISE[:1, :1]):
        pixels = make(picture, train)["pixels"]
        assert pixels.shape == (channels, 16, 24)
        assert pixels.dtype == torch.uint8
    assert make.blank()["pixels"].shape == (channels, 16, 24)
    assert make.blank()["pixels"].dtype == torch.uint8


@pytest.mark.parametrize("knobs", AUGMENTS)
def test_same_seeds_same_pixels_also_after_pickling(knobs):
    make = preprocess(**knobs)
    make(NOISE, True)  # so that what is built lazily exists
    copy = pickle.loads(pickle.dumps(make))
    results = []
    for value, one in ((1, make), (1, make), (1, copy), (2, make)):
        seed(value)
        results.append(one(NOISE, True)["pixels"])
    assert results[0].equal(results[1])
    assert results[0].equal(results[2])
    assert results[0].equal(results[3]) == (knobs["augment"] == "none")
    assert make(NOISE, False)["pixels"].equal(copy(NOISE, False)["pixels"])


@pytest.mark.parametrize("shape", [(90, 131), (131, 90), (32, 32), (17, 400)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("crop_pct", [0.875, 1.0])
def test_evaluation_matches_timm_within_one_gray_level(shape, interpolation, crop_pct):
    from timm.data import create_transform

    picture = np.random.default_rng(1).integers(0, 256, (*shape, 3), dtype=np.uint8)
    ours = preprocess(interpolation=interpolation, crop_pct=crop_pct)(picture, False)["pixels"]
    theirs = create_transform(32, interpolation=interpolation, crop_pct=crop_pct, normalize=False)
    difference = ours.int() - theirs(Image.fromarray(picture)).int()
    assert difference.abs().max() <= 1
    assert difference.ne(0).float().mean() < 0.15


def test_exact_keeps_everything_and_small_pictures_untouched():
    small = NOISE[:8, :8]
    untouched = preprocess(8, resize="exact")(small, False)["pixels"]
    np.testing.assert_array_equal(untouched.permute(1, 2, 0).numpy(), small)
    marked = np.zeros((40, 80, 3), np.uint8)
    marked[:, :10] = 255
    assert preprocess(8, resize="exact")(marked, False)["pixels"][0, 0, 0] > 200
    assert preprocess(8)(marked, False)["pixels"].max() == 0  # the centre crop loses the margin


def test_a_huge_aspect_ratio_costs_no_memory():
    thin = np.zeros((1, 200_000), np.uint8)  # resizing it whole would take 9 GB
    assert preprocess(224)(thin, False)["pixels"].shape == (3, 224, 224)


def test_gray_and_color_agree():
    gray = preprocess(channels=1)(NOISE[..., 0], False)["pixels"]
    color = preprocess()(NOISE[..., 0], False)["pixels"]
    assert color.equal(gray.expand(3, -1, -1))


def test_crop_box_keeps_its_promises():
    random.seed(0)
    for _ in range(300):
        left, top, right, bottom = crop_box(200, 120, (0.2, 0.5), (0.5, 2.0))
        width, height = right - left, bottom - top
        assert 0 <= left < right <= 200
        assert 0 <= top < bottom <= 120
        assert 0.19 < width * height / (200 * 120) < 0.51
        assert 0.48 < width / height < 2.08
    left, top, right, bottom = crop_box(1000, 10, (0.5, 1.0), (0.75, 4 / 3))  # nothing fits: central fallback
    assert (top, bottom) == (0, 10)
    assert abs(left + right - 1000) <= 1
    assert right - left == 13


def test_flips_follow_their_probabilities():
    mark = np.zeros((8, 8), np.uint8)
    mark[0, 0] = 255
    knobs = {"augment": "light", "channels": 1, "crop_scale": (1.0, 1.0), "crop_ratio": (1.0, 1.0)}
    both = preprocess(8, hflip=1.0, vflip=1.0, **knobs)(mark, True)["pixels"]
    none = preprocess(8, hflip=0.0, vflip=0.0, **knobs)(mark, True)["pixels"]
    assert both.equal(none.flip(1, 2))
    assert none[0, 0, 0] == 255


def test_random_augment_changes_colors_and_erasing_fills_with_the_mean():
    flat = np.full((40, 40, 3), 200, np.uint8)
    still = {"augment": "timm", "hflip": 0.0, "color_jitter": 0.0, "auto_augment": None}
    assert preprocess(**still)(flat, True)["pixels"].eq(200).all()
    seed(0)
    erased = preprocess(**still, erase=1.0, erase_fill="mean", normalize="inception")(flat, True)["pixels"]
    assert set(erased.unique().tolist()) == {128, 200}
    seed(0)
    noisy = preprocess(**still, erase=1.0)(flat, True)["pixels"]
    assert noisy.ne(200).any()
    assert len(noisy.unique()) > 50
    seed(0)
    augmented = preprocess(augment="timm")(flat, True)["pixels"]
    assert augmented.ne(200).any()
