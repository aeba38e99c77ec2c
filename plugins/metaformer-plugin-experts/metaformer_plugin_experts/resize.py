"""Tables of relative positions for another grid: offsets interpolated, class rows kept.

Source: BEiT's code and VLMo's, which see the old offsets at distances that grow geometrically, so that near neighbours
stay near, and put a cubic spline through them (FITPACK's, by scipy's `interp2d`, which is gone from it).
Ours differs: any number of axes; a smaller grid keeps its offsets as they are; distances that need not grow do not.
"""

from __future__ import annotations

from math import prod

import torch
from jaxtyping import Float
from torch import Tensor

from metaformer_plugin_experts.positions import CLASS_ROWS, Grid, offset_rows

_LARGEST = 1.5
"""By what the distances grow at most, as in BEiT's code."""


def resize_table(table: Float[Tensor, "R E"], old: Grid, new: Grid) -> Float[Tensor, "S E"]:
    """A table for the grid `old` → one for `new`, of as many axes; the same tensor where they are equal."""
    if old == new:
        return table
    offsets = table[: offset_rows(old)].reshape(*(2 * size - 1 for size in old), -1)
    for axis, (small, large) in enumerate(zip(old, new, strict=True)):
        if large <= small:
            offsets = offsets.narrow(axis, small - large, 2 * large - 1)
        else:
            weights = _spline(_distances(small, large), torch.arange(1 - large, large, dtype=torch.float64))
            moved = torch.tensordot(weights, offsets.double().movedim(axis, 0), dims=1)
            offsets = moved.movedim(0, axis)
    flat = offsets.reshape(prod(offsets.shape[:-1]), -1).to(table.dtype)
    return torch.cat([flat, table[-CLASS_ROWS:]])


def _distances(small: int, large: int) -> Float[Tensor, " R"]:
    """Where the offsets of the old grid lie among those of the new one: 1, 1 + q, 1 + q + q², ... to both sides, with
    the growth q by which they reach as far."""
    low, high = 1.0, _LARGEST
    for _ in range(60):
        growth = (low + high) / 2
        reach = sum(growth**i for i in range(small - 1))
        low, high = (low, growth) if reach > large - 1 else (growth, high)
    steps = torch.tensor([growth**i for i in range(small - 1)], dtype=torch.float64).cumsum(0)
    return torch.cat([-steps.flip(0), steps.new_zeros(1), steps])


def _spline(knots: Float[Tensor, " R"], places: Float[Tensor, " S"]) -> Float[Tensor, "S R"]:
    """Values at `knots` → values at `places`, as a matrix: the interpolating spline, cubic where there are points
    enough, whose second and second to last points are no knots; constant beyond its ends."""
    degree = min(3, len(knots) - 1)
    inside = knots[(degree + 1) // 2 : len(knots) - (degree + 1) // 2]
    if degree < 3:
        inside = inside[:0]  # a single polynomial
    ends = knots.new_ones(degree + 1)
    whole = torch.cat([knots[0] * ends, inside, knots[-1] * ends])
    at_knots = _basis(whole, knots, degree)
    at_places = _basis(whole, places.clamp(float(knots[0]), float(knots[-1])), degree)
    return torch.linalg.solve(at_knots, at_places, left=False)


def _basis(knots: Float[Tensor, " K"], at: Float[Tensor, " S"], degree: int) -> Float[Tensor, "S R"]:
    """Values of the B-splines at some places, by the recursion of Cox and de Boor."""
    last = len(knots) - degree - 2
    span = torch.searchsorted(knots, at.contiguous(), right=True).sub(1).clamp(max=last)
    out = torch.nn.functional.one_hot(span, len(knots) - 1).to(at.dtype)
    for k in range(1, degree + 1):
        width = knots[k:] - knots[:-k]
        share = torch.where(width > 0, (at[:, None] - knots[:-k]) / width.where(width > 0, torch.ones_like(width)), 0.0)
        out = share[:, :-1] * out[:, :-1] + torch.where(width[1:] > 0, 1 - share[:, 1:], 0.0) * out[:, 1:]
    return out
