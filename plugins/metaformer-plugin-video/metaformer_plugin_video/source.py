"""What every kind of video offers: how many frames, when each is shown, and any of them by number.

A video is a file, the bytes of one, a folder of pictures, an array, or a `Clip`.
"""

from __future__ import annotations

import os
import re
import stat
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader, BytesIO
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float64, UInt8

from metaformer.errors import DataError
from metaformer.files.picture import read_image

Backend = Literal["auto", "pyav", "torchcodec"]
Binary = BufferedReader | BytesIO
PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".ppm", ".pgm")
"""Extensions of the files in a folder that are frames."""
KINDS = "give a video file or its bytes, a folder of pictures, or a uint8 array [frames, height, width, 3]"


@dataclass(frozen=True)
class Limits:
    """What a video may cost; anything beyond is a `DataError` before the memory is taken."""

    max_pixels: int = 2**24
    """Of one frame; 4K has half as many."""
    max_frames: int = 2**17
    """Of the whole video; 72 minutes at 30 frames per second."""
    time_limit: float = 120.0
    """Seconds of work on one file."""

    def check_frame(self, name: str, width: int, height: int) -> None:
        if width <= 0 or height <= 0:
            # FFmpeg, which is told the limit, forgets sizes beyond it.
            found = f"frames of no size, or of one beyond max_pixels {self.max_pixels}"
            raise DataError(f"read video {name}", found, "make it smaller, or raise the tokenizer's `max_pixels`")
        if width * height > self.max_pixels:
            raise DataError(
                f"read video {name}",
                f"frames of {width}x{height} = {width * height} pixels, more than max_pixels {self.max_pixels}",
                "make it smaller, or raise the tokenizer's `max_pixels` if you trust where it comes from",
            )

    def check_count(self, name: str, frames: int) -> None:
        if frames > self.max_frames:
            raise DataError(
                f"read video {name}",
                f"{frames} frames or more, beyond max_frames {self.max_frames}",
                "cut it, or raise the tokenizer's `max_frames` if you trust where it comes from",
            )

    def check_clip(self, name: str, frames: int, width: int, height: int) -> None:
        """A clip is held whole until it is made smaller: at most 32 frames of the largest size."""
        if frames * width * height > 32 * self.max_pixels:
            raise DataError(
                f"read video {name}",
                f"a clip of {frames} frames of {width}x{height} pixels, more than 32 times max_pixels",
                "read fewer frames, make the video smaller, or raise the tokenizer's `max_pixels`",
            )


@dataclass(frozen=True)
class Clip:
    """Frames that are already chosen and have the tokenizer's size: only converted and batched."""

    frames: UInt8[np.ndarray, "F H W C"]


class Video(ABC):
    """Frames 0 to `total` - 1, in the order in which they are shown."""

    name: str
    total: int
    times: Float64[np.ndarray, " F"] | None
    """Seconds from the first frame; None where nobody knows."""

    @abstractmethod
    def read(self, indices: Sequence[int]) -> UInt8[np.ndarray, "N H W C"]:
        """The frames of these numbers (any order, repetitions allowed), C = 3 or 1. Raises DataError."""


class ArrayVideo(Video):
    """An array uint8 [F H W 3], [F H W 1] or [F H W]."""

    def __init__(self, values: np.ndarray, limits: Limits) -> None:
        self.name, self.times = f"array {list(values.shape)} of {values.dtype}", None
        shaped = values[..., None] if values.ndim == 3 else values
        if values.dtype != np.uint8 or shaped.ndim != 4 or shaped.shape[3] not in (1, 3) or values.size == 0:
            raise DataError("a video", self.name, "give uint8 [frames, height, width, 3], none of them 0")
        self.total, height, width = shaped.shape[:3]
        limits.check_count(self.name, self.total)
        limits.check_frame(self.name, width, height)
        self.values = shaped

    def read(self, indices: Sequence[int]) -> UInt8[np.ndarray, "N H W C"]:
        return self.values[np.asarray(indices, dtype=np.int64)]


