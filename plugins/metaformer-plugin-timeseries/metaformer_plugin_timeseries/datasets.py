"""Time series data sets: any `.ts` file, and the archive sets inside the aeon package.

Source: UCR archive (arXiv 1810.07758) and UEA archive (arXiv 1811.00075), as shipped by aeon (BSD-3-Clause).
The archives ask to be cited; terms beyond that are those of each set's makers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from metaformer.base import Dataset
from metaformer.errors import DataError
from metaformer.files.package import package_data
from metaformer.files.ts import read_ts
from metaformer.types import Sample

AEON: Mapping[str, str] = {
    "acsf1": "ACSF1",
    "arrow_head": "ArrowHead",
    "basic_motions": "BasicMotions",
    "cardano_sentiment": "CardanoSentiment",
    "covid_3month": "Covid3Month",
    "gun_point": "GunPoint",
    "italy_power_demand": "ItalyPowerDemand",
    "japanese_vowels": "JapaneseVowels",
    "osu_leaf": "OSULeaf",
    "pickup_gesture": "PickupGestureWiimoteZ",
}
"""Our name → the archive's."""


class TsDataset(Dataset):
    """{`stream`: float64 [length, channels], NaN where missing, `target`: class name or number}.

    `streams` cuts the channels into several streams of one sample, which may be compared with one another."""

    def __init__(
        self,
        *,
        path: Path,
        stream: str = "series",
        target: str = "label",
        streams: dict[str, tuple[Annotated[int, Field(ge=0)], ...]] = {},  # noqa: B006 - never changed
    ) -> None:
        found = read_ts(path)
        self.path, self.stream, self.target = path, stream, target
        self.streams = {name: list(channels) for name, channels in streams.items()}
        width = found.series[0].shape[1]
        beyond = [channel for channels in self.streams.values() for channel in channels if channel >= width]
        if beyond:
            raise DataError(f"{path.name}: channel {beyond[0]} of a stream", f"{width} channels", "count from 0")
        self.series, self.labels = found.series, found.labels
        if found.header.classes:
            self.classes = {target: found.header.classes}
        self.digest = hashlib.sha256(path.read_bytes()).hexdigest()

    def __len__(self) -> int:
        return len(self.series)

    def __getitem__(self, index: int) -> Sample:
        label = None if self.labels is None else self.labels[index]
        series = self.series[index]
        if self.streams:
            return {**{name: series[:, channels] for name, channels in self.streams.items()}, self.target: label}
        return {self.stream: series, self.target: label}

    def sample_id(self, index: int) -> str:
        return f"{self.path.name}:{index}"

    def fingerprint(self) -> str:
        return f"{self.path.name}:{self.digest}"


class AeonDataset(TsDataset):
    """Like `ts_file`, over sets that ship with aeon; `train` and `valid` are the archives' own TRAIN and TEST.

    Classification, with series x channels x steps of both splits, and classes:
    `acsf1` electricity use of appliances, 200 x 1 x 1460, 10; `arrow_head` outlines of points, 211 x 1 x 251, 3;
    `basic_motions` accelerometer and gyroscope, 80 x 6 x 100, 4; `gun_point` hand movement, 200 x 1 x
    150, 2; `italy_power_demand` a day's demand, summer or winter half-year, 1096 x 1 x 24, 2;
    `japanese_vowels` cepstra of nine speakers, 640 x 12 x 7 to 29, 9; `osu_leaf` leaf outlines, 442 x 1 x 427, 6;
    `pickup_gesture` accelerometer, 100 x 1 x 29 to 361, 10.
    Regression (targets are numbers): `cardano_sentiment`, 107 x 2 x 24; `covid_3month`, 201 x 1 x 84.
    None of them is forecasting, and the sets are small: accuracies differ by points between seeds.
    """

    def __init__(
        self,
        *,
        name: Literal[
            "acsf1",
            "arrow_head",
            "basic_motions",
            "cardano_sentiment",
            "covid_3month",
            "gun_point",
            "italy_power_demand",
            "japanese_vowels",
            "osu_leaf",
            "pickup_gesture",
        ],
        split: Literal["train", "valid"],
        stream: str = "series",
        target: str = "label",
        streams: dict[str, tuple[Annotated[int, Field(ge=0)], ...]] = {},  # noqa: B006 - never changed
    ) -> None:
        folder = AEON[name]
        file = f"{folder}_{'TRAIN' if split == 'train' else 'TEST'}.ts"
        super().__init__(path=aeon_folder() / folder / file, stream=stream, target=target, streams=streams)


def aeon_folder() -> Path:
    """Where the package keeps its data; found without importing it, which takes seconds."""
    what = "an archive set out of the aeon package"
    do = "pip install 'metaformer-plugin-timeseries[samples]'"
    return package_data("aeon", "datasets/data", what, do)
