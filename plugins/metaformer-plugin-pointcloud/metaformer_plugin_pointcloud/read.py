"""A file of points or of a surface → PointSet; nothing that a file says is believed before it is checked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from metaformer.errors import DataError
from metaformer.files.array import read_npy
from metaformer.files.numbers import read_numbers
from metaformer_plugin_pointcloud.cloud import PointSet, from_columns
from metaformer_plugin_pointcloud.las import read_las
from metaformer_plugin_pointcloud.mesh import Mesh, read_obj, read_off, read_stl
from metaformer_plugin_pointcloud.pcd import read_pcd
from metaformer_plugin_pointcloud.ply import read_ply
from metaformer_plugin_pointcloud.text import read_text

BYTES_PER_POINT = 256
"""More than a point takes in any format, a line of text included: bounds the size of files that are opened."""
HEADER_BYTES = 1 << 20


@dataclass(frozen=True)
class Limits:
    """What a file may hold, and what is made of a surface."""

    points: int
    """Most points, vertices or faces."""
    surface: int | None
    """Points drawn on a surface, evenly by area; None takes its vertices."""


MESHES: dict[str, Callable[[Path, bytes, int], Mesh]] = {".off": read_off, ".obj": read_obj, ".stl": read_stl}
TEXTS = (".xyz", ".txt", ".pts", ".asc")
SUFFIXES = (".ply", ".pcd", ".las", ".laz", *MESHES, *TEXTS, ".csv", ".tsv", ".npy")


def read_cloud(path: Path, limits: Limits, columns: tuple[str, ...], color_max: float, seed: int) -> PointSet:
    """Points of a file; of a surface (OFF, OBJ, STL, PLY with faces) points drawn by `seed`, with its normals.

    `columns`: what follows x, y, z in .xyz, .txt, .pts, .asc, .csv, .tsv and .npy. Raises DataError."""
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise DataError(f"a point cloud of {path}", f"suffix {suffix!r}", f"give one of {', '.join(SUFFIXES)}")
    try:
        size = path.stat().st_size
        most = limits.points * BYTES_PER_POINT + HEADER_BYTES
        if size > most:
            raise DataError(
                f"a file of at most {limits.points} points, {path}", f"{size} bytes", "raise `max_points`, or cut it"
            )
        return _read(path, suffix, limits, columns, color_max, seed)
    # All that readers say of damaged content; each names what it found.
    except (OSError, ValueError, ArithmeticError, MemoryError) as error:
        raise DataError(f"a point cloud of {path}", str(error)[:200] or "no text", "give a readable file") from error


def _read(path: Path, suffix: str, limits: Limits, columns: tuple[str, ...], color_max: float, seed: int) -> PointSet:
    subject = f"a point cloud of {path}"
    if suffix in (".las", ".laz"):
        return read_las(path, limits.points)
    if suffix == ".npy":
        return from_columns(read_npy(path, limits.points * BYTES_PER_POINT // 8), columns, color_max, subject)
    if suffix in (".csv", ".tsv"):
        return from_columns(read_numbers(path, longest=limits.points + 1), columns, color_max, subject)
    data = path.read_bytes()
    if suffix in TEXTS:
        return from_columns(read_text(data, limits.points, counted=suffix == ".pts"), columns, color_max, subject)
    if suffix == ".pcd":
        return read_pcd(data, limits.points)
    mesh = read_ply(data, limits.points) if suffix == ".ply" else MESHES[suffix](path, data, limits.points)
    if limits.surface is None or mesh.faces is None or not len(mesh.faces):
        return mesh.vertices
    return mesh.sampled(limits.surface, seed)
