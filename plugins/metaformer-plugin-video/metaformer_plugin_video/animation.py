"""Animated GIF and WebP as a video, by Pillow.

Ours differs from viewers: loops are played once, and what is transparent shows white.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float64, UInt8
from PIL import Image

from metaformer.errors import DataError
from metaformer_plugin_video.source import Binary, Limits, Video, joined

BROWSERS = 0.1
"""Seconds a frame is shown whose file says 0."""


class AnimationVideo(Video):
    """Frames are decoded one after another, as each is drawn over the one before, up to the last that is asked for."""

    def __init__(self, file: Binary, name: str, limits: Limits) -> None:
        self.name, self.limits = name, limits
        self.until = time.monotonic() + limits.time_limit
        self.decoded = 0
        file.seek(0)
        try:
            image = Image.open(file, formats=("GIF", "WEBP"))
            limits.check_frame(name, *image.size)
            # Counts the frames of a GIF by their headers.
            self.image, self.total = image, int(getattr(image, "n_frames", 1))
        except DataError:
            raise
        except Exception as error:
            raise self._bad(error) from error
        limits.check_count(name, self.total)
        self._times: Float64[np.ndarray, " F"] | None = None

    def __enter__(self) -> AnimationVideo:
        return self

    def __exit__(self, *_: Any) -> None:
        self.image.close()

    @property
    def times(self) -> Float64[np.ndarray, " F"]:  # type: ignore[override]
        """Durations stand beside the frames: asking for them decodes all."""
        if self._times is None:
            shown = [self._seek(index).info.get("duration", 0) / 1000 or BROWSERS for index in range(self.total)]
            self._times = np.concatenate([[0.0], np.cumsum(shown)[:-1]])
        return self._times

    def read(self, indices: Sequence[int]) -> UInt8[np.ndarray, "N H W C"]:
        self.limits.check_clip(self.name, len(set(indices)), *self.image.size)
        found: dict[int, np.ndarray] = {}
        for index in sorted(set(indices)):
            frame = self._seek(index)
            paper = Image.new("RGB", frame.size, (255, 255, 255))
            drawn = frame.convert("RGBA")
            paper.paste(drawn, mask=drawn.getchannel("A"))
            found[index] = np.asarray(paper)
        return joined(self.name, [found[index] for index in indices])

    def _seek(self, index: int) -> Image.Image:
        if time.monotonic() > self.until:
            found = f"more than {self.limits.time_limit:g} seconds of work"
            raise DataError(f"read video {self.name}", found, "cut it, or raise the tokenizer's `time_limit`")
        try:
            self.image.seek(index)
            self.image.load()
        except Exception as error:
            # Decoders raise nearly every type there is on damaged bytes.
            raise self._bad(error) from error
        self.decoded += 1
        return self.image

    def _bad(self, error: Exception) -> DataError:
        reason = str(error) or type(error).__name__
        return DataError(f"read video {self.name}", reason, "replace or remove it")
