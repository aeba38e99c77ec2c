"""PCD files, as text, binary and compressed.

Source: the Point Cloud Library's description of its format, version 0.7; LZF as in M. Lehmann's liblzf.
"""

from __future__ import annotations

import numpy as np

from metaformer_plugin_pointcloud.cloud import PointSet
from metaformer_plugin_pointcloud.text import numbers

LONGEST_HEADER = 1 << 14
KINDS = {"F": "f", "I": "i", "U": "u"}


def read_pcd(data: bytes, most: int) -> PointSet:
    """Points with normals, colours and intensity where there are. Raises ValueError."""
    header, at, form = _header(data)
    record, count = _record(header), _count(header)
    if count > most:
        raise ValueError(f"{count} points, more than `max_points` {most}")
    need = count * record.itemsize
    if form == "ascii":
        return _points(_text(data[at:], record, count))
    if form == "binary":
        if need > len(data) - at:
            raise ValueError(f"{len(data) - at} bytes after the header, and its points need {need}")
        return _points(np.frombuffer(data, record, count, at))
    packed, plain = (int.from_bytes(data[at + i : at + i + 4], "little") for i in (0, 4))
    if plain != need or packed > len(data) - at - 8:
        raise ValueError(f"{packed} bytes compressed and {plain} plain, where {need} are needed")
    flat = unpack(data[at + 8 : at + 8 + packed], need)
    table = np.zeros(count, record)
    at = 0
    for name in record.names or ():  # column by column
        size = record[name].itemsize * count
        kind, shape = record[name].base, record[name].shape
        table[name] = np.frombuffer(flat[at : at + size], kind).reshape(count, *shape)
        at += size
    return _points(table)


def _header(data: bytes) -> tuple[dict[str, list[str]], int, str]:
    header: dict[str, list[str]] = {}
    at = 0
    while at < LONGEST_HEADER:
        end = data.find(b"\n", at, LONGEST_HEADER)
        if end < 0:
            break
        words = data[at:end].decode("latin-1").split()
        at = end + 1
        if words and not words[0].startswith("#"):
            header[words[0].upper()] = words[1:]
            if words[0].upper() == "DATA":
                form = words[1] if len(words) == 2 else ""
                if form not in ("ascii", "binary", "binary_compressed"):
                    raise ValueError(f"data {form[:30]!r}")
                return header, at, form
    raise ValueError("no PCD header")


def _record(header: dict[str, list[str]]) -> np.dtype:
    names = header.get("FIELDS", [])
    counts = header.get("COUNT", ["1"] * len(names))
    sizes, kinds = header.get("SIZE", []), header.get("TYPE", [])
    if not names or not len(names) == len(sizes) == len(kinds) == len(counts) or len(names) > 256:
        raise ValueError("FIELDS, SIZE, TYPE and COUNT of different length")
    fields = []
    for i, (name, size, kind, count) in enumerate(zip(names, sizes, kinds, counts, strict=True)):
        known = kind in KINDS and size in (("4", "8") if kind == "F" else ("1", "2", "4", "8"))
        if not known or not count.isdecimal() or not 0 < int(count) <= 4096:
            raise ValueError(f"field {name[:30]!r} of type {kind[:5]}{size[:5]} x {count[:9]}")
        # Padding fields are all called `_`.
        fields.append((f"_{i}" if name == "_" else name, f"<{KINDS[kind]}{size}", (int(count),)))
    if len({name for name, *_ in fields}) != len(fields):
        raise ValueError("a field twice")
    return np.dtype(fields)


def _count(header: dict[str, list[str]]) -> int:
    said = [header.get(key, ["1"] if key == "HEIGHT" else [""]) for key in ("WIDTH", "HEIGHT")]
    words = [word[0] if len(word) == 1 else "" for word in said]
    if not all(word.isdecimal() and len(word) < 12 for word in words):
        raise ValueError(f"size {words}")
    count = int(words[0]) * int(words[1])
    if header.get("POINTS", [str(count)]) != [str(count)]:
        raise ValueError(f"{header['POINTS'][:1]} points, and {count} by width and height")
    return count


def _text(data: bytes, record: np.dtype, count: int) -> np.ndarray:
    shapes = [(name, record[name].shape[0]) for name in record.names or ()]
    width = sum(size for _, size in shapes)
    values = numbers(data)
    if len(values) != count * width:
        raise ValueError(f"{len(values)} numbers, where {count} points of {width} should be")
    table = np.zeros(count, record)
    at = 0
    for name, size in shapes:
        part = values.reshape(count, width)[:, at : at + size]
        at += size
        kind = record[name].base
        if kind.kind != "f" and not ((part >= np.iinfo(kind).min) & (part <= np.iinfo(kind).max)).all():
            raise ValueError(f"a {name[:30]} that is no {kind}")
        table[name] = part
    return table


def _points(table: np.ndarray) -> PointSet:
    names = set(table.dtype.names or ())
    if not {"x", "y", "z"} <= names:
        raise ValueError(f"points without x, y, z: {', '.join(sorted(names))[:80]}")
    found = PointSet(_columns(table, "x", "y", "z"))
    if {"normal_x", "normal_y", "normal_z"} <= names:
        found.channels["normal"] = _columns(table, "normal_x", "normal_y", "normal_z")
    if "intensity" in names:
        found.channels["intensity"] = _columns(table, "intensity")
    packed = next((table[name][:, 0] for name in ("rgb", "rgba") if name in names), None)
    if packed is not None and packed.dtype.itemsize == 4:
        # Three bytes in the bits of one number, whatever its type says.
        bits = packed.copy().view("<u4")
        found.channels["color"] = np.stack([(bits >> shift & 255) / 255 for shift in (16, 8, 0)], axis=1)
    return found


def _columns(table: np.ndarray, *names: str) -> np.ndarray:
    return np.stack([table[name][:, 0].astype(np.float64) for name in names], axis=1)


def unpack(packed: bytes, size: int) -> bytes:
    """LZF: literals, and copies of what came up to 8 KiB before. Raises ValueError."""
    out = bytearray()
    at = 0
    while at < len(packed):
        control = packed[at]
        at += 1
        if control < 32:
            out += packed[at : at + control + 1]
            at += control + 1
        else:
            length = control >> 5
            if length == 7 and at < len(packed):
                length += packed[at]
                at += 1
            if at >= len(packed):
                raise ValueError("compressed data that end early")
            start = len(out) - ((control & 31) << 8) - packed[at] - 1
            at += 1
            if start < 0:
                raise ValueError("compressed data that copy from before their beginning")
            length += 2
            piece = bytes(out[start : start + length])
            # A copy may reach into itself: then it repeats.
            out += (piece * (length // len(piece) + 1))[:length] if len(piece) < length else piece
        if len(out) > size:
            raise ValueError(f"compressed data of more than {size} bytes")
    if len(out) != size:
        raise ValueError(f"compressed data of {len(out)} bytes instead of {size}")
    return bytes(out)
