"""PLY files, as text and binary: points with colours, normals and intensity, and faces.

Source: the format as G. Turk's "The PLY Polygon File Format" (1994) has it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from metaformer_plugin_pointcloud.cloud import PointSet
from metaformer_plugin_pointcloud.mesh import Mesh, fan
from metaformer_plugin_pointcloud.text import numbers

LONGEST_HEADER = 1 << 16
TYPES = {"char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4"}
TYPES |= {"float": "f4", "double": "f8", "int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2"}
TYPES |= {"int32": "i4", "uint32": "u4", "float32": "f4", "float64": "f8"}
ORDERS = {"binary_little_endian": "<", "binary_big_endian": ">"}
CORNERS = ("vertex_indices", "vertex_index")
CHANNELS = {
    "color": (("red", "green", "blue"), ("r", "g", "b"), ("diffuse_red", "diffuse_green", "diffuse_blue")),
    "normal": (("nx", "ny", "nz"),),
    "intensity": (("intensity",), ("scalar_Intensity",)),
}


@dataclass
class Element:
    """One table of the file."""

    name: str
    count: int
    fields: list[tuple[str, str, str | None]] = field(default_factory=list)
    """Name, numpy type, and the type of its length where it is a list."""

    def record(self, order: str) -> np.dtype:
        return np.dtype([(name, order + kind) for name, kind, _ in self.fields])

    @property
    def listed(self) -> bool:
        return any(length is not None for _, _, length in self.fields)


def read_ply(data: bytes, most: int) -> Mesh:
    """Vertices, and triangles where there are faces. Raises ValueError."""
    form, elements, start = _header(data)
    for element in elements:
        if element.name in ("vertex", "face") and element.count > most:
            raise ValueError(f"{element.count} of {element.name}, more than `max_points` {most}")
    if [e.name for e in elements].count("vertex") != 1 or elements[0].name != "vertex" or elements[0].listed:
        raise ValueError("no plain `vertex` element at the beginning")
    read = _text if form == "ascii" else _binary
    table, faces = read(data, start, elements, ORDERS.get(form, ""))
    return Mesh(_points(table), faces)


def _header(data: bytes) -> tuple[str, list[Element], int]:
    end = data.find(b"end_header", 0, LONGEST_HEADER)
    stop = data.find(b"\n", end, end + 16) + 1 if end >= 0 else 0
    if not data.startswith(b"ply") or not stop:
        raise ValueError("no PLY header")
    form = ""
    elements: list[Element] = []
    for line in data[:end].decode("latin-1").splitlines():
        words = line.split()
        if words[:1] == ["format"] and len(words) == 3:
            form = words[1]
        elif words[:1] == ["element"] and len(words) == 3 and words[2].isdecimal() and len(words[2]) < 16:
            elements.append(Element(words[1], int(words[2])))
        elif words[:2] == ["property", "list"] and len(words) == 5 and elements:
            if TYPES.get(words[2], "f")[0] == "f":
                raise ValueError(f"a list whose length is {words[2]!r}")
            elements[-1].fields.append((words[4], _type(words[3]), _type(words[2])))
        elif words[:1] == ["property"] and len(words) == 3 and elements:
            elements[-1].fields.append((words[2], _type(words[1]), None))
        elif words and words[0] not in ("ply", "comment", "obj_info"):
            raise ValueError(f"header line {line[:60]!r}")
    if form != "ascii" and form not in ORDERS:
        raise ValueError(f"format {form[:30]!r}")
    if not elements or any(len({f[0] for f in e.fields}) != len(e.fields) for e in elements):
        raise ValueError("no elements, or a property twice")
    return form, elements, stop


def _type(word: str) -> str:
    if word not in TYPES:
        raise ValueError(f"property type {word[:30]!r}")
    return TYPES[word]


def _binary(data: bytes, at: int, elements: list[Element], order: str) -> tuple[np.ndarray, np.ndarray | None]:
    record = elements[0].record(order)
    need = elements[0].count * record.itemsize
    if not record.itemsize or need > len(data) - at:
        raise ValueError(f"{len(data) - at} bytes after the header, and its points need {need}")
    table = np.frombuffer(data, record, elements[0].count, at)
    at += need
    for element in elements[1:]:
        if element.name == "face":
            return table, _binary_faces(data, at, element, order)
        if element.listed:
            break  # faces behind lists of something else are not looked for
        at += element.count * element.record(order).itemsize
    return table, None


def _binary_faces(data: bytes, at: int, element: Element, order: str) -> np.ndarray:
    faces: list[list[int]] = []
    if element.count > len(data) - at:
        raise ValueError(f"{len(data) - at} bytes where {element.count} faces should be")
    for _ in range(element.count):
        corners: list[int] = []
        for name, kind, length in element.fields:
            count = 1
            if length is not None:
                count, at = int(_numbers(data, at, order + length, 1)[0]), at + np.dtype(length).itemsize
            values = _numbers(data, at, order + kind, count)
            at += values.nbytes
            if name in CORNERS:
                corners = values.tolist()
        faces.append(corners)
    return fan(faces)


def _numbers(data: bytes, at: int, kind: str, count: int) -> np.ndarray:
    if not 0 <= count <= (len(data) - at) // np.dtype(kind).itemsize:
        raise ValueError("the file ends inside its faces")
    return np.frombuffer(data, kind, count, at)


def _text(data: bytes, at: int, elements: list[Element], order: str) -> tuple[np.ndarray, np.ndarray | None]:
    lines = [line for line in data[at:].splitlines() if line.strip()]
    vertex = elements[0]
    if len(lines) < sum(element.count for element in elements):
        raise ValueError(f"{len(lines)} lines, and the header says {sum(e.count for e in elements)}")
    width = len(vertex.fields)
    values = numbers(b" ".join(lines[: vertex.count]))
    if len(values) != vertex.count * width:
        raise ValueError(f"{len(values)} numbers for {vertex.count} points of {width}")
    table = np.zeros(vertex.count, vertex.record("="))
    for (name, kind, _), column in zip(vertex.fields, values.reshape(-1, width).T, strict=True):
        if kind[0] != "f" and not ((column >= np.iinfo(kind).min) & (column <= np.iinfo(kind).max)).all():
            raise ValueError(f"a {name} that is no {kind}")
        table[name] = column
    start = vertex.count
    for element in elements[1:]:
        if element.name == "face":
            return table, _text_faces(lines[start : start + element.count], element)
        start += element.count
    return table, None


def _text_faces(lines: list[bytes], element: Element) -> np.ndarray:
    faces = []
    for line in lines:
        words, corners = iter(line.split()), []
        for name, _, length in element.fields:
            count = 1 if length is None else int(next(words, b"x"))
            values = [word for _, word in zip(range(count), words, strict=False)]
            if len(values) != count:
                raise ValueError(f"a face {line[:40]!r}")
            if name in CORNERS:
                corners = [int(value) for value in values]
        faces.append(corners)
    return fan(faces)


def _points(table: np.ndarray) -> PointSet:
    names = table.dtype.names or ()
    if not {"x", "y", "z"} <= set(names):
        raise ValueError(f"points without x, y, z: {', '.join(names)[:80]}")
    found = PointSet(_columns(table, ("x", "y", "z")))
    for channel, spellings in CHANNELS.items():
        for spelling in spellings:
            if set(spelling) <= set(names) and channel not in found.channels:
                kind = table.dtype[spelling[0]]
                values = _columns(table, spelling)
                if channel != "normal" and kind.kind == "u":
                    values = values / np.iinfo(kind).max
                found.channels[channel] = values
    return found


def _columns(table: np.ndarray, names: tuple[str, ...]) -> np.ndarray:
    return np.stack([table[name].astype(np.float64) for name in names], axis=1)
