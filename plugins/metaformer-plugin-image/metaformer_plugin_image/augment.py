"""Flips, and timm's full set of training transforms.

Source: timm's `create_transform` for the rest.
Ours differs: the light set needs Pillow only, because importing torchvision takes seconds; pixels stay uint8
to the end, so random erasing fills in pixel values before normalisation (with its noise clipped to 0..255).
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Literal

import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor


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
