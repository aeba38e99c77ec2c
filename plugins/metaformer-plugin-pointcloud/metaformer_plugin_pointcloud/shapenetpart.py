"""ShapeNetPart: CAD models of 16 kinds, 50 parts, a part for every point.

Source: L. Yi et al., "A Scalable Active Framework for Region Annotation in 3D Shape Collections" (2016), in the layout
of PointNet++ (arXiv 1706.02413), with normals.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Literal

import numpy as np

from metaformer.base import Dataset
from metaformer.errors import DataError
from metaformer.types import Sample
from metaformer_plugin_pointcloud.cloud import from_columns
from metaformer_plugin_pointcloud.text import read_text

MOST = 100_000
"""Points of a model; there are about 2,600."""
PARTS = 50


class ShapeNetPartDataset(Dataset):
    """{`stream`: {points, normal: [n, 3]}, `target`: n part indices from 0 to 49, `kind`: class name}.

    `root` is `shapenetcore_partanno_segmentation_benchmark_v0_normal` as unpacked; splits are its own lists, of 12137
    (train), 1870 (val) and 2874 (test) models. Data: ShapeNet's terms, for research.
    """

    def __init__(
        self,
        *,
        root: Path,
        split: Literal["train", "val", "test"],
        stream: str = "cloud",
        target: str = "parts",
        kind: str = "kind",
    ) -> None:
        self.root, self.split, self.stream, self.target, self.kind = root, split, stream, target, kind
        try:
            lines = (root / "synsetoffset2category.txt").read_text(encoding="utf-8").splitlines()
            names = {words[1]: words[0] for words in map(str.split, lines) if len(words) == 2}
            text = (root / "train_test_split" / f"shuffled_{split}_file_list.json").read_text(encoding="utf-8")
            listed = json.loads(text)
        except (OSError, ValueError) as error:
            raise DataError(
                f"ShapeNetPart under {root}", str(error)[:200], "unpack the archive with normals there"
            ) from error
        self.models: list[tuple[str, str]] = []
        for entry in listed if isinstance(listed, list) else [listed]:
            found = re.fullmatch(r"shape_data/(\d+)/([\w-]+)", str(entry))
            # The list becomes a file name: nothing else may stand there.
            if found is None or found[1] not in names:
                raise DataError(f"the {split} list under {root}", f"{entry!r:.60}", "unpack the archive again")
            self.models.append((found[1], found[2]))
        self.names = names
        self.classes = {kind: sorted(names.values())}

    def __len__(self) -> int:
        return len(self.models)

    def __getitem__(self, index: int) -> Sample:
        synset, model = self.models[index]
        path = self.root / synset / f"{model}.txt"
        try:
            table = read_text(path.read_bytes(), MOST)
        except (OSError, ValueError) as error:
            raise DataError(f"a model of ShapeNetPart, {path}", str(error)[:200], "unpack it again") from error
        cloud = from_columns(table, ("normal", "skip"), 1.0, f"a model of ShapeNetPart, {path}")
        parts = table[:, 6]
        if not (np.isin(parts, np.arange(PARTS))).all():
            raise DataError(f"parts from 0 to {PARTS - 1} in {path}", f"{parts.max():g}", "unpack it again")
        return {
            self.stream: {"points": cloud.points, **cloud.channels},
            self.target: parts.astype(np.int64).tolist(),
            self.kind: self.names[synset],
        }

    def sample_id(self, index: int) -> str:
        return "/".join(self.models[index])

    def fingerprint(self) -> str:
        return f"shapenetpart:{self.split}:{hashlib.sha256(repr(self.models).encode()).hexdigest()}"
