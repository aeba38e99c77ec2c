"""Any sound a user may hand over → samples [L, C] as float32 and their rate, or a `DataError`.

Files are data from strangers: only the formats below are tried (libsndfile knows dozens more), length and channels
are checked before a sample is decoded, and decoding goes block by block under the same bound, as headers may lie.
"""

from __future__ import annotations

import io
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile  # type: ignore[import-untyped]
from jaxtyping import Float32
from torch import Tensor

from metaformer.errors import DataError

Samples = Float32[np.ndarray, "L C"]

FORMATS = ("WAV", "WAVEX", "RF64", "AIFF", "FLAC", "OGG", "MP3")
"""As libsndfile names them; OGG holds Vorbis or Opus."""
MAGIC = (b"RIFF", b"RIFX", b"RF64", b"FORM", b"fLaC", b"OggS", b"ID3")
"""How files of these formats begin, but for MP3 without a tag, which begins with eleven set bits."""
CUT_SHORT = re.compile(
    r"^ *(?:data|SSND) *: (?P<said>\d+) \(should be|without an End-Of-Stream|frame count \d+ does not match", re.M
)
"""What libsndfile's log says of a WAV, AIFF, Ogg or RF64 file that ends too early, and otherwise keeps to itself."""
UNKNOWN_SIZES = (0, 0x7FFFF000)
"""Sizes of a WAV file's data that stand for "written to a pipe": none, and everything from the second on."""
UNKNOWN_FRAMES = 2**62
"""libsndfile's frame count is above that where a header does not say how long the sound is, and cannot be trusted to
stop where the sound does."""
LARGEST = 32768.0
"""Samples are about 1 at full scale; 16-bit numbers stored as floats are the largest anyone means."""
MOST_CHANNELS = 64
"""An array with more was given the other way round."""
BLOCK = 2**20
"""Numbers that are decoded at a time."""

DO = "replace or remove it; readable: WAV, AIFF, FLAC, Ogg (Vorbis, Opus) and MP3 files"


def read_sound(value: Any, channels: int, max_seconds: float, default_rate: int) -> tuple[Samples, int]:
    """Samples [L, `channels`], full scale ±1, and their rate in Hz.

    `value` is a path, the bytes of a file, an array [L] or [L, C] of `default_rate`, or `{"samples": array, "rate":
    Hz}` (also as `array` and `sampling_rate`). Floats are taken as they are; int16, int32, int8 and uint8 are PCM.
    One channel is the mean of all there are; two are left and right, and one is doubled."""
    if isinstance(value, str | os.PathLike):
        path = Path(value)
        name = f"sound {path}"
        if not path.is_file():
            raise DataError(f"read {name}", "no such file", "check the path and the data set's root")
        with _reading(name), path.open("rb", buffering=0) as file:
            # By its number, libsndfile reads the file itself, and no extension misleads it.
            return _decode(file, file.fileno(), name, channels, max_seconds)
    if isinstance(value, bytes | bytearray | memoryview):
        name = f"sound of {len(value)} bytes"
        with _reading(name), _Bytes(value) as file:
            return _decode(file, file, name, channels, max_seconds)
    return _given(value, channels, max_seconds, default_rate)


