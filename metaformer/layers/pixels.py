"""Statistics of pixels: by the names timm and open_clip give them, and how patches are brought to them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from metaformer.errors import MetaformerError

Preset = Literal["imagenet", "clip", "inception", "none"]
PerChannel = tuple[float, ...]

STATISTICS: dict[str, tuple[PerChannel, PerChannel]] = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "inception": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "torchxrayvision": ((0.5, 0.5, 0.5), (1 / 2048, 1 / 2048, 1 / 2048)),
    "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}
"""Mean and deviation of pixels in [0, 1]; torchxrayvision's range is -1024 to 1024."""


def pixel_statistics(
    preset: str, channels: int, mean: PerChannel | None = None, std: PerChannel | None = None
) -> tuple[PerChannel, PerChannel]:
    """A preset's numbers, or those given in its place; one channel takes the average of a preset's three."""
    if mean is None and std is None:
        both = STATISTICS[preset]
        return both if channels == 3 else ((sum(both[0]) / 3,), (sum(both[1]) / 3,))
    if mean is None or std is None or len(mean) != channels or len(std) != channels:
        raise MetaformerError(
            f"pixel statistics for {channels} channel{'s' if channels > 1 else ''}",
            f"mean {mean}, std {std}",
            "give both `mean` and `std` with one number per channel, or neither",
        )
    return mean, std


def standardize(
    patches: Shaped[Tensor, "B T C P"], mean: Sequence[float], std: Sequence[float], white: float = 1.0
) -> Float[Tensor, "B T Z P"]:
    """(patches / `white` - mean) / std per channel, in fp32; one channel becomes as many as there are statistics.

    Constants, not buffers: a bf16 engine would round buffers, and with them every pixel."""
    scale = torch.tensor([1 / (white * s) for s in std], device=patches.device)[:, None]
    shift = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)], device=patches.device)
    return torch.addcmul(shift[:, None], patches.float(), scale)
