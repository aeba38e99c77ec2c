"""Infrared pictures with labels: persons of RegDB, and fields of Indian Pines in one near-infrared band.

Source: RegDB (Nguyen et al. 2017, doi:10.3390/s17030605), in the lists of ten trials that re-identification papers use;
Indian Pines (Baumgardner et al. 2015, doi:10.4231/R7RX991C).
"""

from __future__ import annotations

import hashlib
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

import numpy as np
from jaxtyping import Int64, UInt16
from pydantic import Field

from metaformer.base import Dataset
from metaformer.errors import DataError
from metaformer.files.array import read_npy
from metaformer.files.package import package_data
from metaformer.types import Sample

REGDB_GET = (
    "ask the makers of RegDB (Dongguk University) for it: ROOT/Thermal/*/*.bmp, ROOT/Visible/*/*.bmp, and the lists "
    "ROOT/idx/train_visible_1.txt to test_thermal_10.txt"
)
LONGEST_LIST = 2**24
"""Bytes; the published lists have about a hundred thousand."""
NAMES = {
    "tilled crops": (2, 3, 4, 10, 11, 12),
    "grass and hay": (5, 6, 7, 8),
    "woods": (14,),
}
"""Our class → classes of the published map. Corn and soybeans had hardly come up in June, and are not told apart by
one band; the others are small, or no fields."""


class RegDbDataset(Dataset):
    """Persons seen by a visible and a thermal camera: {`visible`: Path, `thermal`: Path, `identity`: text}.

    `root` has RegDB with the lists of a `trial` (1 to 10): 206 persons to train on, 206 others to test on, ten pictures
    of each person by each camera. `samples: pairs` puts the n-th visible picture of a person beside the n-th thermal
    one; `each` gives every picture of the cameras in `cameras` by itself, as `stream`, so that one tokenizer sees both.
    Splits: of the published training list the last `held_out` pictures of each person and camera are `valid` and the
    others `train`: identities seen before, to watch training by. `test` is the published list of other persons, whose
    identities are no classes of `train`: they are for retrieval (rank-1, mAP) on embeddings, which is not a metric
    of one batch and left to the caller (`metaformer predict`).
    """

    def __init__(
        self,
        *,
        root: Path,
        split: Literal["train", "valid", "test"],
        trial: Annotated[int, Field(ge=1, le=10)] = 1,
        samples: Literal["pairs", "each"] = "pairs",
        cameras: tuple[Literal["visible", "thermal"], ...] = ("visible", "thermal"),
        held_out: Annotated[int, Field(ge=1)] = 2,
        visible: str = "visible",
        thermal: str = "thermal",
        stream: str = "infrared",
        target: str = "identity",
    ) -> None:
        self.root, self.target = root, target
        part = "test" if split == "test" else "train"
        persons = {c: _persons(root, root / "idx" / f"{part}_{c}_{trial}.txt") for c in ("visible", "thermal")}
        if persons["visible"].keys() != persons["thermal"].keys():
            apart = sorted(persons["visible"].keys() ^ persons["thermal"].keys(), key=int)
            raise DataError(f"the same persons in both lists of trial {trial}", f"only in one: {apart[0]}", REGDB_GET)
        names = sorted(persons["visible"], key=int)
        self.samples: list[dict[str, Path]] = []
        self.labels: list[str] = []
        for name in names:
            own = {c: _share(persons[c][name], split, held_out) for c in ("visible", "thermal")}
            if samples == "pairs":
                rows = [{visible: v, thermal: t} for v, t in zip(own["visible"], own["thermal"], strict=False)]
            else:
                rows = [{stream: path} for c in cameras for path in own[c]]
            self.samples += rows
            self.labels += [name] * len(rows)
        if not self.samples:
            raise DataError(f"pictures of RegDB, {split}", "none are left", "lower `held_out`")
        self.classes = {target: names}

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        return {**self.samples[index], self.target: self.labels[index]}

    def sample_id(self, index: int) -> str:
        return "+".join(path.relative_to(self.root or "").as_posix() for path in self.samples[index].values())

    def fingerprint(self) -> str:
        """Over names and identities, in order; pictures are not read."""
        lines = "\n".join(f"{self.sample_id(i)} {label}" for i, label in enumerate(self.labels))
        return f"regdb:{hashlib.sha256(lines.encode()).hexdigest()}"


