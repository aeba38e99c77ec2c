"""The cases of this plugin, which `metaformer plugins check` and the tests run."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

import numpy as np

from metaformer.testing import Check, dataset_checks, tokenizer_checks

RNG = np.random.default_rng(0)
PICTURES = [RNG.integers(0, 256, size, dtype=np.uint8) for size in [(16, 16, 3), (20, 31, 3), (40, 17)]]
BAD = ["no path", np.zeros((2, 2, 2, 2)), np.zeros((0, 4)), b"\x89PNG", 5]
KNOBS = (
    {"image_size": 16, "patch_size": 8},
    {"image_size": 16, "patch_size": 4, "channels": 1, "class_token": False, "positions": "sinusoidal"},
    {"image_size": 16, "patch_size": 8, "augment": "light"},
)
NETWORKS = (
    {"backbone": "test_efficientnet", "image_size": 64},
    {"backbone": "test_convnext", "image_size": (64, 96), "channels": 1, "resize": "exact", "augment": "light"},
)
"""Of timm's smallest: one with batch norms, one without; at 64 pixels their last map has more than one place."""


def checks() -> Iterator[Check]:
    """The tokenizers, and the data sets where scikit-learn is there."""
    for knobs in KNOBS:
        yield from tokenizer_checks(("image", knobs), PICTURES, bad=BAD)
    for knobs in NETWORKS:
        yield from tokenizer_checks(("convolutional", knobs), PICTURES, bad=BAD)
    if importlib.util.find_spec("sklearn"):
        yield from dataset_checks(("digits", {"split": "valid"}), limit=5)
        yield from dataset_checks(("photo_crops", {"split": "valid", "samples": 16}), limit=5)
