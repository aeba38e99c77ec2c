"""One video → a clip of uint8 pixels [F C H W] of the tokenizer's size, in a data worker.

Source: VideoMAE's fine-tuning transforms: one random resized crop and one flip for all frames of a clip.
Ours differs: resampling is bilinear and antialiased (metaformer.arrays.raster), colours are not changed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from metaformer.arrays.raster import fit, flip, random_crop
from metaformer.base import Preprocess
from metaformer.errors import DataError
from metaformer.types import Raw
from metaformer_plugin_video.sampling import clip_indices, random_clip, segment_indices, timed_clip
from metaformer_plugin_video.source import Backend, Clip, Limits, Video, open_video

LUMA = (0.299, 0.587, 0.114)
"""Gray out of red, green and blue, ITU-R BT.601."""


@dataclass(frozen=True)
class VideoPreprocess(Preprocess):
    """A file, bytes, folder, array or `Clip` → `{pixels: uint8 [F C H W], mask: bool [F]}`. Knobs: `VideoTokenizer`.

    F is a multiple of `tubelet` and at most `num_frames`; less only under `short: mask`.
    """

    reads_files: ClassVar[bool] = True

    size: tuple[int, int]
    """Height, width."""
    channels: Literal[1, 3]
    num_frames: int
    tubelet: int
    sampling: Literal["dense", "segments"] = "dense"
    stride: int = 1
    frame_rate: float | None = None
    short: Literal["repeat", "mask"] = "repeat"
    resize: Literal["crop", "exact"] = "crop"
    crop_pct: float = 1.0
    augment: Literal["none", "light"] = "none"
    crop_scale: tuple[float, float] = (0.5, 1.0)
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    hflip: float = 0.5
    decoder: Backend = "auto"
    limits: Limits = field(default_factory=Limits)

    def __call__(self, value: Any, train: bool) -> Raw:
        if isinstance(value, Clip):
            return self._pack(self._checked(value))
        with open_video(value, self.limits, self.decoder) as video:
            frames = video.read([int(index) for index in self.choose(video, train)])
        pixels = self.gray_or_color(frames)
        if train and self.augment == "light":
            pixels = random_crop(pixels, self.size, self.crop_scale, self.crop_ratio)
            return self._pack(flip(pixels, self.hflip))
        return self._pack(fit(pixels, self.size, self.resize, self.crop_pct))

    def blank(self) -> Raw:
        pixels = torch.zeros(self.tubelet, self.channels, *self.size, dtype=torch.uint8)
        return self._pack(pixels)

    def example(self) -> Raw:
        pixels = torch.zeros(self.num_frames, self.channels, *self.size, dtype=torch.uint8)
        return {"pixels": pixels, "mask": torch.ones(self.num_frames, dtype=torch.bool)}

    def choose(self, video: Video, train: bool, clip: int = 0, clips: int = 1) -> Int64[np.ndarray, " N"]:
        """Numbers of the frames; in evaluation those of clip number `clip` of `clips`. Raises DataError where a rate
        is asked of frames without times."""
        if self.sampling == "segments":
            return segment_indices(video.total, self.num_frames, train)
        if self.frame_rate is not None:
            if video.times is None:
                asked = f"{self.frame_rate:g} frames per second of {video.name}"
                raise DataError(asked, "frames without times", "set `stride` instead of `frame_rate`")
            return timed_clip(video.times, self.num_frames, self.frame_rate, clip, clips, train)
        if train:
            return random_clip(video.total, self.num_frames, self.stride)
        return clip_indices(video.total, self.num_frames, self.stride, clip, clips)

    def gray_or_color(self, frames: UInt8[np.ndarray, "F H W C"]) -> UInt8[Tensor, "F K H W"]:
        """Frames with the tokenizer's number of channels."""
        pixels = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2)
        if pixels.shape[1] == self.channels:
            return pixels
        if self.channels == 3:
            return pixels.expand(-1, 3, -1, -1)
        luma = torch.tensor(LUMA).view(1, 3, 1, 1)
        return (pixels.float() * luma).sum(dim=1, keepdim=True).round().clamp(0, 255).to(torch.uint8)

    def _checked(self, clip: Clip) -> UInt8[Tensor, "F C H W"]:
        pixels = self.gray_or_color(clip.frames)
        if tuple(pixels.shape[2:]) != self.size or not 0 < len(pixels) <= self.num_frames:
            asked = f"a clip of at most {self.num_frames} frames of {self.size[0]}x{self.size[1]}"
            raise DataError(asked, f"{list(clip.frames.shape)}", "give it the tokenizer's size, or an array")
        return pixels

    def _pack(self, pixels: UInt8[Tensor, "F C H W"]) -> Raw:
        """Fill the last tubelet, or the whole clip, with the last frame."""
        least = -(-len(pixels) // self.tubelet) * self.tubelet
        count = self.num_frames if self.short == "repeat" else least
        if len(pixels) < count:
            pixels = torch.cat([pixels, pixels[-1:].expand(count - len(pixels), -1, -1, -1)])
        return {"pixels": pixels.contiguous(), "mask": torch.ones(len(pixels), dtype=torch.bool)}
