"""Any picture a user may hand over → an upright, opaque, 8-bit Pillow image, or its levels as stored, or a `DataError`.

Needs Pillow, which the plugins that read pictures bring along.

Files are data from strangers: only the formats below are tried (Pillow also knows some that start other
programs), and the size in the header is checked before a single pixel is decoded.
"""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps
from PIL.TiffImagePlugin import TiffImageFile

from metaformer.errors import DataError

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM")
"""Of files with several pictures (animations, multi-page TIFF) the first is read."""
MAX_PIXELS = 2**26
"""Default cap on decoded pixels, 67 million: above today's consumer cameras, below a gigabyte of memory."""
PILLOW_LIMIT = 2 * 89_478_485
"""Pillow itself refuses more than twice its `Image.MAX_IMAGE_PIXELS`."""
TILE_TAGS = (322, 323)
"""TileWidth and TileLength of TIFF."""
MAX_TILE = 2**22
"""Pixels of a TIFF tile beyond what the picture itself has: 2048x2048, eight times as wide as is usual."""
WHITE = (255, 255, 255)


def read_image(value: Any, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """A path, encoded bytes, Pillow image or array to a Pillow image of mode `L` or `RGB`.

    EXIF orientation is applied, transparency is laid over white, 16-bit and float values are scaled to 8
    bits, colour profiles are ignored. Arrays are [H W], [H W 1], [H W 3] or [H W 4] of uint8, uint16 (0 to
    65535), bool, or float in [0, 1].
    """
    if isinstance(value, np.ndarray):
        name = f"array {value.shape} of {value.dtype}"
        with _reading(name):
            return _opaque(_from_array(value, name))
    if isinstance(value, Image.Image):
        name = f"Pillow image {value.size[0]}x{value.size[1]}, mode {value.mode}"
        with _reading(name):
            return _normal(value, name, max_pixels)
    source, name = _source(value)
    with _reading(name), Image.open(source, formats=FORMATS) as image:
        return _normal(image, name, max_pixels)


def read_levels(value: Any, max_pixels: int = MAX_PIXELS) -> npt.NDArray[Any]:
    """Levels as they are stored, [H W] or [H W C]: uint8, uint16, int32 or float32; 16 bits stay 16 bits.

    For pictures whose levels measure something (heat, absorption). EXIF orientation is applied, palettes become
    colours; transparency is dropped. Takes what `read_image` takes; arrays of numbers pass as they are.
    """
    if isinstance(value, np.ndarray):
        channels = value.ndim == 3 and value.shape[2] in (1, 3, 4)
        if value.dtype.kind not in "buif" or value.size == 0 or not (value.ndim == 2 or channels):
            found = f"array {value.shape} of {value.dtype}"
            raise DataError("read the levels of a picture", found, "give numbers [H W], [H W 1], [H W 3] or [H W 4]")
        if value.shape[0] * value.shape[1] > max_pixels:
            found = f"{value.shape[0] * value.shape[1]} pixels, more than max_pixels {max_pixels}"
            raise DataError("read the levels of a picture", found, "make it smaller, or raise `max_pixels`")
        return value
    if isinstance(value, Image.Image):
        name = f"Pillow image {value.size[0]}x{value.size[1]}, mode {value.mode}"
        with _reading(name):
            return _levels(value, name, max_pixels)
    source, name = _source(value)
    with _reading(name), Image.open(source, formats=FORMATS) as image:
        return _levels(image, name, max_pixels)


def _levels(image: Image.Image, name: str, max_pixels: int) -> npt.NDArray[Any]:
    _check(image, name, max_pixels)
    image.load()
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):
        return np.asarray(image).astype(np.uint16)  # also turns big-endian ones round
    if image.mode in ("L", "I", "F", "RGB"):
        return np.array(image)
    return np.array(image.convert("L" if image.mode in ("1", "LA", "La") else "RGB"))


def _source(value: Any) -> tuple[Any, str]:
    """What Pillow opens, and its name in errors."""
    if isinstance(value, str | os.PathLike):
        return os.fspath(value), str(os.fspath(value))
    if isinstance(value, bytes | bytearray | memoryview):
        return io.BytesIO(value), f"from {len(value)} bytes"
    raise DataError(
        "read an image",
        f"a value of type {type(value).__name__}",
        "give a path, the bytes of an image file, a Pillow image or a numpy array",
    )


