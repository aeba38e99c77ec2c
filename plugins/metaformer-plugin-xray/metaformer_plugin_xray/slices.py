"""Pieces of three CT slices that need no download: they come inside the package pydicom.

Source: masked prediction of pixels, as in MAE (arXiv 2111.06377).
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from jaxtyping import Float32
from pydantic import Field

from metaformer.arrays.raster import resample
from metaformer.base import Dataset
from metaformer.errors import DataError
from metaformer.files.package import package_data
from metaformer.types import Sample
from metaformer_plugin_xray.levels import read_xray

FILES = ("CT_small.dcm", "693_J2KI.dcm", "J2K_pixelrep_mismatch.dcm")
"""A spine of 128x128 pixels, and two heads of 512x512 (JPEG 2000)."""
WINDOW = (100.0, 2200.0)
"""Centre and width in Hounsfield units: from air to dense bone."""
TRIES, LEAST_CONTRAST = 8, 0.04
Hole = Literal["centre", "random"]


class CtPatchesDataset(Dataset):
    """What was in the hole? `{image: float32 [size size] from 0 to 1, hole: [patch*patch] numbers from -1 to 1}`.

    Pieces of three slices of X-ray computed tomography, windowed from -1000 to 1200 Hounsfield units, with one patch
    replaced by middle gray; the target is what it showed. Place, zoom and slice depend on `seed`, split and index
    alone: a side is `size` times a factor from `zoom` (less where a slice is too small for it); of up to eight places
    the first with enough contrast is taken, as air has nothing to be guessed. `hole: centre` always takes the patch
    right below the middle, `random` any.
    Data: pydicom's test files (package MIT; its notes say that it knows of no restriction on their use, that they
    were made smaller and that names of patients were overwritten); `CT_small` comes from the DICOM committee's WG04
    set, the others from reports of faults in decoders.
    Split: the right third of every slice validates, the rest trains: no pixel is in both.
    What it is not: radiographs. pydicom bundles no projection X-ray and nothing with a diagnosis, so there is no
    honest classification among what comes without a download. Three slices teach edges, not anatomy; and heads
    are alike on both sides.
    """

    def __init__(
        self,
        *,
        split: Literal["train", "valid"],
        size: Annotated[int, Field(gt=1, le=40)] = 32,
        patch_size: Annotated[int, Field(gt=0)] = 4,
        hole: Hole = "centre",
        samples: Annotated[int, Field(gt=0)] = 16384,
        zoom: tuple[Annotated[float, Field(ge=1)], Annotated[float, Field(ge=1)]] = (1.0, 3.0),
        seed: Annotated[int, Field(ge=0)] = 0,
        stream: str = "image",
        target: str = "hole",
    ) -> None:
        if size % patch_size or zoom[0] > zoom[1]:
            found = f"patches of {patch_size} pixels, zoom {list(zoom)}"
            raise DataError(f"crops of {size} pixels", found, "patch_size divides size; zoom is [smallest, largest]")
        folder = pydicom_folder()
        self.slices = [_part(read_xray(folder / name, WINDOW), split) for name in FILES]
        self.split, self.size, self.patch_size, self.hole = split, size, patch_size, hole
        self.samples, self.zoom, self.seed = samples, zoom, seed
        self.stream, self.target = stream, target

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self.samples:
            raise IndexError(f"sample {index} of {self.samples}")
        # Own generator: the same crop in every worker, whatever was drawn before.
        draw = np.random.default_rng([self.seed, 0 if self.split == "train" else 1, index])
        image = self._crop(draw)
        p, side = self.patch_size, self.size // self.patch_size
        row, column = (side // 2, side // 2) if self.hole == "centre" else draw.integers(side, size=2)
        patch = image[row * p : (row + 1) * p, column * p : (column + 1) * p]
        values = patch.ravel() * 2 - 1
        patch[:] = 0.5
        return {self.stream: image, self.target: values}

    def _crop(self, draw: np.random.Generator) -> Float32[np.ndarray, "S S"]:
        crop = np.zeros((1, 1), dtype=np.float32)
        for _ in range(TRIES):
            slice_ = self.slices[draw.integers(len(self.slices))]
            side = min(round(self.size * draw.uniform(*self.zoom)), *slice_.shape)
            top, left = (int(draw.integers(length - side + 1)) for length in slice_.shape)
            crop = slice_[top : top + side, left : left + side]
            if crop.std() >= LEAST_CONTRAST:
                break
        return resample(torch.tensor(crop), (self.size, self.size)).numpy()

    def sample_id(self, index: int) -> str:
        return f"{self.split}-{index}"

    def fingerprint(self) -> str:
        knobs = f"{self.split} {self.size} {self.patch_size} {self.hole} {self.samples} {self.zoom} {self.seed}"
        digest = hashlib.sha256(knobs.encode())
        for slice_ in self.slices:
            digest.update(slice_.tobytes())
        return f"ct_patches:{digest.hexdigest()}"


def pydicom_folder() -> Path:
    """Where the package keeps the files that come with it; found without its own look-up, which may download."""
    what = "CT slices out of the pydicom package"
    do = "pip install 'metaformer-plugin-xray[samples]'"
    return package_data("pydicom", "data/test_files", what, do, FILES)


def _part(slice_: Float32[np.ndarray, "H W"], split: Literal["train", "valid"]) -> Float32[np.ndarray, "H w"]:
    """The right third, or the rest."""
    edge = slice_.shape[1] * 2 // 3
    return np.ascontiguousarray(slice_[:, edge:] if split == "valid" else slice_[:, :edge])
