"""Data set `few`: samples of another data set, from all over it, for tests that need not see them all."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from metaformer.base import Dataset
from metaformer.build import open_dataset
from metaformer.recipe import Entry
from metaformer.types import Sample


class Few(Dataset):
    """At most `count` samples of `of`, an entry as a recipe writes it, at even distances."""

    def __init__(self, *, of: dict[str, Any], count: Annotated[int, Field(gt=0)]) -> None:
        self.all = open_dataset(Entry.model_validate(of), Path())
        self.root, self.classes = self.all.root, self.all.classes
        self.count = min(count, len(self.all))

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        return self.all[index * len(self.all) // self.count]

    def sample_id(self, index: int) -> str:
        return self.all.sample_id(index * len(self.all) // self.count)

    def fingerprint(self) -> str:
        return f"{self.count} of {self.all.fingerprint()}"
