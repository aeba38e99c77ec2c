"""Single frames out of MP4, Matroska, WebM and AVI files, by number and exactly, decoding as little as possible.

All packets are looked at once without decoding, which says when each frame is shown and where decoding may begin; a
frame is then reached from the last keyframe before it. Where time stamps do not tell the frames apart (AVI, some old
streams), the file is decoded from its start.

Source: the exact mode of torchcodec has the same idea of a frame's number.
"""

from __future__ import annotations

import bisect
import io
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from jaxtyping import Float64, UInt8

from metaformer.errors import DataError
from metaformer_plugin_video.backend import AVAILABLE_DO, chosen, pyav, torchcodec_frames
from metaformer_plugin_video.containers import Container
from metaformer_plugin_video.source import Backend, Binary, Limits, Video, joined

CODECS = (
    *("av1", "cinepak", "ffv1", "flv1", "h261", "h263", "h264", "hevc", "huffyuv", "indeo5", "mjpeg", "mpeg1video"),
    *("mpeg2video", "mpeg4", "msmpeg4v1", "msmpeg4v2", "msmpeg4v3", "png", "prores", "rawvideo", "theora", "vp6f"),
    *("vp8", "vp9", "wmv1", "wmv2"),
)
"""What cameras, screen recorders and data sets use; the rest of FFmpeg's decoders see no byte."""
KEEP = 2**28
"""Bytes of decoded frames kept while those of a file are counted, so that it need not be decoded again."""
FAR = 4
"""Frames that are rather decoded than jumped over: a jump empties the decoder."""


