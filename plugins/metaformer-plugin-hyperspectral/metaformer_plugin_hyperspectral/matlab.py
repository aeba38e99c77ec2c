"""MATLAB files, level 5 (also compressed) and level 7.3: the arrays of numbers in them, and nothing else.

Source: MathWorks, "MAT-File Format", for level 5; level 7.3 is HDF5, read by h5py.
Ours differs: sizes are checked before memory is taken and must agree exactly; cells, structures, objects, functions,
sparse and complex arrays are passed over; HDF5 data that lie in other files are refused.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from metaformer.errors import DataError

HEADER = 128
"""Bytes before the first element."""
MATRIX, COMPRESSED = 14, 15
NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
"""Element type → how its numbers are stored."""
NUMERIC_CLASSES = range(6, 16)
"""double to uint64; below are cells, structures, objects, text and sparse arrays, above functions and objects."""
COMPLEX = 0x0800
AXES = 32
HDF5 = b"\x89HDF\r\n\x1a\n"
PIECE = 1 << 16


class _Array(NamedTuple):
    """One array of numbers, its numbers still to be read."""

    name: str
    shape: tuple[int, ...]
    rest: _Element


class _Element:
    """The bytes of one element of the file, inflated where they are compressed; never more than asked for."""

    def __init__(self, file: BinaryIO, start: int, size: int, order: str, compressed: bool) -> None:
        self.order = order
        self._file, self._place, self._left = file, start, size
        self._inflate = zlib.decompressobj() if compressed else None

    def take(self, count: int) -> bytes:
        """Exactly `count` bytes, or ValueError."""
        if self._inflate is None:
            data = self._stored(count)
        else:
            parts, need = [], count
            while need:
                fed = self._inflate.unconsumed_tail or self._stored(min(PIECE, self._left))
                part = self._inflate.decompress(fed, need)
                if not part and not fed:
                    break
                parts.append(part)
                need -= len(part)
            data = b"".join(parts)
        if len(data) != count:
            raise ValueError("it ends in the middle of an array")
        return data

    def _stored(self, count: int) -> bytes:
        if count > self._left:
            raise ValueError("an array is longer than its element")
        self._file.seek(self._place)
        data = self._file.read(count)
        self._place += count
        self._left -= count
        return data

    def tag(self) -> tuple[int, int, bytes | None]:
        """Type and length of the next part; its bytes where it is so short that they stand in the tag itself."""
        head = self.take(8)
        kind, size = struct.unpack(self.order + "II", head)
        if not kind >> 16:
            return kind, size, None
        kind, size = kind & 0xFFFF, kind >> 16
        if size > 4:
            raise ValueError(f"a short part of {size} bytes")
        return kind, size, head[4 : 4 + size]

    def part(self, longest: int) -> tuple[int, bytes]:
        """Type and bytes of the next part, which is at most `longest` bytes."""
        kind, size, data = self.tag()
        if size > longest:
            raise ValueError(f"a part of {size} bytes where {longest} are the most")
        if data is None:
            data = self.take(size)
            self.take(-size % 8)
        return kind, data

    def numbers(self, shape: tuple[int, ...]) -> np.ndarray:
        """The next part as an array of `shape`, in the type it is stored as."""
        kind, size, data = self.tag()
        if kind not in NUMBERS:
            raise ValueError(f"numbers of unknown type {kind}")
        dtype = np.dtype(self.order + NUMBERS[kind])
        if size != prod(shape) * dtype.itemsize:
            raise ValueError(f"{size} bytes for an array of shape {list(shape)} of {dtype.name}")
        flat = np.frombuffer(self.take(size) if data is None else data, dtype)
        return flat.astype(NUMBERS[kind], copy=False).reshape(shape, order="F")


def read_matlab(path: Path, variable: str, axes: tuple[int, ...], most: int) -> np.ndarray:
    """The array called `variable`, or the only one with as many axes as `axes` allows.

    Raises DataError where there is no such choice, ValueError, OSError, zlib.error or struct.error for damage."""
    with path.open("rb") as file:
        head = file.read(512 + len(HDF5))
        if head.startswith(HDF5) or head[512:] == HDF5:
            return _read_hdf5(path, variable, axes, most)
        arrays = _arrays(file, head, path.stat().st_size)
        # The last of a name counts, as in MATLAB.
        by_name = {array.name: array for array in arrays}
        found = _choose(path, {name: array.shape for name, array in by_name.items()}, variable, axes, most)
        return by_name[found].rest.numbers(by_name[found].shape)


def _choose(path: Path, shapes: dict[str, tuple[int, ...]], variable: str, axes: tuple[int, ...], most: int) -> str:
    listed = ", ".join(f"{name} {list(shape)}" for name, shape in sorted(shapes.items())) or "no array of numbers"
    wanted = " or ".join(f"{n} axes" for n in axes)
    fits = [name for name, shape in shapes.items() if len(shape) in axes]
    # MATLAB keeps single numbers and lists as matrices too.
    fits = [name for name in fits if min(shapes[name]) > 1] or fits
    if variable:
        if variable not in shapes:
            raise DataError(f"array {variable!r} of {path}", f"there is: {listed}", "name one of these")
        fits = [variable]
    if len(fits) != 1:
        raise DataError(f"the one array of {wanted} in {path}", f"there is: {listed}", "name the one to use")
    size = prod(shapes[fits[0]])
    if size > most:
        raise DataError(f"at most {most} numbers in {path}", f"{fits[0]} has {size}", "raise max_values")
    return fits[0]


def _arrays(file: BinaryIO, head: bytes, length: int) -> Iterator[_Array]:
    order = {b"IM": "<", b"MI": ">"}.get(head[126:HEADER])
    if order is None:
        raise ValueError("no MATLAB file of level 5 or 7.3 (older ones: save it again with -v7)")
    place = HEADER
    while place + 8 <= length:
        file.seek(place)
        kind, size = struct.unpack(order + "II", file.read(8))
        if size > length - place - 8:
            raise ValueError("it ends in the middle of an element")
        if kind == COMPRESSED:
            element = _Element(file, place + 8, size, order, compressed=True)
            kind, _, _ = element.tag()
        else:
            element = _Element(file, place + 8, size, order, compressed=False)
        array = _header(element) if kind == MATRIX else None
        if array is not None:
            yield array
        place += 8 + size


def _header(element: _Element) -> _Array | None:
    """Name and shape, where the element is a real array of numbers."""
    _, flags = element.part(16)
    word = struct.unpack(element.order + "I", flags[:4])[0]
    if word & 0xFF not in NUMERIC_CLASSES or word & COMPLEX:
        return None
    kind, sizes = element.part(4 * AXES)
    if kind != 5 or len(sizes) % 4:
        raise ValueError("an array whose sizes are no whole numbers")
    shape = struct.unpack(f"{element.order}{len(sizes) // 4}i", sizes)
    if not shape or min(shape) < 0:
        raise ValueError(f"an array of shape {list(shape)}")
    _, name = element.part(256)
    return _Array(name.decode("latin-1"), shape, element)


def _read_hdf5(path: Path, variable: str, axes: tuple[int, ...], most: int) -> np.ndarray:
    try:
        import h5py  # type: ignore[import-untyped]
    except ImportError as error:
        raise DataError(
            f"{path}, a MATLAB file of level 7.3",
            "h5py is absent",
            "pip install 'metaformer-plugin-hyperspectral[matlab73]', or save the file with -v7",
        ) from error
    with h5py.File(path, "r") as file:
        shapes = {}
        for name in file:
            # A soft or external link may point into another file.
            if isinstance(file.get(name, getlink=True), h5py.HardLink) and isinstance(file[name], h5py.Dataset):
                data = file[name]
                if data.dtype.kind in "biuf" and data.shape is not None and not _elsewhere(data):
                    shapes[name] = tuple(reversed(data.shape))
        found = _choose(path, shapes, variable, axes, most)
        data = file[found]
        if data.chunks is not None and prod(data.chunks) > max(most, PIECE):
            raise ValueError(f"pieces of {prod(data.chunks)} numbers")
        # MATLAB's axes run the other way round.
        return np.asarray(data[()]).T


def _elsewhere(data: Any) -> bool:
    """Whether an HDF5 data set keeps its numbers in other files."""
    return bool(data.external) or bool(data.is_virtual)
