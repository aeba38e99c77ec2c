"""Infrared spectra that need no download: meat out of the package sktime, coffee out of chemotools.

Source: Borggaard and Thodberg 1992 (Analytical Chemistry 64, 545) for Tecator; chemotools for coffee.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from jaxtyping import Float64
from pydantic import Field

from metaformer.base import Dataset
from metaformer.errors import DataError
from metaformer.files.package import package_data
from metaformer.files.ts import read_ts
from metaformer.types import Sample

COFFEE_POINTS = 1841


class TecatorDataset(Dataset):
    """How much fat is in the meat? {`stream`: float64 [100] near-infrared absorbances, `target`: per cent of fat}.

    Data: 215 samples of chopped meat, 850 to 1050 nm in 100 places (`axis: [850, 1050]`), fat by chemical analysis, 0.9
    to 49.1 per cent; out of the package sktime (BSD-3-Clause; it is not imported). Made by Tecator and the Danish Meat
    Research Institute, given out by StatLib for any use with its notice kept; cite Borggaard and Thodberg 1992.
    Split: sktime's own files; but eight of its 43 validation spectra are in its training file as well, bit by bit, and
    are left out of training: 164 to train, 43 to validate. Scores on the files as they are would be too good. Whether
    other spectra are of one piece of meat is not known. Moisture and protein of the original are not in them.
    """

    def __init__(self, *, split: Literal["train", "valid"], stream: str = "spectrum", target: str = "fat") -> None:
        folder = folder_of("sktime", "datasets/data/Tecator", "Tecator_TRAIN.ts")
        found = read_ts(folder / "Tecator_TEST.ts")
        if split == "train":
            held, found = {series.tobytes() for series in found.series}, read_ts(folder / "Tecator_TRAIN.ts")
        else:
            held = set()
        pairs = zip(found.series, found.labels or (), strict=True)
        own = [(i, s[:, 0], float(label)) for i, (s, label) in enumerate(pairs) if s.tobytes() not in held]
        self.rows, self.spectra, self.labels = ([each[i] for each in own] for i in range(3))
        self.split, self.stream, self.target = split, stream, target

    def __len__(self) -> int:
        return len(self.spectra)

    def __getitem__(self, index: int) -> Sample:
        return {self.stream: self.spectra[index], self.target: self.labels[index]}

    def sample_id(self, index: int) -> str:
        """Row of the package's file."""
        return f"{self.split}-{self.rows[index]}"

    def fingerprint(self) -> str:
        return f"tecator:{_sha256(np.stack(self.spectra), np.array(self.labels))}"


class CoffeeDataset(Dataset):
    """Where does the coffee come from? {`stream`: float64 [1841] absorbances, `target`: the country}.

    Data: 60 mid-infrared spectra (attenuated total reflectance), 20 of each origin, out of the package chemotools (MIT;
    it is not imported), which names no paper for them; its file has no wavenumbers, so the axis is a count.
    Split: of each origin `valid_share`, drawn by `seed`. With 60 spectra, a mistake more is a change by several points;
    whether spectra of one bag are on both sides is not known.
    """

    def __init__(
        self,
        *,
        split: Literal["train", "valid"],
        valid_share: Annotated[float, Field(gt=0, lt=1)] = 0.3,
        seed: Annotated[int, Field(ge=0)] = 0,
        stream: str = "spectrum",
        target: str = "origin",
    ) -> None:
        folder = folder_of("chemotools", "datasets/data", "coffee_spectra.csv")
        # The first line counts the columns.
        every: Float64[np.ndarray, "N P"] = np.loadtxt(
            folder / "coffee_spectra.csv", delimiter=",", skiprows=1, ndmin=2
        )
        names = (folder / "coffee_labels.csv").read_text(encoding="utf-8").split()[1:]
        if every.shape != (len(names), COFFEE_POINTS):
            raise DataError(
                f"coffee spectra of {COFFEE_POINTS} points in {folder}", f"{every.shape}, {len(names)} names"
            )
        draw = np.random.default_rng(seed)
        own: list[int] = []
        for name in sorted(set(names)):
            members = draw.permutation([i for i, other in enumerate(names) if other == name])
            held = max(1, round(len(members) * valid_share))
            own += (members[:held] if split == "valid" else members[held:]).tolist()
        self.index = sorted(own)
        self.spectra = every[self.index]
        self.labels = [names[i] for i in self.index]
        self.stream, self.target = stream, target
        self.classes = {target: tuple(sorted(set(names)))}

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, index: int) -> Sample:
        return {self.stream: self.spectra[index], self.target: self.labels[index]}

    def sample_id(self, index: int) -> str:
        """Row of the package's file."""
        return f"coffee-{self.index[index]}"

    def fingerprint(self) -> str:
        return f"coffee_spectra:{_sha256(self.spectra, np.array(self.index))}"


def folder_of(package: str, below: str, file: str) -> Path:
    """A folder with data inside an installed package, which is not imported."""
    what = f"spectra out of the {package} package"
    do = "pip install 'metaformer-plugin-infrared[samples]'"
    return package_data(package, below, what, do, [file])


def _sha256(*arrays: np.ndarray) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.shape} {array.dtype}".encode() + np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
