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
from metaformer.files.picture import MAX_PIXELS, read_image
from metaformer.types import Raw
from metaformer_plugin_image.augment import erase, flip, timm_transform

Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]


@dataclass(frozen=True)
class ImagePreprocess(Preprocess):
    """A path, bytes, Pillow image or array → `{"pixels": uint8 [C H W]}`. Knobs: see `ImageTokenizer`."""

    reads_files: ClassVar[bool] = True

    size: tuple[int, int]
    """Height, width."""
    channels: Literal[1, 3]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: Literal["crop", "exact"] = "crop"
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

    def __call__(self, value: Any, train: bool) -> Raw:
        image = read_image(value, self.max_pixels)
        if not train or self.augment == "none":
            return {"pixels": self._pixels(self._fit(image))}
        if self.augment == "light":
            height, width = self.size
            box = crop_box(*image.size, self.crop_scale, self.crop_ratio)
            image = image.crop(box).resize((width, height), self._resampling)
            return {"pixels": self._pixels(flip(image, self.hflip, self.vflip))}
        return {"pixels": self._timm(image)}

    def blank(self) -> Raw:
        return {"pixels": torch.zeros(self.channels, *self.size, dtype=torch.uint8)}

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
        pixels = torch.from_numpy(np.array(image)).view(*self.size, self.channels)
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
