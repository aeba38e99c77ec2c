"""The cases of this plugin, which `metaformer plugins check` and the tests run."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from metaformer.testing import Check, dataset_checks, tokenizer_checks

RNG = np.random.default_rng(0)
MOTIONS = [RNG.normal(3, 2, (length, 6)) for length in (1, 9, 40, 24)]
MOTIONS[2][4:6, 0] = np.nan
NO_MOTIONS = [np.zeros((4, 5)), np.full((4, 6), np.nan), np.full((3, 6), 1e31), np.zeros((0, 6)), 5, "no path", {}]
MOVED = {"max_length": 40, "patch_length": 4, "rotate": 30, "jitter": 0.1, "scale": 0.1, "crop": 0.5}

TIMED: list[dict[str, Any]] = [
    {"values": MOTIONS[2], "rate": 20.0},
    {"values": MOTIONS[3], "timestamps": np.r_[np.arange(12), 30 + np.arange(12)] / 20},
    {"values": MOTIONS[1], "rate": 50},
]
NO_TIMED: list[Any] = [MOTIONS[2], {"values": MOTIONS[2]}, {"values": MOTIONS[2], "rate": -1}, {"values": 3, "rate": 1}]
NO_TIMED += [{"values": MOTIONS[1], "timestamps": [0, 1]}, {"values": MOTIONS[0], "timestamps": [np.inf]}]
NO_TIMED += [{"values": MOTIONS[1], "timestamps": np.arange(9) * 1e12}, {"values": MOTIONS[1], "hz": 3}]
IMAGEBIND = {"max_length": 60, "stem": "imagebind", "rate": 25, "gravity_window": 0.4}


def uci_har(root: Path, count: int = 6) -> Mapping[str, Any]:
    """The UCI HAR Dataset folder, with `count` windows of two people in each part."""
    draw = np.random.default_rng(0)
    (root / "activity_labels.txt").write_text("1 WALKING\n2 SITTING\n3 STANDING\n")
    for part, people in (("train", (1, 3)), ("test", (2, 4))):
        (root / part / "Inertial Signals").mkdir(parents=True)
        (root / part / f"y_{part}.txt").write_text("".join(f"{1 + i % 3}\n" for i in range(count)))
        (root / part / f"subject_{part}.txt").write_text("".join(f"{people[i % 2]}\n" for i in range(count)))
        for signal in ("total_acc", "body_acc", "body_gyro"):
            for axis in "xyz":
                lines = [" ".join(f" {x: .7e}" for x in row) for row in draw.normal(size=(count, 128))]
                (root / part / "Inertial Signals" / f"{signal}_{axis}_{part}.txt").write_text("\n".join(lines) + "\n")
    return {"root": root}


def imu_clips(root: Path) -> Mapping[str, Any]:
    """Two recordings of twenty seconds, and clips of them."""
    header = ("time", *(f"{sensor}_{axis}" for sensor in ("acc", "gyro") for axis in "xyz"))
    _record(root, "recording", header, second=1.0)
    return {"root": root, "clips": root / "clips.csv"}


def ego4d_imu(root: Path) -> Mapping[str, Any]:
    """Two videos as Ego4D's downloader leaves their IMU files, and clips of them."""
    header = (
        *("component_idx", "component_timestamp_ms", "canonical_timestamp_ms"),
        *(f"{sensor}_{axis}" for sensor in ("gyro", "accl") for axis in "xyz"),
    )
    (root / "imu").mkdir()
    _record(root / "imu", "video_uid", header, second=1000.0)
    (root / "imu" / "clips.csv").rename(root / "clips.csv")
    return {"root": root, "clips": root / "clips.csv"}


def _record(folder: Path, key: str, header: tuple[str, ...], second: float) -> None:
    """Tables of 25 Hz whose columns before the last six are times, and a list of clips of them."""
    draw, clips = np.random.default_rng(0), [f"{key},start,end,label"]
    times = np.arange(500) / 25 * second
    for number, label in enumerate(("rest", "move")):
        rows = np.concatenate([np.tile(times[:, None], len(header) - 6), draw.normal(size=(500, 6))], axis=1)
        np.savetxt(folder / f"walk-{number}.csv", rows, delimiter=",", header=",".join(header), comments="", fmt="%.4f")
        clips += [f"walk-{number},{start},{start + 5},{label}" for start in (0, 7.5, 15)]
    (folder / "clips.csv").write_text("\n".join(clips) + "\n")


def checks() -> Iterator[Check]:
    """The tokenizer, the published layouts, and the bundled sets where aeon is there."""
    yield from tokenizer_checks(("imu", MOVED), MOTIONS, bad=NO_MOTIONS)
    yield from tokenizer_checks(("imu", IMAGEBIND), TIMED, bad=NO_TIMED)
    yield from dataset_checks(("uci_har", {"split": "train"}), limit=4, files=uci_har)
    yield from dataset_checks(("imu_clips", {"split": "all"}), limit=4, files=imu_clips)
    yield from dataset_checks(("ego4d_imu", {"split": "all"}), limit=4, files=ego4d_imu)
    if importlib.util.find_spec("aeon"):
        yield from dataset_checks(("basic_motions", {"split": "train"}), limit=4)
        yield from dataset_checks(("pickup_gesture", {"split": "valid"}), limit=4)
