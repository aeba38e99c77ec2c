"""Surfaces of triangles: OFF, OBJ and STL files, and points drawn on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float64, Int64

from metaformer_plugin_pointcloud.cloud import PointSet
from metaformer_plugin_pointcloud.text import numbers


@dataclass
class Mesh:
    """Vertices, and the triangles between them where there are any."""

    vertices: PointSet
    faces: Int64[np.ndarray, "F 3"] | None

    def __post_init__(self) -> None:
        faces = self.faces
        if faces is not None and faces.size and not (faces.min() >= 0 and faces.max() < len(self.vertices)):
            raise ValueError(f"a face with vertex {int(faces.max())}, and there are {len(self.vertices)}")

    def sampled(self, count: int, seed: int) -> PointSet:
        """`count` points, evenly by area, with the normals of their triangles; other channels are interpolated.

        Raises ValueError where the surface has no area."""
        assert self.faces is not None
        corners = self.vertices.points[self.faces]  # [F, 3, 3]
        cross = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        area = np.linalg.norm(cross, axis=1)
        if not (np.isfinite(area).all() and area.sum() > 0):
            raise ValueError("a surface without area, or without end")
        random = np.random.default_rng(seed)
        face = np.searchsorted(np.cumsum(area), random.uniform(0, area.sum(), count), side="right")
        face = face.clip(max=len(area) - 1)
        a, b = random.uniform(size=(2, count))
        # The square root makes it even inside a triangle (Osada et al., 2002, section 3.1).
        weight = np.stack([1 - np.sqrt(a), np.sqrt(a) * (1 - b), np.sqrt(a) * b], axis=1)

        def between(values: Float64[np.ndarray, "N W"]) -> Float64[np.ndarray, "M W"]:
            return (values[self.faces[face]] * weight[:, :, None]).sum(axis=1)

        found = PointSet(between(self.vertices.points))
        found.channels = {name: between(values) for name, values in self.vertices.channels.items()}
        found.channels["normal"] = cross[face] / area[face, None].clip(min=1e-300)
        return found


def fan(faces: Sequence[Sequence[int]]) -> Int64[np.ndarray, "F 3"]:
    """Polygons as triangles about their first corner; those of fewer than three corners are left out."""
    out = [(f[0], f[i], f[i + 1]) for f in faces for i in range(1, len(f) - 1)]
    return np.array(out, dtype=np.int64).reshape(-1, 3)


def read_off(path: Path, data: bytes, most: int) -> Mesh:
    """Raises ValueError. ModelNet's files that glue the counts to the keyword (`OFF490 518 0`) are read too."""
    lines = [line.split(b"#")[0] for line in data.splitlines()]
    lines = [line for line in lines if line.strip()]
    if not lines or not lines[0].lstrip().startswith(b"OFF"):
        raise ValueError("no OFF at the beginning")
    rest = lines[0].lstrip()[3:]
    lines = [rest, *lines[1:]] if rest.strip() else lines[1:]
    counts = lines[0].split() if lines else []
    if len(counts) < 2 or not all(word.isdigit() and len(word) < 16 for word in counts[:2]):
        raise ValueError("no counts of vertices and faces")
    vertices, faces = int(counts[0]), int(counts[1])
    if max(vertices, faces) > most:
        raise ValueError(f"{vertices} vertices and {faces} faces, more than `max_points` {most}")
    if len(lines) - 1 < vertices + faces:
        raise ValueError(f"{len(lines) - 1} lines, where {vertices} vertices and {faces} faces should be")
    points = numbers(b" ".join(b" ".join(line.split()[:3]) for line in lines[1 : 1 + vertices]))
    if len(points) != 3 * vertices:
        raise ValueError("a vertex of fewer than three numbers")
    polygons = []
    for line in lines[1 + vertices : 1 + vertices + faces]:
        words = line.split()
        corners = [int(word) for word in words[1 : 1 + int(words[0])]]
        if len(corners) != int(words[0]):
            raise ValueError(f"a face {line[:40]!r}")
        polygons.append(corners)
    return Mesh(PointSet(points.reshape(-1, 3)), fan(polygons))


def read_obj(path: Path, data: bytes, most: int) -> Mesh:
    """Vertices (with colours from 0 to 1 where each has some) and faces; materials and textures are not looked for.
    Raises ValueError."""
    rows: list[list[float]] = []
    polygons: list[list[int]] = []
    for line in data.splitlines():
        words = line.split()
        if words[:1] == [b"v"]:
            rows.append([float(word) for word in words[1:7]])
        elif words[:1] == [b"f"]:
            corners = [int(word.split(b"/")[0]) for word in words[1:]]
            polygons.append([c - 1 if c > 0 else len(rows) + c for c in corners])
        if max(len(rows), len(polygons)) > most:
            raise ValueError(f"more vertices or faces than `max_points` {most}")
    if not rows:
        raise ValueError("no vertices")
    widths = {len(row) for row in rows}
    if min(widths) < 3:
        raise ValueError("a vertex of fewer than three numbers")
    found = PointSet(np.array([row[:3] for row in rows], dtype=np.float64))
    if widths == {6}:
        found.channels["color"] = np.array([row[3:] for row in rows], dtype=np.float64)
    return Mesh(found, fan(polygons))


_TRIANGLE = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("spare", "<u2")])


def read_stl(path: Path, data: bytes, most: int) -> Mesh:
    """Binary or text. Raises ValueError."""
    count = int.from_bytes(data[80:84], "little") if len(data) >= 84 else -1
    # Some binary files begin with `solid` as well: their size gives them away.
    if len(data) == 84 + count * _TRIANGLE.itemsize:
        if count > most:
            raise ValueError(f"{count} triangles, more than `max_points` {most}")
        corners = np.frombuffer(data, _TRIANGLE, count, 84)["corners"].reshape(-1, 3).astype(np.float64)
    elif data.lstrip().startswith(b"solid") and b"\0" not in data:
        words = [line.split() for line in data.splitlines()]
        rows = [row[1:4] for row in words if row[:1] == [b"vertex"]]
        if any(len(row) != 3 for row in rows) or not any(row[:1] == [b"endsolid"] for row in words):
            raise ValueError("an STL text that ends early")
        corners = numbers(b" ".join(b" ".join(row) for row in rows)).reshape(-1, 3)
    else:
        raise ValueError(f"{len(data)} bytes, where {count} triangles need {84 + count * _TRIANGLE.itemsize}")
    if not len(corners) or len(corners) % 3 or len(corners) > 3 * most:
        raise ValueError(f"{len(corners)} corners of triangles")
    return Mesh(PointSet(corners), np.arange(len(corners)).reshape(-1, 3))
