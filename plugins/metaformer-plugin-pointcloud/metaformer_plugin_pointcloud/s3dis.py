"""S3DIS: 271 rooms of six areas, a class for every point.

Source: I. Armeni et al., "3D Semantic Parsing of Large-Scale Indoor Spaces" (CVPR 2016); voxels and crops as in
PointNeXt (arXiv 2206.04670). Ours differs: validation is on crops as well, not on whole rooms.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from jaxtyping import Float64, Int64
from pydantic import Field

from metaformer.base import Dataset
from metaformer.errors import DataError
from metaformer.files.array import read_npy
from metaformer.types import Sample
from metaformer_plugin_pointcloud.text import read_text

NAMES = ("ceiling", "floor", "wall", "beam", "column", "window", "door", "chair", "table", "bookcase", "sofa", "board")
NAMES += ("clutter",)
MOST = 20_000_000
"""Points of a room; the largest has 9.6 million."""
KEPT = 8
"""Rooms that a process remembers."""


class S3disDataset(Dataset):
    """{`stream`: {points [n, 3] in metres, color: uint8 [n, 3]}, `target`: n class indices}, n <= `points`.

    Samples are `crops` crops per room: the points nearest to one that is drawn, of a cloud with one point per voxel.
    `test_area` is held out. `root` holds `Area_K_ROOM.npy` (x y z r g b class, as in PointNet-like preparations) or
    the official `Area_K/ROOM/Annotations/CLASS_N.txt` (x y z r g b), each perhaps in a folder `raw`.
    Data: for academic use, by request from Stanford.
    """

    def __init__(
        self,
        *,
        root: Path,
        split: Literal["train", "valid"],
        test_area: Annotated[int, Field(ge=1, le=6)] = 5,
        points: Annotated[int, Field(gt=0)] = 24_000,
        voxel: Annotated[float, Field(gt=0)] = 0.04,
        crops: Annotated[int, Field(gt=0)] = 30,
        seed: Annotated[int, Field(ge=0)] = 0,
        stream: str = "cloud",
        target: str = "classes",
    ) -> None:
        self.root, self.split, self.points, self.voxel, self.crops, self.seed = root, split, points, voxel, crops, seed
        self.stream, self.target = stream, target
        self.classes = {target: list(NAMES)}
        base = root / "raw" if (root / "raw").is_dir() else root
        rooms = sorted(base.glob("Area_?_*.npy")) or sorted(p.parent for p in base.glob("Area_?/*/Annotations"))
        held = f"Area_{test_area}"
        self.rooms = [room for room in rooms if (self._name(room)[:6] == held) == (split == "valid")]
        if not self.rooms:
            raise DataError(
                f"rooms of S3DIS under {root} for {split}",
                "neither Area_K_ROOM.npy nor Area_K/ROOM/Annotations/*.txt",
                "unpack Stanford3dDataset_v1.2_Aligned_Version.zip there",
            )
        self.memory: OrderedDict[int, tuple[np.ndarray, np.ndarray, np.ndarray]] = OrderedDict()

    def _name(self, room: Path) -> str:
        return room.stem if room.suffix == ".npy" else f"{room.parent.name}_{room.name}"

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "memory": OrderedDict()}

    def __len__(self) -> int:
        return len(self.rooms) * self.crops

    def __getitem__(self, index: int) -> Sample:
        room, _ = divmod(index, self.crops)
        points, color, labels = self._room(room)
        random = np.random.default_rng([self.seed, 0 if self.split == "train" else 1, index])
        middle = points[random.integers(len(points))]
        order = ((points - middle) ** 2).sum(axis=1).argsort(kind="stable")[: self.points]
        return {self.stream: {"points": points[order], "color": color[order]}, self.target: labels[order].tolist()}

    def _room(self, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        if number not in self.memory:
            path = self.rooms[number]
            try:
                table = read_npy(path, 7 * MOST) if path.suffix == ".npy" else _annotations(path)
            except (OSError, ValueError) as error:
                raise DataError(f"a room of S3DIS, {path}", str(error)[:200], "unpack the archive again") from error
            good = table.ndim == 2 and table.shape[1] == 7 and len(table) and np.isfinite(table).all()
            if not good or not ((table[:, 6] >= 0) & (table[:, 6] < len(NAMES))).all():
                raise DataError(
                    f"x y z r g b class for every point of {path}", f"shape {list(table.shape)}", "prepare it again"
                )
            table = table[_voxels(table[:, :3].astype(np.float64), self.voxel)]
            color = table[:, 3:6].clip(0, 255).astype(np.uint8)
            self.memory[number] = (table[:, :3].astype(np.float64), color, table[:, 6].astype(np.int64))
            if len(self.memory) > KEPT:
                self.memory.popitem(last=False)
        return self.memory[number]

    def sample_id(self, index: int) -> str:
        return f"{self._name(self.rooms[index // self.crops])}:{index % self.crops}"

    def fingerprint(self) -> str:
        files = [
            f for room in self.rooms for f in ([room] if room.is_file() else sorted(room.glob("Annotations/*.txt")))
        ]
        text = "\n".join(f"{file.relative_to(self.root)} {file.stat().st_size}" for file in files)
        knobs = f"{self.points} {self.voxel} {self.crops} {self.seed}"
        return f"s3dis:{self.split}:{hashlib.sha256((text + knobs).encode()).hexdigest()}"


def _annotations(room: Path) -> Float64[np.ndarray, "N 7"]:
    """All objects of a room; a name that is none of the classes (stairs) counts as clutter."""
    parts = []
    for path in sorted(room.glob("Annotations/*.txt")):
        # One official line has a control character between two numbers (Area_5/hallway_6).
        table = read_text(path.read_bytes().replace(b"\x10", b" "), MOST)
        if table.shape[1] != 6:
            raise ValueError(f"{table.shape[1]} columns in {path.name}, where x y z r g b should be")
        name = path.stem.partition("_")[0]
        label = NAMES.index(name) if name in NAMES else NAMES.index("clutter")
        parts.append(np.concatenate([table, np.full((len(table), 1), float(label))], axis=1))
        if sum(map(len, parts)) > MOST:
            raise ValueError(f"more than {MOST} points")
    if not parts:
        raise ValueError("no objects in Annotations")
    return np.concatenate(parts)


def _voxels(points: Float64[np.ndarray, "N 3"], size: float) -> Int64[np.ndarray, " M"]:
    """The first point of every voxel, in the order of the points."""
    cell = np.floor((points - points.min(axis=0)) / size).astype(np.int64)
    _, first = np.unique(cell, axis=0, return_index=True)
    return np.sort(first)
