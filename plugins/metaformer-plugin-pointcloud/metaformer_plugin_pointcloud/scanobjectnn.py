"""ScanObjectNN: objects cut out of indoor scans, 15 classes.

Source: M. A. Uy et al., "Revisiting Point Cloud Classification" (arXiv 1908.04616).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from metaformer.base import Dataset
from metaformer.errors import DataError
from metaformer.types import Sample

NAMES = ("bag", "bin", "box", "cabinet", "chair", "desk", "display", "door", "shelf", "table", "bed", "pillow")
NAMES += ("sink", "sofa", "toilet")
MOST = 100_000_000
"""Numbers in `data`; the largest official file has 70 million."""


class ScanObjectDataset(Dataset):
    """{`stream`: {points: [2048, 3]}, `target`: class name} out of one official h5 file.

    Such as `main_split/training_objectdataset_augmentedrot_scale75.h5` (the hardest variant, 11416 objects) and its
    `test_...` (2882). Only `data` and `label` are read. Data: for academic use, by request from the authors.
    """

    def __init__(self, *, path: Path, stream: str = "cloud", target: str = "label") -> None:
        self.path, self.stream, self.target = path, stream, target
        self.classes = {target: list(NAMES)}
        with _opened(path) as file:
            data, label = _array(file, "data", path), _array(file, "label", path)
            if data.ndim != 3 or data.shape[2] != 3 or label.shape != data.shape[:1] or data.size > MOST:
                shapes = f"data {list(data.shape)}, label {list(label.shape)}"
                raise DataError(f"data [M, N, 3] and label [M] in {path}", shapes, "give an official h5 file")
            self.labels = np.asarray(label[()]).astype(np.int64)
        odd = self.labels[(self.labels < 0) | (self.labels >= len(NAMES))]
        if odd.size:
            raise DataError(f"labels from 0 to {len(NAMES) - 1} in {path}", str(odd[0]), "give an official h5 file")

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Sample:
        # Opened for each sample: an open file does not travel to workers.
        with _opened(self.path) as file:
            points = np.asarray(_array(file, "data", self.path)[index]).astype(np.float64)
        return {self.stream: {"points": points}, self.target: NAMES[self.labels[index]]}

    def sample_id(self, index: int) -> str:
        return f"{self.path.stem}:{index}"

    def fingerprint(self) -> str:
        return f"scanobjectnn:{self.path.name}:{self.path.stat().st_size}:{len(self)}"


def _opened(path: Path) -> Any:
    try:
        import h5py  # type: ignore[import-untyped]
    except ImportError as error:
        raise DataError(
            f"the h5 file {path}", "h5py is absent", "pip install 'metaformer-plugin-pointcloud[h5]'"
        ) from error
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise DataError(f"the h5 file {path}", str(error)[:200], "give an official h5 file") from error


def _array(file: Any, name: str, path: Path) -> Any:
    import h5py

    try:
        # A link or outside storage would let this file name others to read.
        if isinstance(file.get(name, getlink=True), h5py.HardLink):
            found = file[name]
            plain = isinstance(found, h5py.Dataset) and not found.external and not found.is_virtual
            if plain and found.dtype.kind in "iuf":
                return found
    # h5py says all of these of damaged files.
    except (OSError, KeyError, ValueError, RuntimeError, TypeError) as error:
        raise DataError(f"`{name}` in {path}", str(error)[:200], "give an official h5 file") from error
    raise DataError(f"numbers called `{name}` in {path}", "none in the file itself", "give an official h5 file")
