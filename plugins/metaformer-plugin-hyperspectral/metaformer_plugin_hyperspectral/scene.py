"""A scene's cube, opened when the first neighbourhood is asked for, and again in every data worker."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from metaformer.errors import DataError
from metaformer_plugin_hyperspectral.cube import read_cube


class Scene:
    """The cube [rows, columns, bands] of a file. Copies to workers without it."""

    def __init__(self, path: Path, variable: str, most: int, shape: tuple[int, int]) -> None:
        """`shape` are the rows and columns that the labels have."""
        if not path.is_file():
            raise DataError(f"the scene {path}", "no such file", "name the file of the cube")
        self.path, self.variable, self.most, self.shape = path, variable, most, shape
        self._cube: np.ndarray | None = None

    @property
    def cube(self) -> np.ndarray:
        """As it is stored. Raises DataError where it is damaged, or of another shape than the labels."""
        if self._cube is None:
            cube = read_cube(self.path, self.variable, self.most)
            if cube.shape[:2] != self.shape:
                raise DataError(
                    f"a scene of {self.shape[0]} x {self.shape[1]} pixels, as the labels have, in {self.path}",
                    f"{cube.shape[0]} x {cube.shape[1]} pixels of {cube.shape[2]} bands",
                    "give a cube [rows, columns, bands] and labels [rows, columns] of the same place",
                )
            self._cube = cube
        return self._cube

    def around(self, row: int, column: int, size: int) -> Float32[np.ndarray, "P P bands"]:
        """The `size` x `size` pixels around one, mirrored at the scene's edges."""
        rows, columns = (mirrored(at, size, length) for at, length in zip((row, column), self.shape, strict=True))
        # What does not fit becomes infinite, and is refused where it is used; NaNs may signal.
        with np.errstate(over="ignore", invalid="ignore"):
            return np.asarray(self.cube[rows[:, None], columns[None, :]], dtype=np.float32)

    def digest(self) -> str:
        """Of the file's bytes, and of the numbers behind an ENVI header too."""
        digest = hashlib.sha256()
        with self.path.open("rb") as file:
            while piece := file.read(1 << 20):
                digest.update(piece)
        if self.path.suffix.lower() == ".hdr":
            for row in self.cube:
                digest.update(row.tobytes())
        return digest.hexdigest()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_cube": None}


def mirrored(at: int, size: int, length: int) -> np.ndarray:
    """Indices `at - size // 2` to `at + size // 2`, reflected at both ends of `length`, the ends twice."""
    place = (np.arange(at - size // 2, at + size // 2 + 1)) % (2 * length)
    return np.where(place < length, place, 2 * length - 1 - place)
