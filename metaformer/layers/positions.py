"""Positions: fixed sines along a line or on a grid, and learned ones resized to another grid.

Source: arXiv 1706.03762, section 3.5; MAE (arXiv 2111.06377) for two dimensions; timm's `resample_abs_pos_embed`.
"""

from __future__ import annotations

import math
from math import prod

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

Grid = tuple[int, ...]
"""Patches along each axis: (windows), (rows, columns), (frames, rows, columns)."""

_MODES = {1: "linear", 2: "bicubic", 3: "trilinear"}
"""Interpolation by number of axes; two is what published models were resized with."""


def sinusoid(length: int, dim: int) -> Float[Tensor, "T D"]:
    """Sines in the even and cosines in the odd columns, wavelengths 2π to 20000π."""
    # In double: sines of a few thousand radians lose four digits in float32.
    place = torch.arange(length, dtype=torch.float64)[:, None]
    rate = torch.exp(torch.arange(0, dim, 2, dtype=torch.float64) * (-math.log(10000.0) / dim))
    table = torch.zeros(length, dim, dtype=torch.float64)
    table[:, 0::2] = torch.sin(place * rate)
    table[:, 1::2] = torch.cos(place * rate)[:, : dim // 2]
    return table.float()


def grid_sinusoid(dim: int, grid: tuple[int, int], num_prefix: int = 0) -> Float[Tensor, "1 T D"]:
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


def resize(
    positions: Float[Tensor, "1 T D"], old: Grid, new: Grid, num_prefix: int, corners: bool = False
) -> Float[Tensor, "1 S D"]:
    """Interpolated in fp32 to another grid of as many axes; prefix tokens keep theirs; the same tensor where nothing
    changes. Two axes: bicubic and antialiased; one and three: linear. `corners`: linear on any grid, and the first and
    last places of an axis keep theirs, as in ViLT."""
    if old == new:
        return positions
    prefix, patches = positions[:, :num_prefix], positions[:, num_prefix:]
    patches = patches.float().reshape(1, *old, -1).movedim(-1, 1)
    flat = len(old) == 2
    if corners:
        mode = "bilinear" if flat else _MODES[len(old)]
        patches = F.interpolate(patches, size=new, mode=mode, align_corners=True)
    else:
        patches = F.interpolate(patches, size=new, mode=_MODES[len(old)], antialias=flat, align_corners=False)
    return torch.cat([prefix, patches.flatten(2).transpose(1, 2).to(prefix.dtype)], dim=1)


def fit_positions(
    positions: Float[Tensor, "1 T D"], grid: Grid, num_prefix: int, kept: int
) -> Float[Tensor, "1 S D"] | None:
    """Published positions → those of `grid` behind `num_prefix` tokens; None where no layout explains their number.

    They have `kept` prefix rows, or none (timm's `no_embed_class`). Their grid is ours, or one that differs in the last
    axis only (a longer clip or spectrogram), or a square.
    """
    count = positions.shape[1]
    for prefix in dict.fromkeys((kept, 0)):
        old = _grid_of(count - prefix, grid, longer=prefix == kept)
        if old is None:
            continue
        moved = resize(positions, old, grid, prefix)[:, prefix:]
        if not num_prefix:
            return moved
        rows = positions[:, :prefix] if prefix else torch.zeros_like(positions[:, :1]).expand(-1, num_prefix, -1)
        return torch.cat([rows[:, :num_prefix], moved], dim=1)
    return None


def _grid_of(count: int, like: Grid, longer: bool) -> Grid | None:
    if count == prod(like):
        return like
    side = math.isqrt(max(count, 0))
    if len(like) == 2 and side and side * side == count:
        return (side, side)
    rest = prod(like[:-1])
    return (*like[:-1], count // rest) if longer and count > 0 and count % rest == 0 else None
