"""Reader of `.ts` files, the format of the UEA and UCR archives.

Source: the format as the archives and the aeon toolkit document it.
Ours differs: files with time stamps (`@timeStamps true`) are refused.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from metaformer.errors import DataError

FLAGS = ("timestamps", "missing", "univariate", "equallength", "classlabel", "targetlabel")


@dataclass
class TsHeader:
    """What stands before `@data`; keys in lower case."""

    text: dict[str, str] = field(default_factory=dict)
    flags: dict[str, bool] = field(default_factory=dict)
    classes: tuple[str, ...] = ()

    @property
    def labelled(self) -> bool:
        return self.flags.get("classlabel", False) or self.flags.get("targetlabel", False)


@dataclass
class TsFile:
    """Everything in a file."""

    header: TsHeader
    series: list[Float64[np.ndarray, "_ C"]]
    """Missing values are NaN."""
    labels: list[str] | list[float] | None
    """Class names, or numbers, or nothing."""


def read_ts(path: Path) -> TsFile:
    """Raises DataError naming file and line."""
    header = TsHeader()
    series: list[Float64[np.ndarray, "L C"]] = []
    labels: list[str] = []
    in_data = False
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                line = line.strip()
                if not line or line[0] in "#%":
                    continue
                where = f"{path}, line {number}"
                if not in_data:
                    in_data = _read_header(line, header, where)
                    continue
                one, label = _read_case(line, header, where)
                if series and one.shape[1] != series[0].shape[1]:
                    raise _bad(where, f"{one.shape[1]} channels, {series[0].shape[1]} before")
                series.append(one)
                labels.append(label)
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"time series file {path}", str(error), "give a readable .ts text file") from error
    if not series:
        raise DataError(
            f"time series file {path}",
            "no series after @data" if in_data else "no @data line",
            "give a whole file",
        )
    if not header.classes and header.flags.get("classlabel"):
        header.classes = tuple(sorted(set(labels)))
    if header.flags.get("targetlabel"):
        return TsFile(header, series, _numbers(labels, path))
    return TsFile(header, series, labels if header.labelled else None)


def _read_header(line: str, header: TsHeader, where: str) -> bool:
    """One line of the header; True if it is `@data`, the last."""
    if not line.startswith("@"):
        raise _bad(where, f"{line[:40]!r} before @data")
    key, *words = line[1:].split() or [""]
    key = key.lower()
    if key == "data":
        if header.flags.get("timestamps"):
            raise _bad(where, "@timeStamps true: a file with time stamps", "write it without time stamps")
        return True
    if key in FLAGS:
        if not words or words[0].lower() not in ("true", "false"):
            raise _bad(where, f"@{key} {' '.join(words)}", f"write @{key} true or false")
        header.flags[key] = words[0].lower() == "true"
        if key == "classlabel":
            header.classes = tuple(words[1:])
    else:
        header.text[key] = " ".join(words)
    return False


def _read_case(line: str, header: TsHeader, where: str) -> tuple[Float64[np.ndarray, "L C"], str]:
    """Channels separated by `:`, and the label after the last one."""
    parts = line.split(":")
    label = parts.pop().strip() if header.labelled else ""
    if header.labelled and not label:
        raise _bad(where, "no label")
    if header.classes and label not in header.classes:
        raise _bad(where, f"class {label!r}, and the header has {', '.join(header.classes)}")
    channels = [_channel(part, where) for part in parts]
    if not channels or len({len(channel) for channel in channels}) > 1:
        found = ", ".join(str(len(channel)) for channel in channels) or "none"
        raise _bad(where, f"channels of different lengths: {found}")
    if header.flags.get("univariate") and len(channels) > 1:
        raise _bad(where, f"{len(channels)} channels, and the header says @univariate true")
    told = header.text.get("dimensions", "")
    if told.isdecimal() and int(told) != len(channels):
        raise _bad(where, f"{len(channels)} channels, and the header says @dimensions {told}")
    return np.stack(channels, axis=1), label


def _channel(text: str, where: str) -> Float64[np.ndarray, " L"]:
    if not text.strip():
        raise _bad(where, "an empty channel")
    try:
        return np.array([np.nan if v.strip() in ("?", "") else float(v) for v in text.split(",")])
    except ValueError as error:
        raise _bad(where, str(error)) from None


def _numbers(labels: Iterable[str], path: Path) -> list[float]:
    try:
        return [float("nan") if label == "?" else float(label) for label in labels]
    except ValueError as error:
        raise DataError(f"numbers as targets in {path}", str(error), "repair the file") from None


def _bad(where: str, found: str, do: str = "repair the file") -> DataError:
    return DataError(f"a .ts file at {where}", found, do)
