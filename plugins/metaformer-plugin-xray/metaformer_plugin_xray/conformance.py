"""The cases of this plugin, which `metaformer plugins check` and the tests run."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from metaformer.testing import Check, dataset_checks, tokenizer_checks
from metaformer_plugin_xray.chests import CHEXPERT_FINDINGS

RNG = np.random.default_rng(0)
PICTURES = [
    RNG.integers(0, 256, (16, 16), dtype=np.uint8),
    RNG.integers(0, 4096, (20, 31), dtype=np.uint16),
    RNG.random((40, 17), dtype=np.float32),
]
BAD = [np.zeros((0, 4)), np.full((4, 4), np.nan), b"\x89PNG", b"\0" * 128 + b"DICM", 5, None]
MOVED = {
    "image_size": 16,
    "patch_size": 8,
    "rotate": 10,
    "shift": 0.1,
    "zoom": (0.9, 1.1),
    "hflip": 0.5,
}
GRAY = {
    "image_size": (16, 24),
    "patch_size": 4,
    "channels": 1,
    "class_token": False,
    "positions": "sinusoidal",
    "normalize": "torchxrayvision",
    "window": (0.5, 1.0),
    "resize": "exact",
}


def picture(path: Path, level: int) -> None:
    """A gray picture, the same everywhere."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((20, 24), level, dtype=np.uint8)).save(path)


def tb_chest(root: Path, count: int = 10) -> Mapping[str, Any]:
    """The TB Chest Radiography Database, `count` pictures of each class."""
    for label in ("Normal", "Tuberculosis"):
        for index in range(count):
            picture(root / label / f"{label}-{index + 1}.png", 40 + 10 * index)
    (root / "Normal.metadata.xlsx").write_bytes(b"not needed")
    return {"root": root}


def chestxray14(root: Path) -> Mapping[str, Any]:
    """ChestX-ray14: twelve patients with two pictures each, in several folders, as its archives unpack."""
    rows = ["Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age"]
    lists: dict[str, list[str]] = {"train_val": [], "test": []}
    found = ["No Finding", "Effusion|Mass", "Hernia"]
    for patient in range(1, 13):
        for visit in range(2):
            name = f"{patient:08d}_{visit:03d}.png"
            rows.append(f"{name},{found[(patient + visit) % 3]},{visit},{patient},50")
            lists["test" if patient > 10 else "train_val"].append(name)
            folder = root / f"images_{1 + patient % 2:03d}" / "images" if patient % 3 else root / "images"
            picture(folder / name, patient)
    (root / "Data_Entry_2017.csv").write_text("\n".join(rows) + "\n")
    for name, names in lists.items():
        (root / f"{name}_list.txt").write_text("\n".join(names))
    return {"root": root}


def chexpert(
    root: Path, path: str = "CheXpert-v1.0-small/train/patient00001/study1/view1_frontal.jpg"
) -> Mapping[str, Any]:
    """The table of CheXpert with one study; the data set opens no picture."""
    root.mkdir(parents=True, exist_ok=True)
    header = ",".join(["Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *CHEXPERT_FINDINGS])
    values = ["1.0", "", "-1.0", "0.0", *[""] * 10]
    lines = [header, ",".join([path, "Male", "60", "Frontal", "AP", *values])]
    lines.append(",".join([path.replace("frontal", "lateral"), "Male", "60", "Lateral", "", *values]))
    (root / "train.csv").write_text("\n".join(lines) + "\n")
    return {"root": root}


def checks() -> Iterator[Check]:
    """The tokenizer, the published layouts, and the bundled slices where their codec is there."""
    yield from tokenizer_checks(("xray", MOVED), PICTURES, bad=BAD)
    yield from tokenizer_checks(("xray", GRAY), PICTURES, bad=BAD)
    yield from dataset_checks(("tb_chest", {"split": "train"}), limit=4, files=tb_chest)
    yield from dataset_checks(("chestxray14", {"split": "train"}), limit=4, files=chestxray14)
    yield from dataset_checks(("chexpert", {"split": "train"}), limit=4, files=chexpert)
    if importlib.util.find_spec("openjpeg"):
        slices = {"split": "valid", "samples": 40, "hole": "random"}
        yield from dataset_checks(("ct_patches", slices), limit=4)
