"""Random crops and flips, and timm's full set of training transforms.

Source: GoogLeNet's random crops (arXiv 1409.4842) as in torchvision; timm's `create_transform` for the rest.
Ours differs: the light set needs Pillow only, because importing torchvision takes seconds; pixels stay uint8
to the end, so random erasing fills in pixel values before normalisation (with its noise clipped to 0..255).
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Literal

import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

Box = tuple[int, int, int, int]
"""Left, top, right, bottom."""


def crop_box(width: int, height: int, scale: tuple[float, float], ratio: tuple[float, float]) -> Box:
    """A random box with a share of the area in `scale` and width/height in `ratio`, inside the picture."""
    for _ in range(10):
        area = width * height * random.uniform(*scale)
        shape = math.exp(random.uniform(math.log(ratio[0]), math.log(ratio[1])))
        w, h = round(math.sqrt(area * shape)), round(math.sqrt(area / shape))
        if 0 < w <= width and 0 < h <= height:
            left, top = random.randint(0, width - w), random.randint(0, height - h)
            return left, top, left + w, top + h
    # Very long or very small pictures: the largest central box of an allowed shape.
    shape = min(max(width / height, ratio[0]), ratio[1])
    w = max(1, min(width, round(height * shape)))
    h = max(1, min(height, round(width / shape)))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def flip(image: Image.Image, horizontal: float, vertical: float) -> Image.Image:
    """Mirror with the given probabilities."""
    if random.random() < horizontal:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if random.random() < vertical:
        image = image.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    return image


@lru_cache(maxsize=8)
def timm_transform(
    size: tuple[int, int],
    scale: tuple[float, float],
    ratio: tuple[float, float],
    hflip: float,
    vflip: float,
    color_jitter: float,
    auto_augment: str | None,
    interpolation: str,
    mean: tuple[float, ...],
) -> Callable[[Image.Image], Any]:
    """timm's training transform up to uint8 pixels [3 H W]; built once per process."""
    from timm.data import create_transform

    transform: Callable[[Image.Image], Any] = create_transform(
        input_size=(3, *size),
        is_training=True,
        scale=scale,
        ratio=ratio,
        hflip=hflip,
        vflip=vflip,
        color_jitter=color_jitter or None,
        auto_augment=auto_augment,
        interpolation=interpolation,
        mean=mean,
        normalize=False,
    )
    return transform


def erase(
    pixels: UInt8[Tensor, "C H W"],
    probability: float,
    fill: Literal["mean", "noise"],
    mean: tuple[float, ...],
    std: tuple[float, ...],
) -> UInt8[Tensor, "C H W"]:
    """Random erasing (arXiv 1708.04896) with timm's choice of boxes."""
    from timm.data.random_erasing import RandomErasing

    keep = RandomErasing(probability, mode="const", device="cpu")(torch.ones(1, *pixels.shape[1:])).bool()
    color = torch.tensor(mean).view(-1, 1, 1).expand(pixels.shape)
    if fill == "noise":
        color = color + torch.tensor(std).view(-1, 1, 1) * torch.randn(pixels.shape)
    return torch.where(keep, pixels, (color * 255).round().clamp(0, 255).to(torch.uint8))
