"""Positions on a grid of patches: fixed sines, and learned ones resized to another grid.

Source: MAE (arXiv 2111.06377) for the two-dimensional sines; timm's `resample_abs_pos_embed` for resizing.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

Grid = tuple[int, int]
"""Rows, columns."""


def sinusoid(dim: int, grid: Grid, num_prefix: int) -> Float[Tensor, "1 T D"]:
    """Sines and cosines of the column in the first half of D, of the row in the second; 0 for prefix tokens.

    Column first is what published MAE weights were trained with. `dim` must be a multiple of 4.
    """
    rate = 10000.0 ** -(torch.arange(dim // 4, dtype=torch.float64) / (dim // 4))

    def axis(count: int) -> Tensor:
        angle = torch.arange(count, dtype=torch.float64)[:, None] * rate
        return torch.cat([angle.sin(), angle.cos()], dim=1)

    rows, columns = grid
    row = axis(rows)[:, None].expand(rows, columns, -1)
    column = axis(columns)[None].expand(rows, columns, -1)
    patches = torch.cat([column, row], dim=2).flatten(0, 1).float()
    return torch.cat([patches.new_zeros(num_prefix, dim), patches])[None]


def resize(positions: Float[Tensor, "1 T D"], old: Grid, new: Grid, num_prefix: int) -> Float[Tensor, "1 S D"]:
    """Bicubic, antialiased, in fp32; prefix tokens keep theirs; the same tensor where nothing changes."""
    if old == new:
        return positions
    prefix, patches = positions[:, :num_prefix], positions[:, num_prefix:]
    patches = patches.float().reshape(1, *old, -1).permute(0, 3, 1, 2)
    patches = F.interpolate(patches, size=new, mode="bicubic", antialias=True, align_corners=False)
    return torch.cat([prefix, patches.flatten(2).transpose(1, 2).to(prefix.dtype)], dim=1)
