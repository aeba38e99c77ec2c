"""Tables that ship with scikit-learn (BSD-3-Clause), read offline.

Each is split once and for all: a fifth of every class, drawn by a fixed seed, is for validation.
Small and old sets, for first runs and tests: differences of a point are noise on them.
"""

from __future__ import annotations

import hashlib
from typing import Any, Literal

import numpy as np

from metaformer.base import Dataset
from metaformer.errors import DataError
from metaformer.types import Sample

Split = Literal["train", "valid"]


class Table(Dataset):
    """{`stream`: mapping column → cell, `target`: label}."""

    def __init__(
        self,
        columns: list[str],
        cells: np.ndarray,
        labels: np.ndarray,
        split: Split,
        stream: str,
        target: str,
    ) -> None:
        # A measured quantity has no classes to be even over.
        groups = labels if labels.dtype.kind == "i" else np.zeros(len(labels), dtype=np.int64)
        rows = _split(groups, split)
        self.columns, self.cells, self.labels, self.rows = columns, cells[rows], labels[rows], rows
        self.split, self.stream, self.target = split, stream, target

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Sample:
        row = dict(zip(self.columns, self.cells[index].tolist(), strict=True))
        return {self.stream: row, self.target: self.labels[index].item()}

    def sample_id(self, index: int) -> str:
        return f"row {self.rows[index]}"

    def fingerprint(self) -> str:
        digest = hashlib.sha256(repr(self.columns).encode() + self.cells.tobytes() + self.labels.tobytes())
        return f"{type(self).__name__}:{self.split}:{digest.hexdigest()}"


class BreastCancer(Table):
    """569 tumours: 30 numbers measured on images of cell nuclei → `malignant` or `benign`.

    Breast Cancer Wisconsin (Diagnostic), Wolberg, Street and Mangasarian 1995, UCI, CC BY 4.0. One hospital's
    cases of the early nineties: no diagnostic device.
    """

    def __init__(self, *, split: Split, stream: str = "row", target: str = "label") -> None:
        found = _load("load_breast_cancer")
        names = [str(name) for name in found.feature_names]
        super().__init__(names, found.data, found.target.astype(np.int64), split, stream, target)
        self.classes = {target: tuple(str(name) for name in found.target_names)}


class Wine(Table):
    """178 wines of one Italian region: 13 chemical measurements → the cultivar, one of three.

    Wine recognition data, Aeberhard and Forina 1992, UCI, CC BY 4.0.
    """

    def __init__(self, *, split: Split, stream: str = "row", target: str = "label") -> None:
        found = _load("load_wine")
        super().__init__(
            [str(name) for name in found.feature_names],
            found.data,
            found.target.astype(np.int64),
            split,
            stream,
            target,
        )
        self.classes = {target: tuple(str(name) for name in found.target_names)}


class Diabetes(Table):
    """442 patients: age, `sex` (category 1 or 2), body mass, blood pressure, six serum values, in their own
    units → disease progression after a year, 25 to 346.

    Efron, Hastie, Johnstone and Tibshirani 2004 (Least Angle Regression). Published without terms of its own.
    """

    def __init__(self, *, split: Split, stream: str = "row", target: str = "progression") -> None:
        found = _load("load_diabetes", scaled=False)
        names = [str(name) for name in found.feature_names]
        super().__init__(names, found.data, found.target.astype(np.float64), split, stream, target)


def _load(loader: str, scaled: bool = True) -> Any:
    try:
        from sklearn import datasets  # type: ignore[import-untyped]
    except ImportError as error:
        raise DataError(
            f"the table of sklearn.datasets.{loader}",
            "scikit-learn is absent",
            "pip install 'metaformer-plugin-tabular[samples]'",
        ) from error
    return getattr(datasets, loader)() if scaled else getattr(datasets, loader)(scaled=False)


def _split(groups: np.ndarray, split: Split) -> np.ndarray:
    """Row numbers of a split, in order."""
    held_out = np.zeros(len(groups), dtype=bool)
    generator = np.random.default_rng(0)
    for group in np.unique(groups):
        members = generator.permutation(np.flatnonzero(groups == group))
        held_out[members[: round(len(members) / 5)]] = True
    return np.flatnonzero(held_out == (split == "valid"))
