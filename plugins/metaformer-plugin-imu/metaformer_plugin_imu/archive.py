"""Small sets of recorded motion that ship inside the aeon package.

Source: UCR (arXiv 1810.07758) and UEA (arXiv 1811.00075) archives, as shipped by aeon (BSD-3-Clause), which is not
imported. The archives ask to be cited; terms beyond that are those of each set's makers.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Literal

from metaformer.base import Dataset
from metaformer.files.package import package_data
from metaformer.files.ts import read_ts
from metaformer.types import Sample

Part = Literal["train", "valid"]
GESTURES = (
    *("pick-up", "shake", "one move to the right", "one move to the left", "one move up", "one move down"),
    *("one left circle", "one right circle", "one move toward the screen", "one move away from the screen"),
)
"""Classes 1 to 10 of the gestures, as the file describes them."""


class ArchiveMotions(Dataset):
    """{`stream`: a recording, `target`: class name}, out of one .ts file."""

    def __init__(self, path: Path, stream: str, target: str, rate: float | None, names: tuple[str, ...]) -> None:
        """`names`: of the classes, in the header's order; none means those of the header."""
        found = read_ts(path)
        self.path, self.stream, self.target, self.rate = path, stream, target, rate
        self.series = found.series
        renamed = dict(zip(found.header.classes, names or found.header.classes, strict=True))
        self.labels = [renamed[str(label)] for label in found.labels or ()]
        self.classes = {target: tuple(renamed.values())}
        self.digest = hashlib.sha256(path.read_bytes()).hexdigest()

    def __len__(self) -> int:
        return len(self.series)

    def __getitem__(self, index: int) -> Sample:
        series = self.series[index]
        value: Any = series if self.rate is None else {"values": series, "rate": self.rate}
        return {self.stream: value, self.target: self.labels[index]}

    def sample_id(self, index: int) -> str:
        return f"{self.path.name}:{index}"

    def fingerprint(self) -> str:
        return f"{self.path.name}:{self.digest}"


class BasicMotions(ArchiveMotions):
    """Standing, running, walking and badminton, recorded by four students with a smart watch: accelerometer and
    gyroscope, 6 channels at 10 Hz for 10 seconds; 40 recordings for training and 40 for validation, the archive's own
    TRAIN and TEST. Units are not documented. The same four people are in both halves: it says nothing about others,
    and one recording is 2.5 points of accuracy.
    """

    def __init__(self, *, split: Part, stream: str = "motion", target: str = "label") -> None:
        super().__init__(_file("BasicMotions", split), stream, target, rate=10.0, names=())


class PickupGesture(ArchiveMotions):
    """Ten gestures with a Nintendo Wiimote, one axis (z) of its accelerometer, 29 to 361 steps at a rate that is not
    documented; 50 recordings for training and 50 for validation, the archive's own TRAIN and TEST. The same ten people
    are in both halves, and five recordings of a gesture are few.
    """

    def __init__(self, *, split: Part, stream: str = "motion", target: str = "label") -> None:
        super().__init__(_file("PickupGestureWiimoteZ", split), stream, target, rate=None, names=GESTURES)


def _file(name: str, split: Part) -> Path:
    """Where the package keeps a set; found without importing it, which takes seconds."""
    inside = f"datasets/data/{name}/{name}_{'TRAIN' if split == 'train' else 'TEST'}.ts"
    return package_data(
        "aeon", inside, f"{name} out of the aeon package", "pip install 'metaformer-plugin-imu[samples]'"
    )
