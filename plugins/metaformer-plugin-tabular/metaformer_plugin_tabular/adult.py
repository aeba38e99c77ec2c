"""Adult (census income) in the layout of the UCI repository.

Source: Becker and Kohavi 1996, UCI Machine Learning Repository, CC BY 4.0.
"""

from __future__ import annotations

import csv
import hashlib
from pathlib import Path
from typing import Literal

from metaformer.base import Dataset
from metaformer.errors import DataError
from metaformer.types import Sample

NUMERIC = ("age", "fnlwgt", "education-num", "capital-gain", "capital-loss", "hours-per-week")
COLUMNS = (
    *("age", "workclass", "fnlwgt", "education", "education-num", "marital-status", "occupation", "relationship"),
    *("race", "sex", "capital-gain", "capital-loss", "hours-per-week", "native-country"),
)
"""In the order of the files, which have no header; the income follows."""


class Adult(Dataset):
    """{`row`: mapping column → cell, None where `?` stands, `label`: "<=50K" | ">50K"}.

    `root` holds `adult.data` (32,561 rows, `train`) and `adult.test` (16,281, `valid`), as published; the test file's
    first line and the full stop after its labels are no data. One country's census of 1994."""

    def __init__(
        self, *, root: Path, split: Literal["train", "valid"], stream: str = "row", target: str = "label"
    ) -> None:
        self.path = root / ("adult.data" if split == "train" else "adult.test")
        self.stream, self.target = stream, target
        self.classes = {target: ("<=50K", ">50K")}
        try:
            text = self.path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            do = "unpack the UCI archive of the set there: adult.data and adult.test"
            raise DataError(f"the table {self.path}", str(error), do) from error
        self.digest = hashlib.sha256(text.encode()).hexdigest()
        self.rows = [
            (line, row)
            for line, row in enumerate(csv.reader(text.splitlines(), skipinitialspace=True), start=1)
            if row and not row[0].startswith("|")
        ]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Sample:
        line, row = self.rows[index]
        if len(row) != len(COLUMNS) + 1:
            found = f"{len(row)} cells in line {line}"
            raise DataError(f"{self.path}: {len(COLUMNS) + 1} cells", found, "repair the file")
        cells = {name: None if cell == "?" else cell for name, cell in zip(COLUMNS, row, strict=False)}
        return {self.stream: cells, self.target: row[-1].removesuffix(".")}

    def sample_id(self, index: int) -> str:
        return f"{self.path.name}:{self.rows[index][0]}"

    def fingerprint(self) -> str:
        return f"Adult:{self.digest}"
