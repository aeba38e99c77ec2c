"""ENVI scenes: a text header (`.hdr`) beside a file of bare numbers, which is mapped and not read.

Source: the header format as documented for ENVI: dimensions, data type, interleave, byte order, header offset.
Ours differs: the file of numbers is found by its name beside the header, never by what a header says; compressed and
complex ones are refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import prod
from pathlib import Path

import numpy as np

TYPES = {1: "u1", 2: "i2", 3: "i4", 4: "f4", 5: "f8", 12: "u2", 13: "u4", 14: "i8", 15: "u8"}
"""ENVI's code → numpy's name; 6 and 9 are complex."""
SUFFIXES = ("", ".raw", ".img", ".dat", ".bsq", ".bil", ".bip", ".bin", ".cub")
LONGEST_HEADER = 1 << 22
AXES = {"bsq": (2, 0, 1), "bil": (0, 2, 1), "bip": (0, 1, 2)}
"""Interleave → which of (rows, columns, bands) its axes are, outermost first."""


def read_envi(path: Path, most: int) -> np.ndarray:
    """[rows, columns, bands], mapped from the disk; where the header has a `data ignore value`, which becomes NaN, read
    into memory, if it is at most `most` numbers.

    Raises ValueError and OSError for what cannot be used."""
    if path.stat().st_size > LONGEST_HEADER:
        raise ValueError(f"a header of {path.stat().st_size} bytes")
    said = _header(path.read_text(encoding="latin-1"))
    shape = tuple(_whole(said, key, smallest=1) for key in ("lines", "samples", "bands"))
    code = _whole(said, "data type")
    if code not in TYPES:
        raise ValueError(f"data type {code}, where numbers that are not complex are needed")
    order = _whole(said, "byte order", default=0)
    if order not in (0, 1):
        raise ValueError(f"byte order {order}, which is 0 or 1")
    if _whole(said, "file compression", default=0):
        raise ValueError("compressed: store it without compression")
    interleave = said.get("interleave", "bsq").lower()
    if interleave not in AXES:
        raise ValueError(f"interleave {interleave!r}, which is bsq, bil or bip")
    dtype = np.dtype(TYPES[code]).newbyteorder(">" if order else "<")
    offset = _whole(said, "header offset", default=0)
    data = _numbers_file(path)
    needs, there = offset + prod(shape) * dtype.itemsize, data.stat().st_size
    if needs > there:
        raise ValueError(f"{data.name} has {there} bytes where the header needs {needs}")
    axes = AXES[interleave]
    mapped = np.memmap(data, dtype, "r", offset, tuple(shape[axis] for axis in axes))
    cube = mapped.transpose([axes.index(axis) for axis in range(3)])
    nothing = said.get("data ignore value")
    if nothing is None:
        return cube
    if cube.size > most:
        raise ValueError(f"{cube.size} numbers, which must be read for its data ignore value: raise max_values")
    gone = cube == float(nothing)
    return np.where(gone, np.float32("nan"), cube).astype(np.float32, copy=False) if gone.any() else cube


def _header(text: str) -> Mapping[str, str]:
    first, _, rest = text.partition("\n")
    if first.strip() != "ENVI":
        raise ValueError("its first line is not ENVI")
    # Values in braces may go over several lines.
    pairs = re.findall(r"^[ \t]*([^=\n;{}]+?)[ \t]*=[ \t]*(\{[^{}]*\}|[^\n]*)$", rest.replace("\r", ""), re.MULTILINE)
    return {key.lower(): value.strip() for key, value in pairs}


def _whole(said: Mapping[str, str], key: str, default: int | None = None, smallest: int = 0) -> int:
    text = said.get(key)
    if text is None and default is not None:
        return default
    if text is None or not text.isascii() or not text.isdecimal() or len(text) > 12 or int(text) < smallest:
        raise ValueError(f"{key} is {text!r}, which must be a whole number from {smallest}")
    return int(text)


def _numbers_file(path: Path) -> Path:
    """The file of numbers beside the header: `scene.raw.hdr` or `scene.hdr` for `scene.raw`."""
    stem = path.with_suffix("")
    for suffix in SUFFIXES:
        for ending in (suffix, suffix.upper()):
            candidate = stem.with_name(stem.name + ending)
            if candidate != path and candidate.is_file():
                return candidate
    raise ValueError(f"no file of numbers beside it, such as {stem.name} or {stem.name}.raw")