@contextmanager
def _reading(name: str) -> Iterator[None]:
    """Every failure inside is the picture's fault and becomes a `DataError` that names it."""
    try:
        with warnings.catch_warnings():
            # Odd metadata is common in good photographs, and our own cap stands in for Pillow's warning.
            warnings.filterwarnings("ignore", module=r"PIL\.")
            warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
            yield
    except DataError:
        raise
    except FileNotFoundError as error:
        raise DataError(f"read image {name}", "no such file", "check the path and the data set's root") from error
    except Exception as error:
        # Decoders raise nearly every type there is on damaged bytes: struct.error, IndexError, ...
        reason = str(error) or type(error).__name__
        do = f"replace or remove it; readable formats: {', '.join(FORMATS)}"
        raise DataError(f"read image {name}", reason, do) from error


def _normal(image: Image.Image, name: str, max_pixels: int) -> Image.Image:
    """Check the size, then decode."""
    _check(image, name, max_pixels)
    image.load()
    return _opaque(_eight_bit(ImageOps.exif_transpose(image), name))


def _check(image: Image.Image, name: str, max_pixels: int) -> None:
    """The size in the header, before a single pixel is decoded."""
    width, height = image.size
    if width * height == 0:
        raise DataError(f"read image {name}", f"no pixels: {width}x{height}", "remove it")
    if width * height > max_pixels:
        raise DataError(
            f"read image {name}",
            f"{width}x{height} = {width * height} pixels, more than max_pixels {max_pixels}",
            "make it smaller, or raise the tokenizer's `max_pixels` if you trust where it comes from",
        )
    _refuse_tiles(image, name)


def _refuse_tiles(image: Image.Image, name: str) -> None:
    """The TIFF decoder makes room for a whole tile, which may be any size around a picture of few pixels."""
    if image.format != "TIFF":
        return
    tags = cast(TiffImageFile, image).tag_v2
    width, height = (int(tags.get(tag, 0)) for tag in TILE_TAGS)
    if width * height > max(MAX_TILE, 2 * image.size[0] * image.size[1]):
        found = f"tiles of {width}x{height} in a picture of {image.size[0]}x{image.size[1]}"
        raise DataError(f"read image {name}", found, "save it with smaller tiles, such as 256x256")


def _eight_bit(image: Image.Image, name: str) -> Image.Image:
    if image.mode.startswith("I;16"):
        return _from_array(np.asarray(image).astype(np.uint16), name)
    if image.mode == "F":
        return _from_array(np.asarray(image), name)
    if image.mode != "I":
        return image
    values = np.asarray(image)  # 32-bit integers; some writers put 16-bit pictures there
    if values.min() < 0 or values.max() > np.iinfo(np.uint16).max:
        found = f"32-bit integers from {values.min()} to {values.max()}"
        raise DataError(f"read image {name}", found, "scale it to 8 or 16 bits first")
    return _from_array(values.astype(np.uint16), name)


def _opaque(image: Image.Image) -> Image.Image:
    """Mode `L` or `RGB`; what is transparent shows white."""
    if image.has_transparency_data:
        image = image.convert("RGBA")
        paper = Image.new("RGB", image.size, WHITE)
        paper.paste(image, mask=image.getchannel("A"))
        return paper
    if image.mode == "1":
        return image.convert("L")
    return image if image.mode in ("L", "RGB") else image.convert("RGB")


def _from_array(values: npt.NDArray[Any], name: str) -> Image.Image:
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[..., 0]
    if values.ndim not in (2, 3) or (values.ndim == 3 and values.shape[2] not in (3, 4)) or values.size == 0:
        found = f"shape {values.shape}"
        raise DataError(f"read image {name}", found, "give [H W], [H W 1], [H W 3] or [H W 4] with H, W > 0")
    return Image.fromarray(np.ascontiguousarray(_to_uint8(values, name)))


def _to_uint8(values: npt.NDArray[Any], name: str) -> npt.NDArray[np.uint8]:
    if values.dtype == np.uint8:
        return values
    if values.dtype == np.bool_:
        return values.astype(np.uint8) * np.uint8(255)
    if values.dtype == np.uint16:
        # 65535 / 255 = 257: the full 16-bit range onto the full 8-bit range, rounded.
        return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if values.dtype.kind == "f":
        low, high = float(values.min()), float(values.max())
        if not (low >= 0 and high <= 1):  # false for NaN as well
            found = f"floats from {low:g} to {high:g}"
            raise DataError(f"read image {name}", found, "scale to [0, 1], or give uint8 or uint16")
        scaled: npt.NDArray[np.uint8] = np.rint(values * 255).astype(np.uint8)
        return scaled
    raise DataError(f"read image {name}", f"dtype {values.dtype}", "give uint8, uint16, bool or float in [0, 1]")
