"""ModelNet-40: CAD models of 40 kinds of things.

Source: Z. Wu et al., "3D ShapeNets" (arXiv 1406.5670); the resampled points are PointNet++'s (arXiv 1706.02413).
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Literal

from metaformer.base import Dataset
from metaformer.errors import DataError
from metaformer.types import Sample
from metaformer_plugin_pointcloud.cloud import from_columns
from metaformer_plugin_pointcloud.text import read_text

MOST = 1_000_000
"""Lines of a resampled model; there are 10,000."""


class ModelNetDataset(Dataset):
    """{`stream`: file of a mesh, or {points, normal: [10000, 3]}, `target`: class name}; 9843 to train, 2468 to test.

    `root` is a folder in either official layout: `CLASS/train/*.off` and `CLASS/test/*.off` (ModelNet40.zip; surfaces
    are sampled by the tokenizer), or `CLASS/CLASS_0001.txt` with `modelnet40_train.txt`, `modelnet40_test.txt` and
    `modelnet40_shape_names.txt` (modelnet40_normal_resampled.zip).
    Data: the models were collected from the web by Princeton, for academic use; see modelnet.cs.princeton.edu.
    """

    def __init__(
        self, *, root: Path, split: Literal["train", "test"], stream: str = "cloud", target: str = "label"
    ) -> None:
        self.root, self.split, self.stream, self.target = root, split, stream, target
        self.resampled = (root / "modelnet40_train.txt").is_file()
        names = self._listed() if self.resampled else self._found()
        self.files = [path for path, _ in names]
        self.labels = [label for _, label in names]
        if not names:
            raise DataError(
                f"ModelNet-40 under {root}",
                "neither CLASS/train/*.off nor modelnet40_train.txt",
                "unpack ModelNet40.zip or modelnet40_normal_resampled.zip there",
            )

    def _found(self) -> list[tuple[Path, str]]:
        folders = (
            sorted(path for path in self.root.iterdir() if (path / "train").is_dir()) if self.root.is_dir() else []
        )
        self.classes = {self.target: [folder.name for folder in folders]}
        return [(path, f.name) for f in folders for path in sorted((f / self.split).glob("*.off"))]

    def _listed(self) -> list[tuple[Path, str]]:
        names = (self.root / "modelnet40_shape_names.txt").read_text(encoding="utf-8").split()
        self.classes = {self.target: names}
        out = []
        for model in (self.root / f"modelnet40_{self.split}.txt").read_text(encoding="utf-8").split():
            label = model.rpartition("_")[0]
            # The list becomes a file name: nothing else than a name may stand there.
            if label not in names or not re.fullmatch(r"\w[\w-]*", model):
                raise DataError(f"modelnet40_{self.split}.txt", f"{model[:60]!r}", "give CLASS_NUMBER per line")
            out.append((self.root / label / f"{model}.txt", label))
        return out

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Sample:
        path, label = self.files[index], self.labels[index]
        if not self.resampled:
            return {self.stream: path.absolute(), self.target: label}
        try:
            table = read_text(path.read_bytes(), MOST)
        except (OSError, ValueError) as error:
            raise DataError(f"a model of ModelNet-40, {path}", str(error)[:200], "unpack the archive again") from error
        cloud = from_columns(table, ("normal",), 1.0, f"a model of ModelNet-40, {path}")
        return {self.stream: {"points": cloud.points, **cloud.channels}, self.target: label}

    def sample_id(self, index: int) -> str:
        return self.files[index].stem

    def fingerprint(self) -> str:
        text = "\n".join(str(path.relative_to(self.root)) for path in self.files)
        return f"modelnet40:{self.split}:{hashlib.sha256(text.encode()).hexdigest()}"
