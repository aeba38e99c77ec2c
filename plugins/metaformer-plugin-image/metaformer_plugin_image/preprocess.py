"""One picture → uint8 pixels [C H W] of the tokenizer's size, in a data worker.

Source: the evaluation and training transforms of timm and torchvision.
Ours differs: only what survives the centre crop is resampled, which is faster, safe for pictures one pixel
wide and a hundred thousand long, and within one gray level of resizing first; pixels travel as uint8, a
quarter of the memory, and are normalised on the device.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from metaformer.arrays.raster import crop_box
from metaformer.base import Preprocess
from metaformer.errors import MetaformerError
from metaformer.files.picture import MAX_PIXELS, read_image
from metaformer.types import Raw
from metaformer_plugin_image.augment import erase, flip, timm_transform

Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]


@dataclass(frozen=True)
class ImagePreprocess(Preprocess):
    """A path, bytes, Pillow image or array → `{"pixels": uint8 [C H W]}`. Knobs: see `ImageTokenizer`.

    Raises MetaformerError for knobs that contradict one another."""

    reads_files: ClassVar[bool] = True

    size: tuple[int, int]
    """Height, width."""
    channels: Literal[1, 3]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    patch_size: int = 16
    resize: Literal["crop", "exact", "keep"] = "crop"
    crop_pct: float = 0.875
    interpolation: Interpolation = "bicubic"
    augment: Literal["none", "light", "timm"] = "none"
    crop_scale: tuple[float, float] = (0.08, 1.0)
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    hflip: float = 0.5
    vflip: float = 0.0
    color_jitter: float = 0.4
    auto_augment: str | None = None
    erase: float = 0.0
    erase_fill: Literal["mean", "noise"] = "noise"
    max_pixels: int = MAX_PIXELS

    def __post_init__(self) -> None:
        for name, (low, high) in (("crop_scale", self.crop_scale), ("crop_ratio", self.crop_ratio)):
            if low > high:
                raise MetaformerError(f"{name} [{low}, {high}]", "the first is larger", "give [smallest, largest]")
        if self.resize == "keep" and self.augment == "timm":
            raise MetaformerError(
                "resize: keep", "augment: timm, which makes all pictures one size", "use augment: light"
            )

    def __call__(self, value: Any, train: bool) -> Raw:
        image = read_image(value, self.max_pixels)
        if train and self.augment == "timm":
            return {"pixels": self._timm(image)}
        if train and self.augment == "light":
            height, width = self.size
            image = image.crop(crop_box(*image.size, self.crop_scale, self.crop_ratio))
            image = self._keep(image) if self.resize == "keep" else image.resize((width, height), self._resampling)
            return self._raw(flip(image, self.hflip, self.vflip))
        return self._raw(self._keep(image) if self.resize == "keep" else self._fit(image))

    def blank(self) -> Raw:
        size = (self.patch_size, self.patch_size) if self.resize == "keep" else self.size
        return self._raw(Image.new("L", size[::-1]))

    def example(self) -> Raw:
        return self._raw(Image.new("L", self.size[::-1]))

    def _raw(self, image: Image.Image) -> Raw:
        pixels = self._pixels(image)
        if self.resize != "keep":
            return {"pixels": pixels}
        real = torch.ones(pixels.shape[1] // self.patch_size, pixels.shape[2] // self.patch_size, dtype=torch.bool)
        return {"pixels": pixels, "real": real}

    def _keep(self, image: Image.Image) -> Image.Image:
        """Into `size` without cutting or (much) stretching: shrunk where it is larger, sides in whole patches."""
        p, (height, width) = self.patch_size, self.size
        shrink = min(1.0, width / image.size[0], height / image.size[1])
        sides = (max(p, round(length * shrink / p) * p) for length in image.size)
        wide, high = (min(side, limit) for side, limit in zip(sides, (width, height), strict=True))
        return image if image.size == (wide, high) else image.resize((wide, high), self._resampling)

    @property
    def _resampling(self) -> Image.Resampling:
        return Image.Resampling[self.interpolation.upper()]

    def _fit(self, image: Image.Image) -> Image.Image:
        """Evaluation: shorter side to size / crop_pct and centre crop, or both sides to size."""
        height, width = self.size
        if image.size == (width, height) and (self.resize == "exact" or self.crop_pct == 1):
            return image
        if self.resize == "exact":
            return image.resize((width, height), self._resampling)
        (full_w, full_h), w, h = image.size, int(width / self.crop_pct), int(height / self.crop_pct)
        # Cover w x h, keeping the shape; integers, rounded down as in torchvision.
        if h * full_w >= w * full_h:
            w = h * full_w // full_h
        else:
            h = w * full_h // full_w
        left, top = round((w - width) / 2), round((h - height) / 2)
        x, y = full_w / w, full_h / h
        # Rounding may put the far edge a hair outside, which Pillow refuses.
        box = (left * x, top * y, min((left + width) * x, full_w), min((top + height) * y, full_h))
        return image.resize((width, height), self._resampling, box=box)

    def _pixels(self, image: Image.Image) -> UInt8[Tensor, "C H W"]:
        image = image.convert("L" if self.channels == 1 else "RGB")
        pixels = torch.from_numpy(np.array(image)).view(image.size[1], image.size[0], self.channels)
        return pixels.permute(2, 0, 1).contiguous()

    def _timm(self, image: Image.Image) -> UInt8[Tensor, "C H W"]:
        color = self.mean if self.channels == 3 else self.mean * 3
        transform = timm_transform(
            self.size,
            self.crop_scale,
            self.crop_ratio,
            self.hflip,
            self.vflip,
            self.color_jitter,
            self.auto_augment,
            self.interpolation,
            color,
        )
        pixels: Tensor = transform(image.convert("RGB"))  # its colour operations expect three channels
        if self.channels == 1:
            pixels = self._pixels(Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy()))
        return erase(pixels, self.erase, self.erase_fill, self.mean, self.std) if self.erase else pixels
