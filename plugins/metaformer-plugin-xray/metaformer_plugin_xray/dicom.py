"""One frame of a DICOM file → levels in the unit it was made in, and how it wants to be shown.

Source: DICOM PS3.3 C.7.6.3 (pixels), C.11.1 (modality tables), C.11.2 (windows and their tables); decoding by pydicom.
Ours differs: a file is data from a stranger. What it says about its size, and what its compressed picture says, is
compared and limited before a pixel is decoded; nothing that it refers to outside of itself is opened. Windows and
scales inside functional groups of enhanced objects are not looked for.
"""

from __future__ import annotations

import io
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float32

from metaformer.errors import DataError
from metaformer_plugin_xray.codestream import Size, coded_sizes

if TYPE_CHECKING:
    from pydicom import Dataset

MAGIC = b"DICM"
"""Stands behind 128 bytes of preamble."""
DEFLATED = b"1.2.840.10008.1.2.1.99"
EXPLICIT = b"1.2.840.10008.1.2.1"
"""Transfer syntaxes: everything behind the file meta information deflated, and the same as it is."""
DIRECTORY = "1.2.840.10008.1.3.10"
"""SOP class of a DICOMDIR."""
RLE = "1.2.840.10008.1.2.5"
BITS = (8, 16, 32)
LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)
"""ITU-R BT.601: pictures that were saved in colour hold gray ones."""
SLACK = 2**24
"""Bytes that a file may have beside its pixels."""
REPLACE = "replace it, or leave it out"


@dataclass(frozen=True)
class Table:
    """A lookup table: values below `first` take the first entry, values beyond the end the last."""

    first: int
    entries: Float32[np.ndarray, " N"]
    largest: int
    """Of the numbers that an entry could hold."""

    def __call__(self, values: Float32[np.ndarray, "H W"]) -> Float32[np.ndarray, "H W"]:
        place = np.clip(np.rint(values).astype(np.int64) - self.first, 0, len(self.entries) - 1)
        return self.entries[place]


@dataclass(frozen=True)
class Window:
    """Centre and width of what is to be seen, in units of the levels."""

    centre: float
    width: float
    function: str = "LINEAR"
    """`LINEAR`, `LINEAR_EXACT` or `SIGMOID` of PS3.3 C.11.2.1."""


@dataclass(frozen=True)
class Frame:
    """One picture, before windowing."""

    levels: Float32[np.ndarray, "H W"]
    """In units of the rescale type: Hounsfield units in CT, often arbitrary elsewhere."""
    full: tuple[float, float]
    """What the stored bits can hold, in those units."""
    window: Window | None
    """The first of the file."""
    table: Table | None
    """The first table that takes a window's place."""
    inverted: bool
    """MONOCHROME1: the smallest level is white."""
    padding: float | None
    """Level of what is around the picture and does not belong to it."""


def read_dicom(data: bytes, name: str, frame: int = 0, max_pixels: int = 2**26) -> Frame:
    """`frame` counts from 0; the others are not decoded. Raises DataError naming the file."""
    with _reading(name):
        from pydicom import dcmread
        from pydicom.pixels import pixel_array

        if len(data) > 8 * max_pixels + SLACK:
            raise _bad(name, f"{len(data)} bytes", "raise `max_pixels` if you trust where it comes from")
        data = _inflated(data, name, 4 * max_pixels + SLACK)
        _check(dcmread(io.BytesIO(data), stop_before_pixels=True), name, frame, max_pixels)
        whole = dcmread(io.BytesIO(data))
        _check_codestream(whole, name, frame)
        stored = pixel_array(whole, index=frame)
        if stored.shape[:2] != (whole.Rows, whole.Columns):
            raise _bad(name, f"decoded to {stored.shape}, said {whole.Rows}x{whole.Columns}", REPLACE)
        return _frame(whole, stored, name)


@contextmanager
def _reading(name: str) -> Iterator[None]:
    """Every failure inside is the file's fault and becomes a DataError that names it."""
    try:
        with warnings.catch_warnings():
            # Odd values are common in good files, and what matters is checked here.
            warnings.simplefilter("ignore")
            yield
    except DataError:
        raise
    except Exception as error:
        # Readers and decoders raise nearly every type there is on damaged bytes.
        reason = str(error)[:300] or type(error).__name__
        missing = "missing dependencies" in str(error) or isinstance(error, ModuleNotFoundError)
        do = "pip install 'metaformer-plugin-xray[compressed]', for lossless JPEG [libjpeg]" if missing else REPLACE
        raise DataError(f"read DICOM file {name}", reason, do) from error