class _reading:
    """Every failure inside is the file's fault and becomes a `DataError` that names it."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, Exception) and not isinstance(error, DataError):
            raise DataError(f"read {self.name}", " ".join(str(error).split()) or type(error).__name__, DO) from error


class _Bytes(io.BytesIO):
    """Bytes of a file. libsndfile calls it from C, where nothing may be raised: damaged files seek to anywhere."""

    def seek(self, offset: int, whence: int = 0) -> int:
        try:
            return super().seek(offset, whence)
        except (ValueError, OverflowError):
            return self.tell()


def _decode(
    file: io.RawIOBase | io.BytesIO, opened: int | io.BytesIO, name: str, channels: int, max_seconds: float
) -> tuple[Samples, int]:
    """`opened` is the same file, as libsndfile gets it."""
    start = file.read(4) or b""
    if not start.startswith(MAGIC) and not (start[:1] == b"\xff" and start[1:2] >= b"\xe0"):
        raise DataError(f"read {name}", f"no known format begins with {start!r}" if start else "an empty file", DO)
    file.seek(0)
    with soundfile.SoundFile(opened, closefd=False) as sound:
        if sound.format not in FORMATS:
            raise DataError(f"read {name}", f"format {sound.format}", DO)
        rate, said = int(sound.samplerate), int(sound.frames)
        most = _most(rate, max_seconds)
        if said == 0:
            raise DataError(f"read {name}", "a sound without samples", DO)
        if said > UNKNOWN_FRAMES:
            found = "a header that does not say how long the sound is"
            raise DataError(f"read {name}", found, "write it anew, to a file instead of a pipe")
        if said > most:
            raise _too_long(name, said, rate, max_seconds)
        _channels_fit(name, sound.channels, channels)
        if cut := _cut_short(sound.extra_info):
            raise DataError(f"read {name}", cut, "fetch it again: the end is missing")
        blocks, frames = [], 0
        while len(block := sound.read(BLOCK // sound.channels, dtype="float32", always_2d=True)):
            frames += len(block)
            if frames > most:
                raise _too_long(name, frames, rate, max_seconds)
            blocks.append(_mixed(block, channels))
        if frames < said:
            found = f"{frames} of {said} samples"
            raise DataError(f"read {name}", found, "fetch it again: the end is missing or damaged")
    return _sound(np.concatenate(blocks) if blocks else np.zeros((0, channels), np.float32), name), rate


def _most(rate: int, max_seconds: float) -> int:
    return math.ceil(rate * max_seconds)


def _too_long(name: str, frames: int, rate: int, max_seconds: float) -> DataError:
    return DataError(
        f"read {name}",
        f"{frames / rate:.1f} seconds at {rate} Hz, more than max_seconds {max_seconds:g}",
        "cut it into pieces, or raise the tokenizer's `max_seconds` if you trust where it comes from",
    )


def _channels_fit(name: str, there: int, channels: int) -> None:
    if channels == 2 and there > 2:
        raise DataError(f"read {name}", f"{there} channels, and no way to see left and right", "mix it to stereo")


def _cut_short(log: str) -> str:
    """What libsndfile noted about a missing end; empty where it noted none."""
    for match in CUT_SHORT.finditer(log):
        size = match["said"]
        if size is None:
            return "it ends before its end mark"
        if UNKNOWN_SIZES[0] < int(size) < UNKNOWN_SIZES[1]:
            return f"it ends before the {size} bytes of sound that its header announces"
    return ""


def _mixed(block: Samples, channels: int) -> Float32[np.ndarray, "L K"]:
    if channels == 1:
        return block.mean(axis=1, keepdims=True)
    return block if block.shape[1] == channels else block.repeat(channels, axis=1)


def _sound(samples: Samples, name: str) -> Samples:
    """The samples, if they are sound."""
    if not len(samples):
        raise DataError(f"read {name}", "a sound without samples", "remove it, or leave the value out")
    beyond = ~(np.abs(samples) <= LARGEST)  # true for NaN as well
    if beyond.any():
        place = int(beyond.any(axis=1).argmax())
        found = f"{samples[beyond][0]:g} at sample {place}"
        raise DataError(f"read {name}: finite samples, about 1 at full scale", found, "repair or rescale it")
    return samples


def _given(value: Any, channels: int, max_seconds: float, default_rate: int) -> tuple[Samples, int]:
    rate: Any = default_rate
    if isinstance(value, Mapping):
        keys = next((keys for keys in (("samples", "rate"), ("array", "sampling_rate")) if keys[0] in value), None)
        if keys is None or keys[1] not in value:
            raise DataError(
                "a sound as a mapping", f"keys {', '.join(map(str, value))}", 'give {"samples": array, "rate": Hz}'
            )
        value, rate = value[keys[0]], value[keys[1]]
    if not isinstance(rate, int | float | np.integer | np.floating) or rate != rate or not 1 <= rate <= 2**20:
        raise DataError("a sound's rate in Hz", f"{rate!r:.40}", "give a number such as 16000")
    if isinstance(value, Tensor):
        value = value.detach().cpu().numpy()
    if not isinstance(value, np.ndarray | list | tuple):
        raise DataError(
            "a sound",
            f"{type(value).__name__}: {value!r:.60}",
            'give a path, the bytes of a file, an array [samples] or {"samples": array, "rate": Hz}',
        )
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise DataError(
            "a sound as an array of numbers", str(error), "give one number per sample and channel"
        ) from error
    name = f"sound {list(array.shape)} of {array.dtype}"
    if array.ndim == 1:
        array = array[:, None]
    if array.ndim != 2 or not 1 <= array.shape[1] <= MOST_CHANNELS:
        turned = array.ndim == 2 and array.shape[0] <= MOST_CHANNELS
        do = "transpose it" if turned else "give [samples] or [samples, channels]"
        raise DataError(f"read {name}", "not of shape [samples] or [samples, channels]", do)
    if len(array) > _most(int(rate), max_seconds):
        raise _too_long(name, len(array), int(rate), max_seconds)
    _channels_fit(name, array.shape[1], channels)
    return _sound(_mixed(_scaled(array, name), channels), name), int(rate)


def _scaled(array: npt.NDArray[Any], name: str) -> Samples:
    """Floats as they are, PCM to [-1, 1)."""
    if array.dtype.kind == "f":
        with np.errstate(over="ignore"):  # what becomes infinite here is refused later
            return array.astype(np.float32)
    if array.dtype == np.uint8:
        return (array.astype(np.float32) - 128) / 128
    if array.dtype in (np.int8, np.int16, np.int32):
        return (array / -float(np.iinfo(array.dtype).min)).astype(np.float32)
    raise DataError(
        f"read {name}", f"numbers of type {array.dtype}", "give floats, or PCM as int16, int32, int8 or uint8"
    )
