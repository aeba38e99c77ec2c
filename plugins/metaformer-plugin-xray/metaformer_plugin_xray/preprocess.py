"""One X-ray picture → gray [1 H W] of the tokenizer's size, in a data worker; in training a little turned and moved.

Source: random affine maps as in torchvision; sizes as torchxrayvision's, which cuts the centre square.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float32
from torch import Tensor
from torch.nn import functional as F

from metaformer.arrays.raster import fit, flip
from metaformer.base import Preprocess
from metaformer.types import Raw
from metaformer_plugin_xray.levels import Shown, read_xray

Gray = Float32[Tensor, "1 H W"]


@dataclass(frozen=True)
class XrayPreprocess(Preprocess):
    """A path, bytes, Pillow image or array → `{"pixels": float32 [1 H W] from 0 to 1}`. Knobs: see `XrayTokenizer`."""

    reads_files: ClassVar[bool] = True

    size: tuple[int, int]
    """Height, width."""
    window: Shown = "auto"
    frame: int = 0
    resize: Literal["crop", "exact"] = "crop"
    crop_pct: float = 1.0
    rotate: float = 0.0
    shift: float = 0.0
    zoom: tuple[float, float] = (1.0, 1.0)
    hflip: float = 0.0
    max_pixels: int = 2**26

    def __call__(self, value: Any, train: bool) -> Raw:
        levels = read_xray(value, self.window, self.frame, self.max_pixels)
        pixels = fit(torch.tensor(levels)[None], self.size, self.resize, self.crop_pct)
        return {"pixels": self._moved(pixels) if train else pixels}

    def blank(self) -> Raw:
        return {"pixels": torch.zeros(1, *self.size)}

    def _moved(self, pixels: Gray) -> Gray:
        if self.rotate or self.shift or self.zoom != (1.0, 1.0):
            turn = math.radians(random.uniform(-self.rotate, self.rotate))
            across, down = (random.uniform(-self.shift, self.shift) for _ in range(2))
            pixels = affine(pixels, turn, random.uniform(*self.zoom), across, down)
        return flip(pixels, self.hflip)


def affine(pixels: Gray, turn: float, zoom: float, across: float, down: float) -> Gray:
    """Turned counter-clockwise by `turn` (radians), made `zoom` times as large, and moved by shares of width and
    height to the right and down; black where nothing was."""
    height, width = pixels.shape[-2:]
    cos, sin = math.cos(turn) / zoom, math.sin(turn) / zoom
    # From places in the new picture to places in the old one, both from -1 to 1 along each axis.
    matrix = torch.tensor(
        [
            [cos, -sin * height / width, -2 * (cos * across - sin * down * height / width)],
            [sin * width / height, cos, -2 * (sin * across * width / height + cos * down)],
        ]
    )
    grid = F.affine_grid(matrix[None], [1, 1, height, width], align_corners=False)
    return F.grid_sample(pixels[None], grid, align_corners=False)[0]