class NirFieldsDataset(Dataset):
    """What grows in the middle of a square of fields, seen in one near-infrared band?
    `{image: uint16 [size size], label: "tilled crops" | "grass and hay" | "woods"}`.

    Data: one band of the Indian Pines scene as shipped by tensorly (which is not imported; package BSD-3-Clause, data
    CC-BY 3.0; cite doi:10.4231/R7RX991C): 145 x 145 pixels of 20 m, June 1992. `band` counts from 0 through the 200
    bands that are left after those which water vapour absorbs; from 40 on they are beyond 0.75 micrometres, and 120 is
    near 1.6. The label is the class of the pixel right below and right of the middle; corn and soybeans are one class.
    Split: the scene is cut into squares of `block` pixels, in turn for training and validation; a crop lies inside one
    square, `gap` pixels from its edges: no pixel is in both, and neighbours are not either. Every `stride`-th pixel
    is the middle of a crop, so crops of one square overlap.
    What it is not: thermal. This is sunlight that was reflected, in one band of a flight over one farm; a
    model that knows it knows nothing of heat. No package brings thermal pictures.
    """

    def __init__(
        self,
        *,
        split: Literal["train", "valid"],
        size: Annotated[int, Field(gt=1, le=32)] = 6,
        band: Annotated[int, Field(ge=40, le=199)] = 120,
        block: Annotated[int, Field(gt=1, le=145)] = 12,
        gap: Annotated[int, Field(ge=0)] = 1,
        stride: Annotated[int, Field(gt=0)] = 1,
        stream: str = "image",
        target: str = "label",
    ) -> None:
        folder = tensorly_folder()
        scene = read_npy(folder / "Indian_pines_corrected.npy")
        labels = read_npy(folder / "Indian_pines_gt.npy")
        self.pixels: UInt16[np.ndarray, "R C"] = np.ascontiguousarray(scene[..., band]).astype(np.uint16)
        self.split, self.size, self.stream, self.target = split, size, stream, target
        group = np.full(256, -1)
        for number, members in enumerate(NAMES.values()):
            group[list(members)] = number
        corners = _corners(self.pixels.shape, split, size, block, gap, stride)
        found = group[labels[corners[:, 0] + size // 2, corners[:, 1] + size // 2]]
        self.corners: Int64[np.ndarray, "N 2"] = corners[found >= 0]
        self.labels: Int64[np.ndarray, " N"] = found[found >= 0]
        if not len(self.labels):
            raise DataError(f"crops of {size} pixels in squares of {block}", "none", "lower `size` or `gap`")
        self.classes = {target: tuple(NAMES)}

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Sample:
        (top, left), size = self.corners[index], self.size
        image = self.pixels[top : top + size, left : left + size].copy()
        return {self.stream: image, self.target: self.classes[self.target][self.labels[index]]}

    def sample_id(self, index: int) -> str:
        top, left = self.corners[index]
        return f"{top},{left}"

    def fingerprint(self) -> str:
        digest = hashlib.sha256(self.pixels.tobytes())
        digest.update(np.concatenate([self.corners, self.labels[:, None]], axis=1).tobytes())
        return f"nir_fields:{self.size}:{digest.hexdigest()}"


def tensorly_folder() -> Path:
    """Where the package keeps its data; found without importing it."""
    what = "the Indian Pines scene out of the tensorly package"
    return package_data(
        "tensorly", "datasets/data", what, "pip install 'metaformer-plugin-infrared[samples]'", ["Indian_pines_gt.npy"]
    )


def _corners(
    shape: tuple[int, ...], split: Literal["train", "valid"], size: int, block: int, gap: int, stride: int
) -> Int64[np.ndarray, "N 2"]:
    """Upper left corners of the crops that lie inside squares of this split."""
    found = []
    for row, top in enumerate(range(0, shape[0] - block + 1, block)):
        for column, left in enumerate(range(0, shape[1] - block + 1, block)):
            if (row + column) % 2 == (split == "valid"):
                steps = range(gap, block - gap - size + 1, stride)
                found += [(top + down, left + across) for down in steps for across in steps]
    return np.array(found, dtype=np.int64).reshape(-1, 2)


def _persons(root: Path, path: Path) -> dict[str, list[Path]]:
    """Identity → its pictures, out of lines `Visible/1/name.bmp 0`."""
    try:
        if path.stat().st_size > LONGEST_LIST:
            raise DataError(f"read {path}", f"{path.stat().st_size} bytes", REGDB_GET)
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"read {path}", str(error)[:200], REGDB_GET) from error
    found: dict[str, list[Path]] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        name, _, identity = line.strip().rpartition(" ")
        pure = PurePosixPath(name.replace("\\", "/"))
        if not identity.isdecimal() or not name or pure.is_absolute() or ".." in pure.parts:
            raise DataError(f"lines `Visible/1/name.bmp 0` in {path}", f"line {number}: {line[:80]!r}", REGDB_GET)
        found.setdefault(str(int(identity)), []).append(root / pure)
    if not found:
        raise DataError(f"read {path}", "no pictures in it", REGDB_GET)
    return found


def _share(paths: list[Path], split: Literal["train", "valid", "test"], held_out: int) -> list[Path]:
    if split == "test":
        return paths
    return paths[:-held_out] if split == "train" else paths[-held_out:]
