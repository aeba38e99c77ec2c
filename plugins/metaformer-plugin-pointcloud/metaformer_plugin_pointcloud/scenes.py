"""Two real scenes that need no download: an elevation model, and a stereo pair's points."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from jaxtyping import Float64, Int64
from pydantic import Field

from metaformer.base import Dataset
from metaformer.errors import DataError
from metaformer.files.package import package_data
from metaformer.types import Sample

Split = Literal["train", "valid"]
Stripe = tuple[int, int]


def stripes(width: int, split: Split, period: int, train: int, gap: int) -> list[Stripe]:
    """Columns of a split, as half-open ranges: in every `period` of columns `train` to train on, a gap, and the
    rest, less another gap, to validate on."""
    found = []
    for begin in range(0, width, period):
        first, last = (0, train) if split == "train" else (train + gap, period - gap)
        found.append((begin + first, min(begin + last, width)))
    return [(a, b) for a, b in found if b > a]


class TerrainDataset(Dataset):
    """Blocks of hills in Tennessee: {`stream`: float64 [points, 3] in metres, `target`: ...}.

    `task: up`: is the block upright, or has it been turned upside down (by half a turn about a level axis)? "up" or
    "down". `task: landform`: for each point whether it is lower than the mean of the cells within `radius` by more
    than a third of the deviation of that difference over the whole model ("valley"), higher ("ridge"), or neither
    ("slope"): a topographic position index. Blocks lie anywhere in the split, turned about the vertical by any
    angle; of their cells `points` are drawn. Heights are multiplied by `exaggeration`, as usual for relief.
    Data: `jacksboro_fault_dem.npz` out of matplotlib's sample data (matplotlib licence), 344 x 403 heights, three
    arc seconds apart, made from the elevation data of the USGS.
    Split: in every 134 columns, 82 train and 36 validate, with gaps of 8 between; no cell is in both. `radius` is at
    most 8, so that no label of one split looks into the other.
    What it is not: varied. It is one place of 30 x 30 km, and blocks overlap.
    """

    CLASSES = {"up": ["up", "down"], "landform": ["valley", "slope", "ridge"]}

    def __init__(
        self,
        *,
        split: Split,
        task: Literal["up", "landform"] = "up",
        samples: Annotated[int, Field(gt=0)] = 4096,
        points: Annotated[int, Field(gt=0)] = 512,
        size: Annotated[int, Field(ge=4, le=36)] = 32,
        radius: Annotated[int, Field(ge=1, le=8)] = 6,
        exaggeration: Annotated[float, Field(gt=0)] = 8.0,
        seed: Annotated[int, Field(ge=0)] = 0,
        stream: str = "cloud",
        target: str = "label",
    ) -> None:
        path = _sample_file("matplotlib", "mpl-data/sample_data/jacksboro_fault_dem.npz")
        with np.load(path, allow_pickle=False) as file:
            self.heights = file["elevation"].astype(np.float64)
            north = np.deg2rad((float(file["ymin"]) + float(file["ymax"])) / 2)
            # Metres per degree of latitude; a degree of longitude is shorter by the cosine.
            self.steps = (float(file["dx"]) * 111_320.0 * np.cos(north), float(file["dy"]) * 111_320.0)
        if points > size * size:
            raise DataError(f"{points} points out of blocks of {size} x {size}", f"{size * size}", "lower `points`")
        self.columns = stripes(self.heights.shape[1], split, 134, 82, 8)
        self.columns = [(a, b) for a, b in self.columns if b - a >= size]
        self.split, self.task, self.samples, self.points, self.size = split, task, samples, points, size
        self.exaggeration, self.radius, self.seed = exaggeration, radius, seed
        self.stream, self.target = stream, target
        self.forms = _landforms(self.heights, radius) if task == "landform" else None
        self.classes = {target: self.CLASSES[task]}

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self.samples:
            raise IndexError(f"sample {index} of {self.samples}")
        # Own generator: the same block in every worker, whatever was drawn before.
        random = np.random.default_rng([self.seed, 0 if self.split == "train" else 1, index])
        row, column = self._place(random)
        cell = random.permutation(self.size * self.size)[: self.points]
        i, j = row + cell // self.size, column + cell % self.size
        heights = self.heights[i, j] * self.exaggeration
        points = np.stack([j * self.steps[0], -i * self.steps[1], heights], axis=1)
        points -= points.mean(axis=0)
        angle = random.uniform(0, 2 * np.pi)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        points[:, :2] = points[:, :2] @ turn.T
        if self.forms is not None:
            return {self.stream: points, self.target: self.forms[i, j].tolist()}
        down = index % 2
        if down:
            points[:, 1:] *= -1
        return {self.stream: points, self.target: self.CLASSES["up"][down]}

    def _place(self, random: np.random.Generator) -> tuple[int, int]:
        """The upper left cell of a block, every place of the split as likely as any."""
        rooms = np.array([b - a - self.size + 1 for a, b in self.columns])
        k = int(random.integers(rooms.sum()))
        stripe = int(np.searchsorted(np.cumsum(rooms), k, side="right"))
        column = self.columns[stripe][0] + k - int(rooms[:stripe].sum())
        return int(random.integers(self.heights.shape[0] - self.size + 1)), column

    def sample_id(self, index: int) -> str:
        return f"{self.split}-{index}"

    def fingerprint(self) -> str:
        knobs = (self.split, self.task, self.samples, self.points, self.size, self.radius, self.exaggeration)
        return _digest(self.heights, (*knobs, self.seed))


def _landforms(heights: Float64[np.ndarray, "H W"], radius: int) -> Int64[np.ndarray, "H W"]:
    """0 valley, 1 slope, 2 ridge, by height above the mean of the square of cells within `radius`."""
    side = 2 * radius + 1
    sums = np.pad(np.pad(heights, radius, mode="reflect").cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
    total = sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side] + sums[:-side, :-side]
    above = heights - total / side**2
    return 1 + (above > above.std() / 3).astype(np.int64) - (above < -above.std() / 3).astype(np.int64)


class MotorcycleDataset(Dataset):
    """Blocks of a workshop with a motorcycle: {`stream`: {points [points, 3] in metres, z up; color: uint8
    [points, 3]}, `target`: the mean red, green and blue of all of the block's pixels, from 0 to 1}.

    `color: false` leaves the colours out of the sample: then the target is another channel's than the input's. Blocks
    are windows of `size` x `size` pixels, of which `points` are drawn.
    Data: scikit-image's `stereo_motorcycle` (BSD-3-Clause package; pictures of the Middlebury 2014 stereo benchmark,
    D. Scharstein et al., GCPR 2014, which asks to be cited). 343,274 pixels of the left picture have a disparity; they
    are put where the calibration in scikit-image's documentation says: 2.1 to 5.0 m away.
    Split: in every 150 columns 84 train and 50 validate, with gaps of 8 between; no pixel is in both.
    What it is not: a scan. It is one view of one scene, seen from one side, and objects go through both splits.
    """

    FOCAL, CENTRE, SHIFT, BASELINE = 994.978, (311.193, 254.877), 31.086, 0.193001
    """Pixels, pixels, pixels, metres."""

    def __init__(
        self,
        *,
        split: Split,
        samples: Annotated[int, Field(gt=0)] = 4096,
        points: Annotated[int, Field(gt=0)] = 512,
        size: Annotated[int, Field(ge=8, le=50)] = 40,
        color: bool = True,
        seed: Annotated[int, Field(ge=0)] = 0,
        stream: str = "cloud",
        target: str = "mean_color",
    ) -> None:
        from PIL import Image

        self.color = color
        if points > size * size // 2:
            raise DataError(f"{points} points", f"{size * size // 2} sure of a block", "lower `points`, raise `size`")
        with np.load(_sample_file("skimage", "data/motorcycle_disp.npz"), allow_pickle=False) as file:
            self.disparity = file["arr_0"].astype(np.float64)
        with Image.open(_sample_file("skimage", "data/motorcycle_left.png")) as image:
            self.pixels = np.asarray(image.convert("RGB"))
        self.there = np.isfinite(self.disparity)
        self.split, self.samples, self.points, self.size, self.seed = split, samples, points, size, seed
        self.stream, self.target = stream, target
        self.places = self._places()

    def _places(self) -> Int64[np.ndarray, "M 2"]:
        """Upper left pixels of blocks in the split at least half of which have a disparity, every fourth each way."""
        found = []
        for a, b in stripes(self.disparity.shape[1], self.split, 150, 84, 8):
            for column in range(a, b - self.size + 1, 4):
                for row in range(0, self.disparity.shape[0] - self.size + 1, 4):
                    if self.there[row : row + self.size, column : column + self.size].mean() >= 0.5:
                        found.append((row, column))
        return np.array(found, dtype=np.int64).reshape(-1, 2)

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self.samples:
            raise IndexError(f"sample {index} of {self.samples}")
        random = np.random.default_rng([self.seed, 0 if self.split == "train" else 1, index])
        row, column = self.places[random.integers(len(self.places))]
        i, j = np.nonzero(self.there[row : row + self.size, column : column + self.size])
        i, j = i + row, j + column
        mean = self.pixels[i, j].mean(axis=0) / 255
        pick = random.permutation(len(i))[: self.points]
        cloud = {"points": self.points_at(i[pick], j[pick])}
        if self.color:
            cloud["color"] = self.pixels[i[pick], j[pick]]
        return {self.stream: cloud, self.target: mean.tolist()}

    def points_at(self, i: Int64[np.ndarray, " N"], j: Int64[np.ndarray, " N"]) -> Float64[np.ndarray, "N 3"]:
        """Metres to the right of the camera, away from it, and above it."""
        away = self.BASELINE * self.FOCAL / (self.disparity[i, j] + self.SHIFT)
        right, down = (j - self.CENTRE[0]) / self.FOCAL, (i - self.CENTRE[1]) / self.FOCAL
        return np.stack([right * away, away, -down * away], axis=1)

    def sample_id(self, index: int) -> str:
        return f"{self.split}-{index}"

    def fingerprint(self) -> str:
        knobs = (self.split, self.samples, self.points, self.size, self.color, self.seed)
        return _digest(np.nan_to_num(self.disparity, posinf=-1.0), (knobs, hashlib.sha256(self.pixels).hexdigest()))


def _sample_file(package: str, name: str) -> Path:
    """A file inside an installed package, found without importing it."""
    what = f"{name} out of the package {package}"
    do = "pip install 'metaformer-plugin-pointcloud[samples]'"
    return package_data(package, name, what, do)


def _digest(values: np.ndarray, knobs: tuple[object, ...]) -> str:
    return hashlib.sha256(np.ascontiguousarray(values).tobytes() + repr(knobs).encode()).hexdigest()
