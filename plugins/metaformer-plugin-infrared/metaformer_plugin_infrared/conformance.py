"""The cases of this plugin, which `metaformer plugins check` and the tests run."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from metaformer.testing import Check, dataset_checks, tokenizer_checks

RNG = np.random.default_rng(0)
PICTURES = [
    RNG.integers(0, 256, (16, 16), dtype=np.uint8),
    RNG.integers(27000, 32000, (20, 31), dtype=np.uint16),
    RNG.random((40, 17), dtype=np.float32),
]
NO_PICTURES = [np.zeros((0, 4)), np.full((4, 4), np.nan), b"\x89PNG", "no path", 5, None]
FIXED = {
    "image_size": (16, 24),
    "patch_size": 4,
    "channels": 1,
    "class_token": False,
    "resize": "crop",
    "scale": "centikelvin",
    "normalize": "fixed",
    "range": (0.0, 50.0),
    "positions": "sinusoidal",
}

SPECTRA = [RNG.normal(2, 0.5, 30) for _ in range(4)]
SPECTRA[1][3:17] = np.nan
NO_SPECTRA = [np.zeros(7), np.zeros(0), np.full(30, np.nan), np.full(30, np.inf), ["x"] * 30, {"axis": [1]}, 5, None]
AXES = [{"axis": RNG.permutation(400) + 800.0, "values": RNG.random(400)}, *SPECTRA[:2]]
AXIS = {
    "points": 30,
    "axis": (850.0, 1050.0),
    "window": 5,
    "derivative": 1,
    "scaling": "none",
    "patch_length": 6,
    "stride": 3,
    "positions": "sinusoidal",
    "class_token": False,
}


def regdb(root: Path, persons: int = 3, pictures: int = 4) -> Mapping[str, Any]:
    """RegDB with the lists of one trial; the data set opens no picture."""
    (root / "idx").mkdir(parents=True)
    for part, first in (("train", 0), ("test", persons)):
        for camera in ("visible", "thermal"):
            lines = []
            for person in range(persons):
                folder = f"{camera.capitalize()}/{first + person + 1}"
                (root / folder).mkdir(parents=True)
                for index in range(pictures):
                    name = f"{folder}/back_{camera[0]}_{index:05d}.bmp"
                    (root / name).write_bytes(b"BM")
                    lines.append(f"{name} {person}")
            (root / "idx" / f"{part}_{camera}_1.txt").write_text("\n".join(lines) + "\n")
    return {"root": root}


def checks() -> Iterator[Check]:
    """The tokenizers, RegDB, and the bundled sets whose packages are there."""
    light = {"image_size": 16, "patch_size": 8, "augment": "light"}
    yield from tokenizer_checks(("infrared", light), PICTURES, bad=NO_PICTURES)
    yield from tokenizer_checks(("infrared", FIXED), PICTURES, bad=NO_PICTURES)
    yield from tokenizer_checks(("spectrum", {"points": 30, "patch_length": 8}), SPECTRA, bad=NO_SPECTRA)
    yield from tokenizer_checks(("spectrum", AXIS), AXES, bad=NO_SPECTRA)
    yield from dataset_checks(("regdb", {"split": "train"}), limit=4, files=regdb)
    if importlib.util.find_spec("sktime"):
        yield from dataset_checks(("tecator", {"split": "valid"}), limit=4)
    if importlib.util.find_spec("chemotools"):
        yield from dataset_checks(("coffee_spectra", {"split": "valid"}), limit=4)
    if importlib.util.find_spec("tensorly"):
        yield from dataset_checks(("nir_fields", {"split": "valid", "stride": 3}), limit=4)
