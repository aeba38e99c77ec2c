"""The receipt of a load: what became of every tensor of the source and of the model."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

_LISTED = 6
"""Folded names shown per line before the rest is counted."""


@dataclass(frozen=True)
class Receipt:
    """What `load_into` did. `str()` is for people, `to_dict()` for the run's lock."""

    name: str
    """The component that was filled, such as `encoders.shared`."""
    uri: str
    layout: str
    """Naming the source uses; `plain` where names were taken as they are."""
    digest: str
    """`sha256:…` of the source's file, of its files' digests, or of its tensors where it has no file."""
    files: Mapping[str, str] = field(default_factory=dict)
    """File name → its `sha256:…`."""
    mapped: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Our name → the source's; several were joined along the rows."""
    resized: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=dict)
    """Our name → shape in the source, shape here."""
    missing: tuple[str, ...] = ()
    """Our names the source lacks and the recipe allows to be missing: they keep their initial values."""
    unused: Mapping[str, str] = field(default_factory=dict)
    """Source name → why it was left."""
    unknown: tuple[str, ...] = ()
    """Source names left for no reason known here."""
    cast: Mapping[str, str] = field(default_factory=dict)
    """Our name → `type in the source → type here`, where they differ."""
    notes: tuple[str, ...] = ()
    """What a reader should know and may want to change in the recipe."""

    def __str__(self) -> str:
        whole = len(self.mapped) + len(self.missing)
        lines = [
            f"{self.name}: {len(self.mapped)} of {whole} tensors from {self.uri}",
            f"  layout   {self.layout}, {self.digest[:19]}",
            *_line("mapped", self.mapped),
            *_line("joined", [key for key, sources in self.mapped.items() if len(sources) > 1]),
            *_line("resized", [f"{key} {a} → {b}" for key, (a, b) in self.resized.items()]),
            *_line("missing", self.missing, "allowed by the recipe, keep their initial values"),
        ]
        for reason in dict.fromkeys(self.unused.values()):
            lines += _line("unused", [key for key, why in self.unused.items() if why == reason], reason)
        lines += _line("unknown", self.unknown, "not loaded, and nothing here knows them")
        for change, count in Counter(self.cast.values()).items():
            lines.append(f"  cast     {count}: {change}")
        lines += [f"  note     {note}" for note in self.notes]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, whole and unfolded."""
        return {
            "name": self.name,
            "uri": self.uri,
            "layout": self.layout,
            "digest": self.digest,
            "files": dict(self.files),
            "mapped": {key: list(sources) for key, sources in self.mapped.items()},
            "resized": {key: [list(a), list(b)] for key, (a, b) in self.resized.items()},
            "missing": list(self.missing),
            "unused": dict(self.unused),
            "unknown": list(self.unknown),
            "cast": dict(self.cast),
            "notes": list(self.notes),
        }


def fold(names: Iterable[str]) -> list[str]:
    """Names with block indices, and weight with bias, drawn together: `blocks.0-11.norm1.{weight,bias}`.

    Every name is covered by exactly one of the results."""
    blocks: dict[tuple[str, str], list[int]] = {}
    for name in names:
        match = re.search(r"(?:^|\.)(\d+)(?=\.)", name)
        if match:
            blocks.setdefault((name[: match.start(1)], name[match.end(1) :]), []).append(int(match[1]))
        else:
            blocks.setdefault((name, ""), [])
    ranged = [start + _ranges(numbers) + end for (start, end), numbers in blocks.items()]
    kinds: dict[str, list[str]] = {}
    for name in ranged:
        stem, dot, kind = name.rpartition(".")
        paired = dot and kind in ("weight", "bias")
        kinds.setdefault(stem if paired else name, []).extend([kind] if paired else [])
    return [stem + (f".{_braced(found)}" if found else "") for stem, found in kinds.items()]


def as_yaml(value: float) -> str:
    """A number that every version of YAML reads as one: `1.0e-06`, where `1e-06` is text to older ones."""
    text = repr(float(value))
    return text if "." in text else text.replace("e", ".0e")


def _braced(kinds: list[str]) -> str:
    return kinds[0] if len(kinds) == 1 else "{weight,bias}"


def _ranges(numbers: list[int]) -> str:
    spans: list[list[int]] = []
    for number in sorted(set(numbers)):
        if spans and spans[-1][1] == number - 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in spans)


def _line(title: str, names: Iterable[str], why: str = "") -> list[str]:
    names = list(names)
    if not names:
        return []
    folded = fold(names)
    shown = ", ".join(folded[:_LISTED]) + (f", and {len(folded) - _LISTED} more" if len(folded) > _LISTED else "")
    return [f"  {title:<8} {len(names)}: {shown}" + (f" ({why})" if why else "")]