class FolderVideo(Video):
    """A folder of pictures, one per frame, in the order of the numbers in their names."""

    def __init__(self, folder: Path, limits: Limits) -> None:
        self.name, self.times, self.limits = str(folder), None, limits
        self.files: list[Path] = []
        for entry in os.scandir(folder):
            if entry.name.lower().endswith(PICTURES) and not entry.name.startswith("."):
                self.files.append(Path(entry.path))
                limits.check_count(self.name, len(self.files))
        if not self.files:
            raise DataError(f"read frame folder {folder}", "no pictures in it", f"known: {', '.join(PICTURES)}")
        self.files.sort(key=_natural)
        self.total = len(self.files)

    def read(self, indices: Sequence[int]) -> UInt8[np.ndarray, "N H W C"]:
        seen: dict[int, np.ndarray] = {}
        for index in indices:
            if index in seen:
                continue
            image = read_image(self.files[index], self.limits.max_pixels)
            seen[index] = np.asarray(image.convert("RGB"))
            height, width = seen[index].shape[:2]
            self.limits.check_clip(self.name, len(seen), width, height)
        return joined(self.name, [seen[index] for index in indices])


def _natural(path: Path) -> tuple[list[tuple[int, str]], str]:
    """`frame_9` before `frame_10`."""
    parts = re.split(r"(\d+)", path.name)
    # A number of thousands of digits is refused by int(); no camera writes more than 18.
    return [(int(part[-18:]), "") if part.isdecimal() and part.isascii() else (-1, part) for part in parts], path.name


def joined(name: str, frames: Sequence[np.ndarray]) -> UInt8[np.ndarray, "N H W C"]:
    """One array; raises DataError where frames have different sizes."""
    sizes = {frame.shape for frame in frames}
    if len(sizes) != 1:
        found = " and ".join(sorted(f"{w}x{h}" for h, w, _ in sizes)[:3])
        raise DataError(f"read video {name}", f"frames of different sizes: {found}", "cut it where the size changes")
    return np.stack(frames)


@contextmanager
def open_video(value: Any, limits: Limits, backend: Backend = "auto") -> Iterator[Video]:
    """A path, bytes or array as a `Video`; files are closed at the end. Raises DataError."""
    if isinstance(value, np.ndarray):
        yield ArrayVideo(value, limits)
    elif isinstance(value, bytes | bytearray | memoryview):
        with _reader(BytesIO(value), f"from {len(value)} bytes", limits, backend) as video:
            yield video
    elif isinstance(value, str | os.PathLike):
        path = Path(value)
        if path.is_dir():
            yield FolderVideo(path, limits)
            return
        with _opened(path) as file, _reader(file, str(path), limits, backend) as video:
            yield video
    else:
        raise DataError("a video", f"a value of type {type(value).__name__}", KINDS)


@contextmanager
def _opened(path: Path) -> Iterator[Binary]:
    try:
        # A pipe or a device would be waited for, perhaps for ever.
        if not stat.S_ISREG(path.stat().st_mode):
            raise DataError(f"read video {path}", "neither a file nor a folder", KINDS)
        file = path.open("rb")
    except FileNotFoundError as error:
        raise DataError(f"read video {path}", "no such file", "check the path and the data set's root") from error
    except (OSError, ValueError) as error:
        raise DataError(f"read video {path}", str(error), "make it readable") from error
    with file:
        yield file


@contextmanager
def _reader(file: Binary, name: str, limits: Limits, backend: Backend) -> Iterator[Video]:
    from metaformer_plugin_video.containers import container_of

    kind = container_of(file, name)
    if kind == "animation":
        from metaformer_plugin_video.animation import AnimationVideo

        with AnimationVideo(file, name, limits) as animation:
            yield animation
        return
    from metaformer_plugin_video.stream import FileVideo

    with FileVideo(file, name, kind, limits, backend) as video:
        yield video
