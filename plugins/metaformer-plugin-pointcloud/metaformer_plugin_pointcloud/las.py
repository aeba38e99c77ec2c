"""LAS and LAZ files of laser scans, through laspy.

Source: ASPRS LAS 1.4 R15, public header block.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from metaformer.errors import DataError
from metaformer_plugin_pointcloud.cloud import PointSet

MOST_RECORDS = 10_000
"""Variable length records: their number is read before any of them, and looped over."""
SECONDS, MEMORY = 600, 8 << 30
"""What the process that decompresses may take."""


def read_las(path: Path, most: int) -> PointSet:
    """Points in the file's unit, with colours and intensity where there are. Raises ValueError, or DataError where
    laspy is absent. Compressed points are read by a process of their own: their decompressor ends the process that it
    is in when a file is damaged in certain places."""
    compressed = _check_header(path, most)
    if importlib.util.find_spec("laspy") is None or (compressed and importlib.util.find_spec("lazrs") is None):
        raise DataError(
            f"a point cloud of {path}", "laspy is absent", "pip install 'metaformer-plugin-pointcloud[las]'"
        )
    if not compressed:
        return _point_set(_table(path))
    # -I: nothing of the working directory is imported.
    command = [sys.executable, "-I", "-m", __name__, str(path.absolute())]
    done = subprocess.run(command, capture_output=True, timeout=SECONDS, check=False)
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["nothing"]
        raise ValueError(f"compressed points cannot be read; the decompressor said: {said[0][:150]}")
    return _point_set(np.load(io.BytesIO(done.stdout), allow_pickle=False))


def _table(path: Path) -> Float64[np.ndarray, "N W"]:
    """x, y, z; intensity; red, green and blue where there are. Raises ValueError."""
    import laspy  # type: ignore[import-not-found]

    try:
        las = laspy.read(path)
        names = set(las.point_format.dimension_names)
        colors = ("red", "green", "blue") if {"red", "green", "blue"} <= names else ()
        return np.stack([np.asarray(las[n], dtype=np.float64) for n in ("x", "y", "z", "intensity", *colors)], axis=1)
    # laspy says KeyError, IndexError, LaspyException and more of damaged files.
    except Exception as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error


def _point_set(table: Float64[np.ndarray, "N W"]) -> PointSet:
    found = PointSet(table[:, :3], {"intensity": table[:, 3:4] / 65535})
    if table.shape[1] == 7:
        # The whole range of 16 bits by the standard; many writers use 8 of them.
        found.channels["color"] = table[:, 4:] / (65535 if table[:, 4:].max(initial=0) > 255 else 255)
    return found


def main(path: str) -> None:
    """Writes the table to the standard output, as .npy."""
    with contextlib.suppress(ImportError):
        import resource  # not on Windows

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    out = io.BytesIO()
    np.save(out, _table(Path(path)), allow_pickle=False)
    sys.stdout.buffer.write(out.getbuffer())


def _check_header(path: Path, most: int) -> bool:
    """Whether points are compressed. Raises ValueError."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(375)
    if len(head) < 227 or head[:4] != b"LASF":
        raise ValueError("no LAS header")
    major, minor = head[24], head[25]
    header_size, offset, records = struct.unpack_from("<HII", head, 94)
    form, length, count = struct.unpack_from("<BHI", head, 104)
    late_start = late = 0
    if (major, minor) >= (1, 4) and len(head) >= 375:
        late_start, late, whole = struct.unpack_from("<QIQ", head, 235)
        count = max(count, whole)
    if records > MOST_RECORDS or late > MOST_RECORDS or not header_size <= offset <= size or late_start > size:
        raise ValueError(f"a header of {records} and {late} records, with points at {offset} of {size} bytes")
    if count > most:
        raise ValueError(f"{count} points, more than `max_points` {most}")
    compressed = bool(form & 0xC0)
    if not compressed and count * length > size - offset:
        raise ValueError(f"{size - offset} bytes of points, and {count} need {count * length}")
    return compressed


if __name__ == "__main__":
    main(sys.argv[1])
