"""Any infrared picture → float32 levels [H W] in a physical unit, without passing through 8 bits.

Source: the linear temperature scales that radiometric cameras write: hundredths or tenths of a kelvin.
Ours differs: TIFF files that Pillow cannot read (floats of 16 or 64 bits, unsigned 32 bits, odd compressions) are
handed to tifffile where it is there, after the size in the header was checked.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float32

from metaformer.errors import DataError
from metaformer.files.picture import read_levels

Scale = Literal["unit", "levels", "centikelvin", "decikelvin"] | tuple[float, float]
"""`unit`: 0 to 1 over what the type can hold; `levels`: as stored; degrees Celsius out of hundredths or tenths of a
kelvin; or [gain, offset]."""
LINEAR: dict[str, tuple[float, float]] = {
    "levels": (1.0, 0.0),
    "centikelvin": (0.01, -273.15),
    "decikelvin": (0.1, -273.15),
}
LUMA = np.array([0.299, 0.587, 0.114])
"""ITU-R BT.601, for pictures saved in colour."""
MAX_TILE = 2**22
"""Pixels of a TIFF tile beyond what the picture itself has."""


def read_thermal(value: Any, scale: Scale = "unit", max_pixels: int = 2**26) -> Float32[np.ndarray, "H W"]:
    """A path, bytes, Pillow image or array of numbers in the unit of `scale`; colour becomes gray by brightness."""
    levels = _levels(value, max_pixels)
    name = str(value) if isinstance(value, str | os.PathLike) else "an infrared picture"
    if levels.size == 0:
        raise DataError(f"read {name}", "no pixels", "leave it out")
    if levels.ndim == 3 and levels.shape[2] == 1:
        levels = levels[..., 0]
    gain, offset = _linear(levels.dtype, scale, name)
    # In double precision: 16 bits times a gain, plus an offset, round once.
    x = levels.astype(np.float64)
    if x.ndim == 3:
        equal = (levels[..., :1] == levels[..., :3]).all()
        x = x[..., 0] if equal else x[..., :3] @ LUMA
    x = x * gain + offset
    if not np.isfinite(x).all() or np.abs(x).max() > 1e30:
        found = f"{int((~np.isfinite(x)).sum())} pixels without a usable number"
        raise DataError(f"read {name}", found, "repair it: fill dead pixels before")
    return x.astype(np.float32)


def _linear(dtype: np.dtype[Any], scale: Scale, name: str) -> tuple[float, float]:
    if isinstance(scale, tuple):
        return scale
    if scale != "unit":
        return LINEAR[scale]
    if dtype.kind == "u":
        return 1 / float(np.iinfo(dtype).max), 0.0
    if dtype.kind in "bf":
        return 1.0, 0.0
    do = "set `scale` to levels, centikelvin, decikelvin or [gain, offset]"
    raise DataError(f"{name} from 0 to 1", f"levels of {dtype}, whose range is not known", do)


def _levels(value: Any, max_pixels: int) -> np.ndarray:
    if not isinstance(value, str | os.PathLike):
        return read_levels(value, max_pixels)
    path = Path(value)
    try:
        return read_levels(path, max_pixels)
    except DataError as error:
        # Too large is too large for the other reader as well.
        if path.suffix.lower() not in (".tif", ".tiff") or not path.is_file() or "max_pixels" in error.found:
            raise
        return _odd_tiff(path, max_pixels, error)


def _odd_tiff(path: Path, max_pixels: int, first: DataError) -> np.ndarray:
    """What Pillow refused, by tifffile; the first page."""
    try:
        import tifffile
    except ModuleNotFoundError as error:
        do = "pip install 'metaformer-plugin-infrared[tiff]', or save it as 16-bit PNG"
        raise DataError(first.asked, first.found, do) from error
    try:
        with tifffile.TiffFile(path) as file:
            page = file.pages[0]
            shape, dtype = tuple(page.shape), np.dtype(page.dtype)
            # Either may be large in a file of few bytes, and both are allocated by the reader.
            if not (shape and np.prod(shape, dtype=np.float64) <= 4 * max_pixels):
                raise DataError(f"read {path}", f"{shape} pixels", f"max_pixels is {max_pixels}")
            tile = getattr(page, "tilewidth", 0) * getattr(page, "tilelength", 0)
            if tile > max(MAX_TILE, 2 * np.prod(shape, dtype=np.float64)):
                raise DataError(f"read {path}", f"tiles of {tile} pixels in a picture of {shape}", "use smaller tiles")
            if dtype.kind not in "buif" or len(shape) not in (2, 3) or (len(shape) == 3 and shape[2] not in (1, 3, 4)):
                raise DataError(f"read {path}", f"shape {shape} of {dtype}", "give numbers [H W] or [H W 3]")
            return np.asarray(page.asarray())
    except DataError:
        raise
    except Exception as error:
        # The reader raises nearly every type there is on damaged bytes.
        reason = f"{first.found}; tifffile: {str(error)[:200] or type(error).__name__}"
        raise DataError(first.asked, reason, "replace it, or leave it out") from error
