"""`python_topics`: passages of Python's own help texts, to be sorted by topic.

Source: `pydoc_data.topics` of the running Python, what `help("TYPES")` prints; PSF licence, version 2.
"""

from __future__ import annotations

import hashlib
import re
import sys
import textwrap
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from metaformer.base import Dataset
from metaformer.errors import DataError
from metaformer.types import Sample

TOPICS = (
    "compound",
    "debugger",
    "formatstrings",
    "import",
    "specialnames",
    "string-methods",
    "types",
    "typesseq",
)
"""Large topics of which none contains another (`with`, `try` and `function` are sections of `compound`)."""

SHORTEST = 40
"""Characters below which a rest of a topic is no passage."""


class PythonTopics(Dataset):
    """{`stream`: passage, `target`: topic}. A passage is a run of whole sentences of a topic, up to `length`
    characters (a longer sentence is cut); line breaks become spaces, headings are left out.

    Every fifth passage of a topic is for validation, and no sentence occurs twice: repeats within a topic are
    dropped, sentences of several topics altogether. The splits share no sentence, but they share documents:
    what is measured is telling these topics apart, not the reading of documents never seen.
    The texts differ from one version of Python to the next; `fingerprint` shows it.
    """

    def __init__(
        self,
        *,
        split: Literal["train", "valid"],
        length: Annotated[int, Field(ge=80, le=2000)] = 200,
        topics: Annotated[tuple[str, ...], Field(min_length=2)] = TOPICS,
        stream: str = "text",
        target: str = "label",
    ) -> None:
        texts = _texts(topics)
        self.stream, self.target, self.split = stream, target, split
        self.classes = {target: topics}
        self.samples: list[tuple[str, int]] = []
        for label, passages in enumerate(_passages([texts[topic] for topic in topics], length)):
            self.samples += [(p, label) for i, p in enumerate(passages) if (i % 5 == 4) == (split == "valid")]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        text, label = self.samples[index]
        return {self.stream: text, self.target: label}

    def fingerprint(self) -> str:
        digest = hashlib.sha256(repr(self.samples).encode()).hexdigest()
        return f"python_topics:{self.split}:{sys.version_info.major}.{sys.version_info.minor}:{digest}"


def _texts(topics: tuple[str, ...]) -> dict[str, str]:
    try:
        from pydoc_data.topics import topics as texts
    except ImportError as error:
        raise DataError(
            "python_topics",
            "this Python came without pydoc_data",
            "install the full standard library (Debian: apt-get install libpython3-stdlib)",
        ) from error
    absent = [topic for topic in topics if topic not in texts]
    if absent:
        raise DataError(
            f"python_topics: topics {', '.join(absent)}",
            f"this Python has {', '.join(sorted(texts))}",
            "choose among those",
        )
    return texts


def _passages(texts: list[str], length: int) -> Iterator[list[str]]:
    """Passages per text."""
    sentences = [list(_sentences(text)) for text in texts]
    seen_in: dict[str, set[int]] = {}
    for label, all_of_one in enumerate(sentences):
        for sentence in all_of_one:
            seen_in.setdefault(sentence, set()).add(label)
    for all_of_one in sentences:
        own = [s for s in dict.fromkeys(all_of_one) if len(seen_in[s]) == 1]
        yield [passage for passage in _pack(own, length) if len(passage) >= SHORTEST]


def _sentences(text: str) -> Iterator[str]:
    for paragraph in re.split(r"\n\s*\n", text):
        lines = paragraph.splitlines()
        # A heading is a line with a rule of one sign below it.
        rules = {i for i, line in enumerate(lines) if re.fullmatch(r"([*=\-~^])\1{2,}", line.strip())}
        kept = " ".join(line for i, line in enumerate(lines) if i not in rules and i + 1 not in rules)
        yield from (s for s in re.split(r"(?<=[.!?])\s+", " ".join(kept.split())) if s)


def _pack(sentences: list[str], length: int) -> Iterator[str]:
    passage = ""
    for sentence in sentences:
        for piece in textwrap.wrap(sentence, length):
            if passage and len(passage) + 1 + len(piece) > length:
                yield passage
                passage = ""
            passage = f"{passage} {piece}".strip()
    if passage:
        yield passage
