"""One infrared picture → levels from 0 to 1 [1 H W] of the tokenizer's size, in a data worker.

Source: percentiles of each picture, as thermal viewers choose their span; a fixed span in physical units where heat
itself matters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float32

from metaformer.arrays.raster import fit, flip, random_crop
from metaformer.base import Preprocess
from metaformer.types import Raw
from metaformer_plugin_infrared.thermal import Scale, read_thermal


@dataclass(frozen=True)
class InfraredPreprocess(Preprocess):
    """A path, bytes, Pillow image or array → `{"pixels": float32 [1 H W]}`. Knobs: see `InfraredTokenizer`."""

    reads_files: ClassVar[bool] = True

    size: tuple[int, int]
    """Height, width."""
    scale: Scale = "unit"
    normalize: Literal["image", "fixed"] = "image"
    span: tuple[float, float] = (0.0, 1.0)
    percentiles: tuple[float, float] = (0.0, 100.0)
    resize: Literal["crop", "exact"] = "exact"
    crop_pct: float = 1.0
    augment: Literal["none", "light"] = "none"
    crop_scale: tuple[float, float] = (0.5, 1.0)
    hflip: float = 0.0
    max_pixels: int = 2**26

    def __call__(self, value: Any, train: bool) -> Raw:
        levels = torch.from_numpy(self.between(read_thermal(value, self.scale, self.max_pixels)))[None]
        if train and self.augment == "light":
            return {"pixels": flip(random_crop(levels, self.size, self.crop_scale), self.hflip)}
        return {"pixels": fit(levels, self.size, self.resize, self.crop_pct)}

    def between(self, x: Float32[np.ndarray, "H W"]) -> Float32[np.ndarray, "H W"]:
        """0 at the low end of the span, 1 at the high one, and no further; 0 where a picture has no span."""
        low, high = self.span if self.normalize == "fixed" else np.percentile(x, self.percentiles).tolist()
        # In double precision, because levels that lie close together must not fall together.
        unit = (x.astype(np.float64) - low) / max(high - low, 1e-30)
        return np.clip(unit, 0, 1).astype(np.float32)

    def blank(self) -> Raw:
        return {"pixels": torch.zeros(1, *self.size)}
