"""Sinusoidal positions.

Source: arXiv 1706.03762, section 3.5.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor


def sinusoid(length: int, dim: int) -> Float[Tensor, "T D"]:
    """Sines in the even and cosines in the odd columns, wavelengths 2π to 20000π."""
    place = torch.arange(length, dtype=torch.float32)[:, None]
    rate = torch.exp(torch.arange(0, dim, 2, dtype=torch.float32) * (-math.log(10000.0) / dim))
    table = torch.zeros(length, dim)
    table[:, 0::2] = torch.sin(place * rate)
    table[:, 1::2] = torch.cos(place * rate)[:, : dim // 2]
    return table