def _bad(name: str, found: str, do: str) -> DataError:
    return DataError(f"read DICOM file {name}", found, do)


def _inflated(data: bytes, name: str, limit: int) -> bytes:
    """A deflated file as one that is not, at most `limit` bytes, so that pydicom never inflates anything."""
    if DEFLATED not in data:
        return data
    tag = data.find(b"\x02\x00\x10\x00UI", 132)
    length = int.from_bytes(data[tag + 6 : tag + 8], "little")
    end = 144 + int.from_bytes(data[140:144], "little")
    plain = data[132:140] == b"\x02\x00\x00\x00UL\x04\x00" and 132 < tag < end <= len(data)
    if not plain or data[tag + 8 : tag + 8 + length].rstrip(b"\0") != DEFLATED:
        raise _bad(name, "deflated, with a file meta information that is out of order", REPLACE)
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    body = stream.decompress(data[end:], limit)
    if stream.unconsumed_tail or not stream.eof:
        found = f"deflated to more than {limit} bytes" if stream.unconsumed_tail else "a deflated part without its end"
        raise _bad(name, found, REPLACE)
    head = data[: tag + 8] + EXPLICIT.ljust(length, b"\0") + data[tag + 8 + length : end]
    if DEFLATED in head:
        raise _bad(name, "a second transfer syntax", REPLACE)
    return head + body


def _check(header: Dataset, name: str, frame: int, max_pixels: int) -> None:
    """Everything before the pixels."""
    if header.file_meta.get("MediaStorageSOPClassUID") == DIRECTORY:
        raise _bad(name, "a DICOMDIR, which only names other files", "give those files themselves")
    if header.get("Rows") is None or header.get("Columns") is None:
        kind = header.get("Modality") or "unknown"
        raise _bad(name, f"no picture in it (modality {kind})", "leave it out")
    rows, columns, frames = (int(header.get(key) or 1) for key in ("Rows", "Columns", "NumberOfFrames"))
    if not (rows > 0 and columns > 0 and frames > 0):
        raise _bad(name, f"{frames} frames of {rows}x{columns}", REPLACE)
    if rows * columns > max_pixels:
        found = f"{rows}x{columns} = {rows * columns} pixels, more than max_pixels {max_pixels}"
        raise _bad(name, found, "make it smaller, or raise the tokenizer's `max_pixels`")
    if frame >= frames:
        raise _bad(name, f"{frames} frames, and frame {frame} is asked for", "lower `frame`, which counts from 0")
    allocated, stored = int(header.BitsAllocated), int(header.BitsStored)
    if allocated not in BITS or not 0 < stored <= allocated:
        raise _bad(name, f"{stored} bits stored in {allocated}", f"give pictures of {', '.join(map(str, BITS))} bits")
    samples, how = int(header.get("SamplesPerPixel", 1)), str(header.PhotometricInterpretation)
    gray = samples == 1 and how in ("MONOCHROME1", "MONOCHROME2")
    if not gray and not (samples == 3 and (how == "RGB" or how.startswith("YBR"))):
        raise _bad(name, f"{samples} samples a pixel, {how}", "give gray pictures, or RGB that were gray")


def _check_codestream(whole: Dataset, name: str, frame: int) -> None:
    """A compressed picture is as large as the file says, and not more compressed bytes than pixels."""
    from pydicom.encaps import get_frame

    if "PixelData" not in whole:
        raise _bad(name, "no pixels in it", "leave it out")
    if not whole.file_meta.TransferSyntaxUID.is_encapsulated:
        return
    table = whole.get("ExtendedOffsetTable"), whole.get("ExtendedOffsetTableLengths")
    code = get_frame(
        whole.PixelData,
        frame,
        extended_offsets=table if all(table) else None,
        number_of_frames=int(whole.get("NumberOfFrames") or 1),
    )
    samples = int(whole.get("SamplesPerPixel", 1))
    raw = whole.Rows * whole.Columns * samples * whole.BitsAllocated // 8
    if len(code) > 2 * raw + 2**16:
        raise _bad(name, f"{len(code)} compressed bytes for {raw} of pixels", REPLACE)
    if whole.file_meta.TransferSyntaxUID == RLE:
        return
    said = Size(int(whole.Rows), int(whole.Columns), samples)
    sizes = coded_sizes(code)
    if sizes != {said}:
        found = ", ".join(map(str, sizes)) or "no size"
        raise _bad(name, f"its compressed picture says {found}, the file {said}", REPLACE)