class FileVideo(Video):
    """A video stream of an open file; `decoded` counts the frames that came out of the decoder."""

    def __init__(self, file: Binary, name: str, container: Container, limits: Limits, backend: Backend) -> None:
        self.name, self.demuxer, self.limits = name, container, limits
        self.backend = chosen(backend)
        self.file = Watched(file, time.monotonic() + limits.time_limit)
        self.decoded = 0
        self._container: Any = None
        self._kept: list[Any] | None = None
        self._position = -1
        self._frames: Iterator[Any] | None = None
        try:
            with self._faults():
                self._open()
                self._index()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> FileVideo:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def close(self) -> None:
        if self._container is not None:
            self._container.close()
        self._container = self._frames = self._kept = None

    def read(self, indices: Sequence[int]) -> UInt8[np.ndarray, "N H W C"]:
        wanted = sorted(set(indices))
        context = self.stream.codec_context
        self.limits.check_clip(self.name, len(wanted), context.width, context.height)
        if self.backend == "torchcodec" and not self.linear:
            with self._faults():
                frames = torchcodec_frames(self.file, self.name, self.total, wanted)
            if frames is not None:
                return joined(self.name, [frames[wanted.index(index)] for index in indices])
        with self._faults():
            found = self._from_start(wanted) if self.linear else self._from_keyframes(wanted)
        return joined(self.name, [found[index] for index in indices])

    # Opening.

    def _open(self) -> None:
        """A fresh container, at its start."""
        if self._container is not None:
            self._container.close()
        self.file.seek(0)
        self._container = pyav().open(
            self.file,
            format=self.demuxer,
            # Only this one file: whatever a container refers to elsewhere, by any protocol, stays closed.
            io_open=_refuse,
            options={"protocol_whitelist": "none", "enable_drefs": "0", "max_pixels": str(self.limits.max_pixels)},
        )
        cover = pyav().stream.Disposition.attached_pic
        streams = [stream for stream in self._container.streams.video if cover not in stream.disposition]
        if not streams:
            kinds = ", ".join(sorted({s.type for s in self._container.streams})) or "nothing"
            raise DataError(f"read video {self.name}", f"no video in it, only {kinds}", "replace or remove it")
        self.stream = streams[0]
        context = self.stream.codec_context
        codec = "unknown" if context is None else context.codec.canonical_name
        if codec not in CODECS:
            known = ", ".join(CODECS)
            raise DataError(f"read video {self.name}", f"codec {codec}", f"convert it; codecs that are read: {known}")
        self.limits.check_frame(self.name, context.width, context.height)
        self.limits.check_count(self.name, self.stream.frames)
        # Data workers are processes already. FFmpeg itself holds later changes of size against the limit.
        context.thread_count = 1
        context.options = {"max_pixels": str(self.limits.max_pixels), "threads": "1"}

    def _index(self) -> None:
        """Time stamps in the order of display, and which of them are keyframes."""
        stamps: list[int | None] = []
        keys: list[int] = []
        count = 0
        for packet in self._container.demux(self.stream):
            self.file.check()
            if not packet.size:
                continue
            count += 1
            if packet.is_discard:  # before the start that an edit list sets
                continue
            stamps.append(packet.pts)
            self.limits.check_count(self.name, len(stamps))
            if packet.is_keyframe and packet.pts is not None:
                keys.append(packet.pts)
        if not stamps:
            raise DataError(f"read video {self.name}", "no frames", "remove it")
        if self.demuxer == "mov" and count < self.stream.frames:
            found = f"{count} frames of {self.stream.frames}: it is cut off"
            raise DataError(f"read video {self.name}", found, "replace or remove it")
        known = sorted({stamp for stamp in stamps if stamp is not None})
        self.linear = self.demuxer == "avi" or len(known) != len(stamps) or not keys
        if self.linear:
            self._count()
            return
        self.total, self._stamps = len(known), known
        self._place = {stamp: index for index, stamp in enumerate(known)}
        self._keys = sorted(self._place[stamp] for stamp in keys)
        self.times = _seconds(known, self.stream)

    def _count(self) -> None:
        """Number and times of the frames, by decoding all of them."""
        kept: list[Any] | None = []
        stamps: list[int | None] = []
        size = 0
        for frame in self._restarted():
            stamps.append(frame.pts)
            self.limits.check_count(self.name, len(stamps))
            size += 2 * frame.width * frame.height
            if kept is not None:
                kept.append(frame)
                kept = kept if size <= KEEP else None
        if not stamps:
            raise DataError(f"read video {self.name}", "no frame that can be decoded", "replace or remove it")
        self.total, self._kept = len(stamps), kept
        known = [stamp for stamp in stamps if stamp is not None]
        rate = self.stream.average_rate
        if known == sorted(set(stamps) - {None}):  # type: ignore[type-var]
            self.times = _seconds(known, self.stream)
        else:
            self.times = np.arange(self.total) / float(rate) if rate else None

    # Decoding.

    def _from_keyframes(self, wanted: Sequence[int]) -> dict[int, np.ndarray]:
        found: dict[int, np.ndarray] = {}
        for index in wanted:
            key = self._keys[max(bisect.bisect_right(self._keys, index) - 1, 0)]
            if self._frames is None or index <= self._position or key > self._position + FAR:
                self._container.seek(self._stamps[key], stream=self.stream, backward=True, any_frame=False)
                self._frames, self._position = self._decode(), -1
            for frame in self._frames:
                self._position = self._place.get(frame.pts, self._position)
                if self._position >= index or (frame.pts is None or frame.pts > self._stamps[index]):
                    break
            if self._position != index:
                # The packet of this number held no picture, or the seek went too far: start over, count on nothing.
                self._frames = None
                return self._by_stamp(wanted)
            found[index] = self._pixels(frame)
        return found

    def _by_stamp(self, wanted: Sequence[int]) -> dict[int, np.ndarray]:
        """From the start, for each number the first frame that is not shown earlier than its packet says."""
        found: dict[int, np.ndarray] = {}
        todo = list(wanted)
        for frame in self._restarted():
            while todo and frame.pts is not None and frame.pts >= self._stamps[todo[0]]:
                found[todo.pop(0)] = self._pixels(frame)
            if not todo:
                return found
        raise DataError(
            f"read video {self.name}", f"frame {todo[0]} of {self.total} cannot be decoded", "replace or remove it"
        )

    def _from_start(self, wanted: Sequence[int]) -> dict[int, np.ndarray]:
        if self._kept is not None:
            return {index: self._pixels(self._kept[index]) for index in wanted}
        found: dict[int, np.ndarray] = {}
        for index, frame in enumerate(self._restarted()):
            if index in wanted:
                found[index] = self._pixels(frame)
            if index == wanted[-1]:
                return found
        raise DataError(f"read video {self.name}", "fewer frames than it had before", "replace or remove it")

    def _restarted(self) -> Iterator[Any]:
        self._open()
        self._frames = None
        return self._decode()

    def _decode(self) -> Iterator[Any]:
        for packet in self._container.demux(self.stream):
            self.file.check()
            for frame in packet.decode():
                self.decoded += 1
                yield frame

    def _pixels(self, frame: Any) -> UInt8[np.ndarray, "H W C"]:
        if frame.is_corrupt:
            raise DataError(f"read video {self.name}", "a damaged frame", "replace or remove it")
        self.limits.check_frame(self.name, frame.width, frame.height)
        pixels: np.ndarray = frame.to_ndarray(format="rgb24")
        # Telephones store upright films lying, and say so beside the frames.
        return np.ascontiguousarray(np.rot90(pixels, round(frame.rotation / 90) % 4))

    @contextmanager
    def _faults(self) -> Iterator[None]:
        """Whatever FFmpeg says about the bytes becomes a `DataError` that names the file."""
        try:
            yield
        except DataError:
            raise
        except TooLong as error:
            found = f"more than {self.limits.time_limit:g} seconds of work"
            raise DataError(
                f"read video {self.name}", found, "cut it, or raise the tokenizer's `time_limit`"
            ) from error
        except (pyav().FFmpegError, OSError, ValueError, ArithmeticError) as error:
            reason = str(error) or type(error).__name__
            raise DataError(f"read video {self.name}", reason, f"replace or remove it; {AVAILABLE_DO}") from error


def _seconds(stamps: Sequence[int], stream: Any) -> Float64[np.ndarray, " F"]:
    return (np.asarray(stamps, dtype=np.float64) - stamps[0]) * float(stream.time_base)


class TooLong(Exception):
    """The time for one file is over."""


class Watched(io.RawIOBase):
    """A file that can be read and moved about in until a moment of `time.monotonic`."""

    def __init__(self, file: Binary, until: float) -> None:
        super().__init__()
        self.file, self.until = file, until

    def check(self) -> None:
        if time.monotonic() > self.until:
            raise TooLong

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        self.check()
        return self.file.read(size)

    def seek(self, place: int, whence: int = 0) -> int:
        return self.file.seek(place, whence)

    def tell(self) -> int:
        return self.file.tell()


def _refuse(url: str, flags: int, options: Any) -> Any:
    raise PermissionError(f"it refers to {url!r}, which is not opened")
