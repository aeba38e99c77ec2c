"""Samples of another data set, each with a sentence about its class: pairs of anything and text out of labelled data.

Source: label prompts as in CLIP (arXiv 2103.00020), trained on as in CoCa (arXiv 2205.01917), which turns annotated
pictures into captions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Annotated, Any

from pydantic import Field

from metaformer.base import Dataset
from metaformer.errors import DataError
from metaformer.types import Sample


class DescribedDataset(Dataset):
    """What the other data set has, and under `stream` a sentence.

    data: the other data set, as under `train:`. target: its class of a sample; class indices need names there.
    names: how classes are called in sentences; default: as the data set calls them.
    templates: sentences with `{}` for the name. Which of them a sample has depends on its number alone.
    What it is not: captions. Samples of a class share their sentences, so say `same: TARGET` to objectives.
    """

    def __init__(
        self,
        open_data: Callable[[Mapping[str, Any]], Dataset],
        *,
        data: Mapping[str, Any],
        target: str = "label",
        names: Mapping[str, str] = {},
        templates: Annotated[tuple[str, ...], Field(min_length=1)] = ("a photo of a {}.",),
        stream: str = "caption",
    ) -> None:
        self.inner = open_data(data)
        self.root, self.classes = self.inner.root, self.inner.classes
        self.target, self.stream, self.templates = target, stream, templates
        wrong = [template for template in templates if "{}" not in template]
        if wrong:
            raise DataError("templates of sentences", f"no {{}} in {wrong[0]!r}", "put {} where the name goes")
        known = self.inner.classes.get(target, ())
        absent = [name for name in names if known and name not in known]
        if absent:
            raise DataError(
                f"names of the classes of {target!r}",
                f"no class {absent[0]!r}; there are {', '.join(map(str, known[:8]))}",
                "correct `names`",
            )
        self.names = dict(names)

    def __len__(self) -> int:
        return len(self.inner)

    def __getitem__(self, index: int) -> Sample:
        sample = dict(self.inner[index])
        label = sample.get(self.target)
        if label is None:
            return sample
        if not isinstance(label, str):
            known = self.classes.get(self.target, ())
            if not isinstance(label, int) or not 0 <= label < len(known):
                found = f"{label!r}, and the data set names no such class"
                raise DataError(f"a class name under {self.target!r}", found, "use a data set that names its classes")
            label = known[label]
        # Neighbours should not have the same sentence: a multiplicative hash of the number.
        template = self.templates[(index * 2654435761 % 2**32 >> 16) % len(self.templates)]
        sample[self.stream] = template.replace("{}", self.names.get(label, label))
        return sample

    def sample_id(self, index: int) -> str:
        return self.inner.sample_id(index)

    def fingerprint(self) -> str:
        said = hashlib.sha256(repr((self.templates, sorted(self.names.items()))).encode()).hexdigest()
        return f"{self.inner.fingerprint()}:described:{said[:16]}"
