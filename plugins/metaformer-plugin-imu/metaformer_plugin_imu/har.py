"""Human activity recognition with smartphones, in the layout of the UCI repository.

Source: D. Anguita and others, A Public Domain Dataset for Human Activity Recognition Using Smartphones, ESANN 2013.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float32, Int64

from metaformer.base import Dataset
from metaformer.errors import DataError
from metaformer.types import Sample

Signal = Literal["total_acc", "body_acc", "body_gyro"]
STEPS, RATE = 128, 50.0
LARGEST = 1 << 28
"""Bytes of one text file; those of the set have at most 15 million."""
WHERE = "unpack 'UCI HAR Dataset.zip' of the UCI repository: FOLDER/{train,test}/Inertial Signals/*.txt, y_*.txt"


class UciHar(Dataset):
    """{`stream`: {values [128, 3 per signal], rate: 50}, `target`: activity}.

    `root` is the folder `UCI HAR Dataset`. Signals: `total_acc` in g, `body_acc` (the same without gravity) in g,
    `body_gyro` in rad/s. `train` and `valid` are the official train and test parts (7352 and 2947 windows of 2.56
    seconds, which overlap by half within a part), of 21 and 9 other people; that nobody is in both is checked.
    Files are read when the first sample is.
    """

    def __init__(
        self,
        *,
        root: Path,
        split: Literal["train", "valid"],
        signals: tuple[Signal, ...] = ("total_acc", "body_gyro"),
        stream: str = "motion",
        target: str = "label",
    ) -> None:
        self.part = "train" if split == "train" else "test"
        self.folder, self.signals, self.stream, self.target = root, signals, stream, target
        if not signals or len(set(signals)) < len(signals):
            raise DataError("signals of the UCI HAR set", f"{list(signals)}", "name each once")
        if not (root / self.part).is_dir():
            raise DataError(f"the UCI HAR set in {root}", f"no folder {self.part}", WHERE)
        names = [line.split() for line in _text(root / "activity_labels.txt").splitlines() if line.strip()]
        self.classes = {target: tuple(line[-1].lower() for line in names)}
        self.labels: Int64[np.ndarray, " N"] = self._column("y") - 1
        if not len(self.labels) or not (0 <= self.labels.min() <= self.labels.max() < len(names)):
            raise DataError(f"activities 1 to {len(names)} in {root}", "others", WHERE)
        self.people: Int64[np.ndarray, " N"] = self._column("subject")
        others = set(_whole(root / ("test" if split == "train" else "train"), "subject").tolist())
        shared = sorted(set(self.people.tolist()) & others)
        if len(self.people) != len(self.labels) or shared:
            found = f"people {shared} in both" if shared else f"{len(self.people)} and {len(self.labels)} lines"
            raise DataError(f"people of training and test apart, one per window, in {root}", found, WHERE)
        self._values: Float32[np.ndarray, "N L C"] | None = None

    def _column(self, name: str) -> Int64[np.ndarray, " N"]:
        return _whole(self.folder / self.part, name)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Sample:
        if self._values is None:
            files = self._files()
            self._values = np.stack([_windows(path, len(self)) for path in files], axis=2)
        value = {"values": self._values[index], "rate": RATE}
        return {self.stream: value, self.target: self.classes[self.target][self.labels[index]]}

    def _files(self) -> list[Path]:
        folder = self.folder / self.part / "Inertial Signals"
        return [folder / f"{signal}_{axis}_{self.part}.txt" for signal in self.signals for axis in "xyz"]

    def sample_id(self, index: int) -> str:
        return f"{self.part}:{index}:person{self.people[index]}"

    def fingerprint(self) -> str:
        digest = hashlib.sha256(self.labels.tobytes() + self.people.tobytes())
        for path in self._files():
            digest.update(_text(path).encode())
        return f"uci_har:{self.part}:{digest.hexdigest()}"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_values": None}


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > LARGEST:
            raise ValueError(f"{path.stat().st_size} bytes")
        return path.read_text(encoding="ascii")
    except (OSError, ValueError) as error:
        raise DataError(f"file {path} of the UCI HAR set", f"{error}"[:200], WHERE) from error


def _whole(folder: Path, name: str) -> Int64[np.ndarray, " N"]:
    path = folder / f"{name}_{folder.name}.txt"
    try:
        return np.array(_text(path).split(), dtype=np.int64)
    except (ValueError, OverflowError) as error:
        raise DataError(f"a whole number per line of {path}", f"{error}"[:200], WHERE) from error


def _windows(path: Path, count: int) -> Float32[np.ndarray, "N L"]:
    cells = _text(path).split()
    try:
        if len(cells) != count * STEPS:
            raise ValueError(f"{len(cells)} numbers")
        return np.array(cells, dtype=np.float32).reshape(count, STEPS)
    except ValueError as error:
        raise DataError(f"{count} lines of {STEPS} numbers in {path}", f"{error}"[:200], WHERE) from error
