"""Samples from WebDataset shards: tar files whose members with one name and several endings are one sample.

Source: the format of the webdataset library (`000123.jpg`, `000123.cls`, `000123.json` are sample `000123`).
Ours differs: shards are local, uncompressed and indexed once from their headers, so that samples are read by
index, in any order, by any number of workers; pickles are never read; links and hidden files are not members.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metaformer.base import Dataset
from metaformer.data.column import listing, suggestion
from metaformer.data.tar import read_members
from metaformer.errors import DataError
from metaformer.types import Sample

MAX_SHARDS = 1_000_000
"""Names that a brace expansion may give."""
PICKLES = frozenset({"pkl", "pickle", "pyd", "pt", "pth", "joblib"})

Member = tuple[str, str, int, int]
"""Key, ending, offset and size."""


class WebDataset(Dataset):
    """Samples by index from tar shards; the endings of members are the columns."""

    def __init__(
        self,
        *,
        shards: str,
        columns: Mapping[str, str] = {},
        root: Path | None = None,
        classes: Mapping[str, tuple[str, ...]] = {},
        max_bytes: int = 1 << 30,
    ) -> None:
        """Index the headers of all shards.

        shards: `train-{00000..00012}.tar`, a glob such as `train-*.tar`, or a folder of `.tar` files.
        columns: stream or target → ending, or several of which a sample has one: `{image: jpg;png, label: cls}`.
            Default: every ending under its own name. Texts, `cls`, `json` and `npy` are decoded, other endings
            give bytes.
        root: folder that `shards` is relative to; default: the working directory.
        classes: target → class names in index order.
        max_bytes: the largest member that is read.
        """
        self.classes = {target: tuple(names) for target, names in classes.items()}
        self._max_bytes = max_bytes
        self._shards = find_shards(shards, root)
        self._index(self._shards)
        if not self._keys:
            raise DataError(f"samples in {shards}", "none", "name members KEY.ENDING, such as 0001.jpg, 0001.cls")
        asked = columns or {ending: ending for ending in self._endings}
        self._columns = {name: self._accepted(name, column) for name, column in asked.items()}

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < len(self):
            raise IndexError(index)
        members = range(int(self._starts[index]), int(self._starts[index + 1]))
        there = {int(self._ending[member]): member for member in members}
        sample: Sample = {}
        # Opened for each sample: workers that share an open file would share its position.
        with self._shards[int(self._shard[index])].open("rb") as file:
            for name, accepted in self._columns.items():
                found = next((ending for ending in accepted if ending in there), None)
                sample[name] = None if found is None else self._read(file, index, found, there[found])
        return sample

    def sample_id(self, index: int) -> str:
        return f"{self._shards[int(self._shard[index])].stem}/{self._keys[index]}"

    def fingerprint(self) -> str:
        """Of the header of every member: name, size, time, place; not of the contents."""
        return f"webdataset:{len(self)}:{self._digest}"

    def _index(self, shards: list[Path]) -> None:
        endings: dict[str, int] = {}
        keys: list[str] = []
        starts: list[int] = []
        shard: list[int] = []
        ending: list[int] = []
        offset: list[int] = []
        size: list[int] = []
        digest = hashlib.sha256()
        for number, path in enumerate(shards):
            digest.update(os.fsencode(path.name))
            seen: set[str] = set()
            last: str | None = None
            for key, name, at, length in read_headers(path, digest.update):
                if key != last:  # members of a sample are neighbours, as the library that writes them has it
                    last, seen = key, set()
                    keys.append(key)
                    starts.append(len(ending))
                    shard.append(number)
                if name in seen:
                    do = "write it again: a key may have an ending once"
                    raise DataError(f"{path}: sample {key!r}", f"two members with the ending {name!r}", do)
                seen.add(name)
                ending.append(endings.setdefault(name, len(endings)))
                offset.append(at)
                size.append(length)
        self._endings, self._keys, self._digest = list(endings), keys, digest.hexdigest()
        self._starts = np.array([*starts, len(ending)], dtype=np.int64)
        self._shard, self._ending = np.array(shard, dtype=np.int32), np.array(ending, dtype=np.int32)
        self._offset, self._size = np.array(offset, dtype=np.int64), np.array(size, dtype=np.int64)

    def _accepted(self, name: str, column: str) -> tuple[int, ...]:
        """Numbers of the endings that a column may be read from, in order of preference."""
        wanted = [ending.strip().lower().lstrip(".") for ending in column.split(";")]
        pickled = [ending for ending in wanted if ending.rpartition(".")[2] in PICKLES]
        if pickled:
            do = "store numbers as npy, records as json"
            raise DataError(f"{name!r} from members {pickled[0]!r}", "a pickle, which can run code", do)
        found = tuple(self._endings.index(ending) for ending in wanted if ending in self._endings)
        if not found:
            do = f"{suggestion(wanted[0], self._endings)}correct `columns`"
            raise DataError(
                f"{self._shards[0].parent}: members {column!r} for {name!r}",
                f"no shard has any; the endings there are {listing(self._endings)}",
                do,
            )
        return found

    def _read(self, file: io.BufferedReader, index: int, ending: int, member: int) -> Any:
        name, size = self._endings[ending], int(self._size[member])
        asked = f"{file.name}: {self._keys[index]}.{name}"
        if size > self._max_bytes:
            found = f"{size} bytes, more than `max_bytes: {self._max_bytes}`"
            raise DataError(asked, found, "raise `max_bytes` if that is right")
        file.seek(int(self._offset[member]))
        data = file.read(size)
        if len(data) != size:
            raise DataError(asked, f"{len(data)} of {size} bytes: the shard was changed", "start again")
        decode = DECODERS.get(name.rpartition(".")[2])
        try:
            return data if decode is None else decode(data)
        except (ValueError, RecursionError) as error:  # a UnicodeDecodeError is a ValueError as well
            raise DataError(asked, f"cannot be decoded: {str(error)[:200]}", "write the member again") from error


def find_shards(shards: str, root: Path | None) -> list[Path]:
    """The files that a folder, a glob or a brace expansion stands for, each there."""
    if re.match(r"[a-z0-9]+:", shards):
        do = "copy the shards to a local or mounted folder"
        raise DataError(f"shards {shards!r}", "an address or a command; only local files are read", do)
    base = Path() if root is None else Path(root)
    try:
        if (base / shards).is_dir():
            found = sorted((base / shards).glob("*.tar"))
        else:
            found = [path for name in expand_braces(shards) for path in _matches(base, name)]
        absent = [path for path in found if not path.is_file()]
    except (OSError, ValueError) as error:  # a name that is too long, a null character
        raise DataError(f"shards {shards[:80]!r}", str(error)[:200], "name existing .tar files") from error
    if absent or not found:
        missing = f"{len(absent)} of {len(found)} are absent, first {absent[0].absolute()}" if found else "no file"
        raise DataError(f"shards {shards!r}", missing, "name existing .tar files, relative to `root`")
    return found


def _matches(base: Path, name: str) -> list[Path]:
    if not any(mark in name for mark in "*?["):
        return [base / name]
    anchor = Path(name).anchor  # `Path.glob` takes relative patterns only
    return sorted((Path(anchor) if anchor else base).glob(name.removeprefix(anchor)))


def expand_braces(pattern: str) -> list[str]:
    """`a{00..02}{x,y}.tar` → a00x.tar, a00y.tar, a01x.tar, …, as a shell does; zeros on the left stay."""
    choices: list[list[str]] = []
    for part in re.split(r"(\{[^{}]*\})", pattern):
        span = re.fullmatch(r"\{(\d+)\.\.(\d+)\}", part)
        if span:
            first, last = int(span[1]), int(span[2])
            if abs(last - first) >= MAX_SHARDS:
                raise DataError(f"shards {pattern!r}", f"{abs(last - first) + 1} names", "give a shorter range")
            width = max(map(len, span.groups())) if any(g.startswith("0") for g in span.groups()) else 0
            step = 1 if last >= first else -1
            choices.append([f"{number:0{width}d}" for number in range(first, last + step, step)])
        elif part.startswith("{") and "," in part:
            choices.append(part[1:-1].split(","))
        else:
            choices.append([part])
    if prod(map(len, choices)) > MAX_SHARDS:
        raise DataError(f"shards {pattern!r}", f"{prod(map(len, choices))} names", "give shorter ranges")
    names = [""]
    for texts in choices:
        names = [name + text for name in names for text in texts]
    return names


def read_headers(path: Path, note: Callable[[bytes], object]) -> Iterator[Member]:
    """What is part of a sample in a shard; `note` gets what identifies each member."""
    for member in read_members(path):
        key, ending = split_name(member.name)
        if key:
            text = f"{member.name}\0{member.offset}\0{member.size}\0{member.mtime}\0"
            note(text.encode("utf-8", "replace"))
            yield key, ending, member.offset, member.size


def split_name(name: str) -> tuple[str, str]:
    """`a/b.seg.PNG` → (`a/b`, `seg.png`); empty for what is no part of a sample: hidden, `__meta__`, no ending."""
    folder, slash, base = name.rpartition("/")
    stem, dot, ending = base.partition(".")
    if not stem or not dot or re.match(r"__[^/]*__($|/)", name):
        return "", ""
    return folder + slash + stem, ending.lower()


def read_npy(data: bytes) -> NDArray[Any]:
    """An array from the bytes of an `npy` file. ValueError for objects (pickles) and for sizes that lie."""
    file = io.BytesIO(data)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    try:
        shape, column_major, dtype = readers[np.lib.format.read_magic(file)](file)
    except Exception as error:  # numpy reads the header as a Python literal: a damaged one may raise anything
        raise ValueError(f"no npy header of version 1 or 2: {error}") from error
    if dtype.hasobject:
        raise ValueError("an array of Python objects, which is a pickle and can run code")
    content = len(data) - file.tell()
    if prod(shape) * dtype.itemsize != content or min(shape, default=0) < 0:
        raise ValueError(f"{content} bytes for shape {shape} of {dtype}")
    flat = np.frombuffer(data, dtype=dtype, offset=file.tell()) if content else np.empty(0, dtype)
    return flat.reshape(shape, order="F" if column_major else "C").copy()


def _text(data: bytes) -> str:
    return data.decode("utf-8")


DECODERS: Mapping[str, Callable[[bytes], Any]] = {
    **dict.fromkeys(("txt", "text", "transcript"), _text),
    **dict.fromkeys(("cls", "cls2", "index", "inx", "id"), int),
    **dict.fromkeys(("json", "jsn"), json.loads),
    "npy": read_npy,
}
"""Last part of an ending → decoder; the endings and meanings of the webdataset library."""
