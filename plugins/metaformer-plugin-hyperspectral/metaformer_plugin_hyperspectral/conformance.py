"""The cases of this plugin, which `metaformer plugins check` and the tests run."""

from __future__ import annotations

import importlib.util
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from metaformer.testing import Check, dataset_checks, tokenizer_checks

RNG = np.random.default_rng(0)
PATCHES = [RNG.normal(2000, 500, (3, 3, 8)) for _ in range(4)]
PATCHES[1][:, :, 2:6] = np.nan
PATCHES[2][0, 1, 3] = np.nan
NO_PATCHES = [np.zeros((3, 3, 7)), np.full((3, 3, 8), np.nan), np.full((3, 3, 8), np.inf), "no path", None, 5]
SPECTRA = [patch[0, 0] for patch in PATCHES]
NO_SPECTRA: list[Any] = [np.zeros(7), np.zeros(0), ["x"] * 8, np.zeros(8, dtype=complex)]
NEIGHBOURS = {
    "num_bands": 8,
    "patch_size": 3,
    "near_bands": 3,
    "band_stride": 2,
    "flips": True,
    "band_dropout": 0.5,
}
ALONE = {"num_bands": 8, "scaling": "standard", "positions": "sinusoidal", "class_token": False}
ROWS, COLUMNS, BANDS = 24, 20, 6


def scene(root: Path) -> Mapping[str, Any]:
    """A small cube of three classes."""
    draw = np.random.default_rng(0)
    labels = draw.integers(0, 4, (ROWS, COLUMNS))
    np.save(root / "labels.npy", labels)
    np.save(root / "cube.npy", (draw.normal(size=(ROWS, COLUMNS, BANDS)) + labels[:, :, None]).astype(np.float32))
    return {"cube": root / "cube.npy", "labels": root / "labels.npy"}


def official(root: Path) -> Mapping[str, Any]:
    """A small file of SpectralFormer's layout, half of its pixels for training; level 5, not compressed."""
    labels = np.arange(ROWS * COLUMNS).reshape(ROWS, COLUMNS) % 17
    train = np.where(np.arange(COLUMNS) % 2, labels, 0)
    arrays = {"input": np.random.default_rng(0).normal(size=(ROWS, COLUMNS, BANDS)), "TR": train, "TE": labels - train}
    header = b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack("<H", 0x0100) + b"IM"
    (root / "IndianPine.mat").write_bytes(header + b"".join(_matrix(*item) for item in arrays.items()))
    return {"path": root / "IndianPine.mat"}


def _matrix(name: str, array: np.ndarray) -> bytes:
    flags = _element(6, struct.pack("<II", 6, 0))  # an array of doubles
    sizes = _element(5, np.array(array.shape, "<i4").tobytes())
    return _element(14, flags + sizes + _element(1, name.encode()) + _element(9, array.astype("<f8").tobytes("F")))


def _element(kind: int, data: bytes) -> bytes:
    return struct.pack("<II", kind, len(data)) + data + bytes(-len(data) % 8)


def checks() -> Iterator[Check]:
    """The tokenizer, scenes in files, and the bundled one where tensorly is there."""
    yield from tokenizer_checks(("hyperspectral", NEIGHBOURS), PATCHES, bad=NO_PATCHES)
    yield from tokenizer_checks(("hyperspectral", ALONE), SPECTRA, bad=NO_SPECTRA)
    blocks = {"split": "train", "patch_size": 3, "block": 6}
    yield from dataset_checks(("hyperspectral_scene", blocks), limit=4, files=scene)
    yield from dataset_checks(("indian_pines_official", {"split": "valid"}), limit=4, files=official)
    if importlib.util.find_spec("tensorly"):
        yield from dataset_checks(("indian_pines", {"split": "train", "patch_size": 3}), limit=4)
