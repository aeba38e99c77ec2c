"""Real pictures that need no download: both sets come inside the package scikit-learn.

Source: RotNet (arXiv 1803.07728) for the rotation task.
"""

from __future__ import annotations

import hashlib
import importlib
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydantic import Field

from metaformer.base import Dataset
from metaformer.errors import DataError
from metaformer.types import Sample

Split = Literal["train", "valid"]
Gray = npt.NDArray[np.uint8]
DIGITS_SEED = 0
VALID_SHARE = 0.2


class DigitsDataset(Dataset):
    """Handwritten digits: `{image: uint8 [8 8], label: "0".."9"}`, 1438 to train, 359 to validate.

    Data: scikit-learn's `load_digits` (package under BSD-3-Clause), the test part of *Optical Recognition of
    Handwritten Digits*, E. Alpaydin and C. Kaynak, UCI Machine Learning Repository, 1998. Each pixel counts
    the ink in a 4x4 block of a scan, 0 to 16, scaled here to 0 to 255.
    Split: of each class, a fifth drawn by numpy's generator with seed 0 validates; order of the file is kept.
    What it is not: MNIST; nor a test on unseen writers, as its 13 writers are in both parts.
    """

    def __init__(self, *, split: Split, stream: str = "image", target: str = "label") -> None:
        digits = _sklearn("digits").load_digits()
        labels = np.asarray(digits.target, dtype=np.int64)
        self.index = _split(labels, split)
        self.images = np.rint(np.asarray(digits.images)[self.index] * (255 / 16)).astype(np.uint8)
        self.labels = labels[self.index]
        self.split, self.stream, self.target = split, stream, target
        self.classes = {target: [str(digit) for digit in range(10)]}

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Sample:
        return {self.stream: self.images[index], self.target: self.classes[self.target][self.labels[index]]}

    def sample_id(self, index: int) -> str:
        """Position in scikit-learn's array."""
        return f"digits-{self.index[index]:04d}"

    def fingerprint(self) -> str:
        return _sha256(self.images, self.labels)


class PhotoCropsDataset(Dataset):
    """Which way is up? `{image: uint8 [size size], rotation: "0" | "90" | "180" | "270"}` (RotNet).

    Gray crops of two photographs, each shown in four orientations (counter-clockwise; samples 4i to 4i+3 are
    one crop): a task without human labels, to pre-train a small encoder that has never seen the data it is
    tried on. Crop, zoom and place depend on `seed`, split and index alone. A crop's side is `size` times a
    factor from `zoom`; of up to eight places the first with enough contrast is taken, as open sky has no
    right way up. Half of the crops are mirrored.
    Data: scikit-learn's `load_sample_images` (package under BSD-3-Clause): `china.jpg` and `flower.jpg`, both
    CC BY 2.0; its README attributes them to danielbuechele (flower: from the account vultilion). Changed
    here: converted to gray, cropped, scaled, mirrored, rotated.
    Split: the middle quarter of each photograph validates, what is left and right of it trains: no pixel is in
    both.
    What it is not: varied. Two photographs teach edges and texture, not objects.
    """

    TURNS = ("0", "90", "180", "270")
    MIN_CONTRAST = 12.0
    """Least standard deviation of gray levels."""

    def __init__(
        self,
        *,
        split: Split,
        size: Annotated[int, Field(gt=0, le=160)] = 8,
        samples: Annotated[int, Field(gt=0)] = 16384,
        zoom: tuple[Annotated[float, Field(ge=1)], Annotated[float, Field(ge=1)]] = (4.0, 16.0),
        seed: Annotated[int, Field(ge=0)] = 0,
        stream: str = "image",
        target: str = "rotation",
    ) -> None:
        photos = _sklearn("photos").load_sample_images().images
        self.photos = [part for photo in photos for part in _parts(_gray(photo), split)]
        limit = min(min(photo.shape) for photo in self.photos)
        if zoom[0] > zoom[1] or round(size * zoom[1]) > limit:
            raise DataError(
                f"crops of {size} pixels zoomed by {zoom[0]:g} to {zoom[1]:g}",
                f"{limit} pixels across in the {split} part of the photographs",
                "lower `size` or `zoom`, which is [smallest, largest]",
            )
        self.split, self.size, self.samples, self.zoom, self.seed = split, size, samples, zoom, seed
        self.stream, self.target = stream, target
        self.classes = {target: list(self.TURNS)}

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self.samples:
            raise IndexError(f"sample {index} of {self.samples}")
        crop, turn = divmod(index, len(self.TURNS))
        return {self.stream: np.rot90(self.crop(crop), turn).copy(), self.target: self.TURNS[turn]}

    def crop(self, number: int) -> Gray:
        """The upright crop, [size size]."""
        # Own generator: the same crop in every worker, whatever was drawn before.
        random = np.random.default_rng([self.seed, 0 if self.split == "train" else 1, number])
        for _ in range(8):
            photo = self.photos[random.integers(len(self.photos))]
            side = round(self.size * random.uniform(*self.zoom))
            top, left = (int(random.integers(length - side + 1)) for length in photo.shape)
            crop = photo[top : top + side, left : left + side]
            if crop.std() >= self.MIN_CONTRAST:
                break
        if random.integers(2):
            crop = crop[:, ::-1]  # a mirror image has the same way up, and light from one side is no clue
        image = Image.fromarray(np.ascontiguousarray(crop))
        return np.asarray(image.resize((self.size, self.size), Image.Resampling.BOX))

    def sample_id(self, index: int) -> str:
        crop, turn = divmod(index, len(self.TURNS))
        return f"{self.split}-{crop}-{self.TURNS[turn]}"

    def fingerprint(self) -> str:
        knobs = f"{self.split} {self.size} {self.samples} {self.zoom} {self.seed}"
        return _sha256(*self.photos, np.frombuffer(knobs.encode(), dtype=np.uint8))


def _sklearn(what: str) -> Any:
    try:
        return importlib.import_module("sklearn.datasets")
    except ImportError as error:
        raise DataError(
            f"the {what} bundled with scikit-learn",
            f"scikit-learn cannot be imported: {error}",
            'pip install "metaformer-plugin-image[samples]"',
        ) from error


def _split(labels: npt.NDArray[np.int64], split: Split) -> npt.NDArray[np.int64]:
    """Positions of the split, in order; classes keep their shares."""
    random = np.random.default_rng(DIGITS_SEED)
    valid = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        members = random.permutation(np.flatnonzero(labels == label))
        valid[members[: round(len(members) * VALID_SHARE)]] = True
    return np.flatnonzero(valid if split == "valid" else ~valid)


def _gray(photo: npt.NDArray[np.uint8]) -> Gray:
    return np.asarray(Image.fromarray(photo).convert("L"))


def _parts(photo: Gray, split: Split) -> list[Gray]:
    """The middle quarter, or what is left and right of it."""
    left, right = photo.shape[1] * 3 // 8, photo.shape[1] * 5 // 8
    return [photo[:, left:right]] if split == "valid" else [photo[:, :left], photo[:, right:]]


def _sha256(*arrays: npt.NDArray[Any]) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.shape} {array.dtype}".encode() + np.ascontiguousarray(array).tobytes())
    return f"sha256:{digest.hexdigest()}"