def _frame(whole: Dataset, stored: np.ndarray, name: str) -> Frame:
    levels = stored.astype(np.float32)
    if levels.ndim == 3:
        levels = levels @ LUMA
    bits, signed = int(whole.BitsStored), int(whole.get("PixelRepresentation", 0)) == 1
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    padding = whole.get("PixelPaddingValue")
    if padding is not None and not isinstance(padding, int):
        padding = None
    scale = _table(whole.get("ModalityLUTSequence"), signed, name)
    if scale is not None:
        outside = levels == padding if padding is not None else None
        levels, ends = scale(levels), (0.0, float(scale.largest))
        padding = float(levels[outside][0]) if outside is not None and outside.any() else None
    else:
        slope, intercept = _number(whole, "RescaleSlope", 1.0), _number(whole, "RescaleIntercept", 0.0)
        if slope == 0:
            raise _bad(name, "a rescale slope of 0", REPLACE)
        levels = levels * np.float32(slope) + np.float32(intercept)
        padding = None if padding is None else float(np.float32(padding) * np.float32(slope) + np.float32(intercept))
        ends = (low * slope + intercept, high * slope + intercept)
    if not np.isfinite(levels).all():
        raise _bad(name, "levels that are not finite", REPLACE)
    return Frame(
        levels,
        (min(ends), max(ends)),
        _window(whole, name),
        _table(whole.get("VOILUTSequence"), bool(levels.min() < 0), name),
        str(whole.PhotometricInterpretation) == "MONOCHROME1",
        padding,
    )


def _window(whole: Dataset, name: str) -> Window | None:
    if whole.get("WindowCenter") is None or whole.get("WindowWidth") is None:
        return None
    centre, width = _number(whole, "WindowCenter", 0.0), _number(whole, "WindowWidth", 1.0)
    function = str(whole.get("VOILUTFunction") or "LINEAR").upper()
    if function not in ("LINEAR", "LINEAR_EXACT", "SIGMOID") or width < (function == "LINEAR") or width <= 0:
        raise _bad(name, f"a window {function} of width {width:g}", "set the tokenizer's `window`")
    return Window(centre, width, function)


def _number(whole: Dataset, keyword: str, default: float) -> float:
    """The first value of an element; `default` where it is absent or empty."""
    value: Any = whole.get(keyword)
    if value is None or value == "":
        return default
    number = float(value) if isinstance(value, (int, float, str)) else float(next(iter(value), default))
    if not np.isfinite(number) or abs(number) > 1e12:
        raise ValueError(f"{keyword} is {number:g}")
    return number


def _table(sequence: Any, signed: bool, name: str) -> Table | None:
    """The first table of a sequence (PS3.3 C.11.1.1)."""
    if not sequence:
        return None
    item = sequence[0]
    count, first, bits = (int(number) for number in item.LUTDescriptor)
    count = count or 2**16  # which does not fit the 16 bits of the entry
    if signed and first >= 2**15:
        first -= 2**16
    data = item.LUTData
    entries = np.frombuffer(data, dtype="<u2") if isinstance(data, bytes) else np.atleast_1d(np.asarray(data))
    if bits <= 8 and entries.size * 2 == count:  # two 8-bit entries in every word
        entries = np.frombuffer(entries.astype("<u2").tobytes(), dtype=np.uint8)
    if not 0 < count <= 2**16 or entries.size < count or not 0 < bits <= 16:
        raise _bad(name, f"a lookup table of {count} entries of {bits} bits with {entries.size} in it", REPLACE)
    return Table(first, entries[:count].astype(np.float32), 2**bits - 1)
