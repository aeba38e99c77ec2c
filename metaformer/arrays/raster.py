"""Rasters of any depth and number of channels to a size: covered and cut out, stretched, cropped at random, mirrored.

Source: the evaluation and training transforms of timm and torchvision.
Ours differs: on tensors, so that 16-bit levels, floats and stacks of frames keep their values; pictures of 8 bits have
Pillow in the image plugin.
"""

from __future__ import annotations

import math
import random
from typing import Literal

import torch
from jaxtyping import Shaped
from torch import Tensor
from torch.nn import functional as F

Box = tuple[int, int, int, int]
"""Left, top, right, bottom."""
Size = tuple[int, int]
"""Height, width."""


def fit(
    values: Shaped[Tensor, "*C H W"], size: Size, resize: Literal["crop", "exact"] = "crop", crop_pct: float = 0.875
) -> Shaped[Tensor, "*C h w"]:
    """To `size`. `crop`: the shorter side becomes size / `crop_pct`, then the centre is cut out, keeping the shape;
    `exact`: both sides are stretched. uint8 stays uint8."""
    height, width = size
    full_h, full_w = values.shape[-2:]
    if (full_h, full_w) == size and (resize == "exact" or crop_pct == 1):
        return values
    if resize == "exact":
        return resample(values, size)
    w, h = int(width / crop_pct), int(height / crop_pct)
    # Cover w x h; the largest box of the picture that becomes `size` at that scale is cut first, so that nothing
    # outside of it is ever resampled.
    scale = max(h / full_h, w / full_w)
    box_h, box_w = min(full_h, round(height / scale)), min(full_w, round(width / scale))
    top, left = (full_h - box_h) // 2, (full_w - box_w) // 2
    box = values[..., top : top + max(box_h, 1), left : left + max(box_w, 1)]
    return resample(box, size)


def resample(values: Shaped[Tensor, "*C H W"], size: Size) -> Shaped[Tensor, "*C h w"]:
    """Bilinear and antialiased. uint8 stays uint8, anything else becomes float32."""
    flat = values.reshape(1, -1, *values.shape[-2:])
    out = F.interpolate(flat.float(), size=size, mode="bilinear", antialias=True, align_corners=False)
    if values.dtype == torch.uint8:
        out = out.round().clamp(0, 255).to(torch.uint8)
    return out.reshape(*values.shape[:-2], *size)


def random_crop(
    values: Shaped[Tensor, "*C H W"],
    size: Size,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> Shaped[Tensor, "*C h w"]:
    """A random box of a share of the area and of a shape in these ranges, resampled to `size`; the same for all
    channels and frames. Draws from python's `random`."""
    left, top, right, bottom = crop_box(values.shape[-1], values.shape[-2], scale, ratio)
    return resample(values[..., top:bottom, left:right], size)


def flip(values: Shaped[Tensor, "*C H W"], horizontal: float, vertical: float = 0.0) -> Shaped[Tensor, "*C H W"]:
    """Mirrored with the given probabilities. Draws from python's `random`."""
    axes = [axis for axis, chance in ((-1, horizontal), (-2, vertical)) if random.random() < chance]
    return values.flip(axes) if axes else values


def crop_box(width: int, height: int, scale: tuple[float, float], ratio: tuple[float, float]) -> Box:
    """A random box with a share of the area in `scale` and width/height in `ratio`, inside the picture.

    Source: GoogLeNet's random crops (arXiv 1409.4842) as in torchvision."""
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
