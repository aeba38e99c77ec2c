"""A scene or a map of labels out of a file: MATLAB, ENVI, GeoTIFF or numpy, without running anything a file says."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from metaformer.errors import DataError
from metaformer.files.array import read_npy
from metaformer_plugin_hyperspectral.envi import read_envi
from metaformer_plugin_hyperspectral.geotiff import read_geotiff
from metaformer_plugin_hyperspectral.matlab import read_matlab

LARGEST = 1 << 29
"""Numbers in an array by default: a gigabyte where they are stored in 16 bits."""
CLASSES = 1 << 16
KINDS = (".mat", ".hdr", ".tif", ".tiff", ".npy")


def read_cube(path: Path, variable: str = "", most: int = LARGEST, axes: tuple[int, ...] = (3,)) -> np.ndarray:
    """Real numbers with as many axes as `axes` allows, [rows, columns, bands] where it is three.

    `variable` names the array of a MATLAB file. Raises DataError."""
    suffix = path.suffix.lower()
    if suffix not in KINDS:
        raise DataError(f"hyperspectral file {path}", f"suffix {suffix!r}", f"give one of {', '.join(KINDS)}")
    try:
        if suffix == ".mat":
            array = read_matlab(path, variable, axes, most)
        elif suffix == ".hdr":
            array = read_envi(path, most)
        elif suffix == ".npy":
            array = read_npy(path, most)
        else:
            array = read_geotiff(path, most)
    except (OSError, ValueError, TypeError, EOFError, KeyError, RuntimeError, OverflowError, MemoryError) as error:
        raise _unreadable(path, error) from error
    except (struct.error, zlib.error) as error:
        raise _unreadable(path, error) from error
    if array.ndim == 3 and array.shape[2] == 1 and 3 not in axes:
        array = array[:, :, 0]
    if array.ndim not in axes or 0 in array.shape or array.dtype.kind not in "biuf":
        raise DataError(
            f"{path} with real numbers on {' or '.join(map(str, axes))} axes",
            f"shape {list(array.shape)} of {array.dtype}",
            "give [rows, columns, bands], and [rows, columns] for labels",
        )
    return array


def read_labels(path: Path, variable: str = "", most: int = LARGEST) -> Int64[np.ndarray, "R C"]:
    """A class per pixel, 0 where there is none. Raises DataError."""
    array = np.asarray(read_cube(path, variable, most, axes=(2,)))
    whole = np.where(np.isnan(array), 0, array) if array.dtype.kind == "f" else array
    if not ((whole >= 0) & (whole < CLASSES)).all() or (whole != np.floor(whole)).any():
        raise DataError(
            f"whole numbers from 0 to {CLASSES - 1} as labels in {path}",
            f"numbers from {whole.min():g} to {whole.max():g}",
            "give a map of classes, 0 for pixels without",
        )
    return whole.astype(np.int64)


def _unreadable(path: Path, error: Exception) -> DataError:
    return DataError(f"hyperspectral file {path}", f"{error}"[:200] or type(error).__name__, "give a readable file")
