"""Any X-ray picture → levels from 0 (black) to 1 (white): DICOM, 8- and 16-bit files, arrays.

Source: DICOM PS3.3 C.11.2.1 for windows; torchxrayvision for what classifiers of radiographs expect.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float32

from metaformer.errors import DataError
from metaformer.files.picture import read_levels
from metaformer_plugin_xray.dicom import LUMA, MAGIC, SLACK, Frame, Window, read_dicom

Shown = Literal["auto", "full"] | tuple[float, float]
"""How levels become gray: as the file says, all that its bits can hold, or [centre, width]."""


def read_xray(
    value: Any, window: Shown = "auto", frame: int = 0, max_pixels: int = 2**26
) -> Float32[np.ndarray, "H W"]:
    """A path, bytes, Pillow image or array as gray from 0 to 1.

    `auto`: a DICOM file's own table or first window, and without one the range of its levels; 8-bit pictures and
    floats from 0 to 1 as they are; anything else from its own darkest to its own brightest level, because 12 bits of
    a detector often come in 16. `full`: all that the stored bits can hold. [centre, width]: in units of the
    levels, after a DICOM file's rescale slope and intercept.
    """
    if isinstance(value, str | os.PathLike):
        path = Path(value)
        if _is_dicom(path):
            return shown(read_dicom(_whole(path, max_pixels), str(path), frame, max_pixels), window)
    elif isinstance(value, bytes | bytearray | memoryview):
        data = bytes(value)
        if data[128:132] == MAGIC:
            return shown(read_dicom(data, f"from {len(data)} bytes", frame, max_pixels), window)
    return _picture(read_levels(value, max_pixels), window)


def shown(frame: Frame, window: Shown) -> Float32[np.ndarray, "H W"]:
    """The gray of a DICOM frame."""
    x = frame.levels
    if isinstance(window, tuple):
        gray = windowed(x, Window(*window, function="LINEAR_EXACT"))
    elif window == "full":
        gray = _between(x, *frame.full)
    elif frame.table is not None:
        gray = frame.table(x) / np.float32(frame.table.largest)
    elif frame.window is not None:
        gray = windowed(x, frame.window)
    else:
        inside = x != frame.padding if frame.padding is not None else np.ones(x.shape, dtype=bool)
        gray = _between(x, *_range(x, inside))
    gray = gray.clip(0, 1)
    return 1 - gray if frame.inverted else gray


def windowed(levels: Float32[np.ndarray, "H W"], window: Window) -> Float32[np.ndarray, "H W"]:
    """0 below the window, 1 above it."""
    centre, width = window.centre, window.width
    if window.function == "SIGMOID":
        return (1 / (1 + np.exp((-4 * (levels - centre) / width).clip(-80, 80)))).astype(np.float32)
    if window.function == "LINEAR":  # the window's ends are centres of levels
        centre, width = centre - 0.5, width - 1
        if width == 0:
            return (levels > centre).astype(np.float32)
    return ((levels - np.float32(centre)) / np.float32(width) + np.float32(0.5)).clip(0, 1)


def _picture(levels: np.ndarray, window: Shown) -> Float32[np.ndarray, "H W"]:
    kind, dtype = levels.dtype.kind, levels.dtype
    x = levels.astype(np.float32)
    if not np.isfinite(x).all():
        raise DataError("read an X-ray picture", "levels that are not finite", "repair it, or leave it out")
    if x.ndim == 3:
        x = x[..., 0] if x.shape[2] == 1 else x[..., :3] @ LUMA
    if isinstance(window, tuple):
        return windowed(x, Window(*window, function="LINEAR_EXACT"))
    unit = kind == "f" and x.min() >= 0 and x.max() <= 1
    if kind == "b" or unit:
        return x
    if dtype == np.uint8 or (window == "full" and kind == "u"):
        return x / np.float32(np.iinfo(dtype).max)
    if window == "full":
        found = f"{dtype} from {x.min():g} to {x.max():g}"
        raise DataError("an X-ray picture whose bits say its range", found, "set `window` to auto or [centre, width]")
    return _between(x, *_range(x, np.ones(x.shape, dtype=bool)))


def _range(x: Float32[np.ndarray, "H W"], inside: Bool[np.ndarray, "H W"]) -> tuple[float, float]:
    there = x[inside]
    return (float(there.min()), float(there.max())) if there.size else (0.0, 1.0)


def _between(x: Float32[np.ndarray, "H W"], low: float, high: float) -> Float32[np.ndarray, "H W"]:
    """Black where nothing varies."""
    return ((x - np.float32(low)) / np.float32(max(high - low, 1e-30))).clip(0, 1)


def _is_dicom(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == MAGIC
    except OSError as error:
        raise DataError(f"read X-ray picture {path}", error.strerror or str(error), "check path and root") from error


def _whole(path: Path, max_pixels: int) -> bytes:
    size = path.stat().st_size
    if size > 8 * max_pixels + SLACK:
        found, do = f"{size} bytes", "raise the tokenizer's `max_pixels` if you trust where it comes from"
        raise DataError(f"read DICOM file {path}", found, do)
    return path.read_bytes()
