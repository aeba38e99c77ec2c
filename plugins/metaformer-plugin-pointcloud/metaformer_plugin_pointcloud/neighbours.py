"""Farthest point sampling and nearest neighbours in plain torch, for batches of clouds of different size.

Source: PointNet++ (arXiv 1706.02413), section 3.2.
Ours differs: padding is never sampled and never a neighbour; ties go to the lowest index, so that results are the
same on every device and beside any padding; no point is sampled twice while another one is left.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

CHUNK = 1 << 24
"""Distances held at once: 64 MiB of them, and twice that for the keys that are sorted."""


@torch.no_grad()
def farthest_points(
    points: Float[Tensor, "B N 3"], mask: Bool[Tensor, "B N"], count: int, start: Int[Tensor, " B"] | None = None
) -> Int[Tensor, "B G"]:
    """Indices of `count` points, each the farthest from those before; the first is `start`, by default point 0.

    `start` must be real. A cloud of n < `count` points has its n points in the first n places, and any of them
    in the others."""
    rows = len(points)
    last = torch.zeros(rows, dtype=torch.long, device=points.device) if start is None else start
    # Squared distance to the nearest chosen point; chosen ones are worse than any other, padding worse than those.
    far = torch.full(mask.shape, torch.inf, dtype=points.dtype, device=points.device).masked_fill(~mask, -torch.inf)
    chosen = torch.full((rows, 1), -1.0, dtype=points.dtype, device=points.device)
    order = []
    for _ in range(count):
        order.append(last)
        far = torch.minimum(far, _square(take(points, last[:, None]), points)[:, 0])
        far = far.scatter(1, last[:, None], chosen)
        last = far.argmax(dim=1)  # the first of equal ones
    return torch.stack(order, dim=1)


@torch.no_grad()
def nearest(
    queries: Float[Tensor, "B Q 3"], points: Float[Tensor, "B N 3"], mask: Bool[Tensor, "B N"], k: int
) -> tuple[Int[Tensor, "B Q K"], Bool[Tensor, "B Q K"], Float[Tensor, "B Q K"]]:
    """Per query the indices of its K = min(k, N) nearest real points, nearest first; which of them are there; and
    their squared distances. Where there are fewer, the other places repeat the nearest."""
    k = min(k, points.shape[1])
    step = max(1, CHUNK // max(1, points.shape[0] * points.shape[1]))
    keys = []
    for part in queries.split(step, dim=1):
        square = _square(part, points).masked_fill(~mask[:, None], torch.inf)
        # A float that is not negative and its bits, read as a whole number, are in the same order. With the index
        # in the lower half no two keys are equal, which leaves nothing to the device's taste.
        key = square.float().contiguous().view(torch.int32).long() << 32
        key = key | torch.arange(points.shape[1], device=points.device)
        keys.append(key.topk(k, dim=2, largest=False).values)
    key = torch.cat(keys, dim=1)
    index = key & 0xFFFFFFFF
    square = (key >> 32).int().view(torch.float32)
    found = square.isfinite()
    index = torch.where(found, index, index[..., :1])
    return index, found, torch.where(found, square, square[..., :1])


def take(values: Float[Tensor, "B N C"], index: Int[Tensor, B * S]) -> Float[Tensor, "B *S C"]:
    """Rows of `values` by index."""
    flat = index.flatten(1).unsqueeze(-1).expand(-1, -1, values.shape[2])
    return values.gather(1, flat).unflatten(1, index.shape[1:])


def _square(queries: Float[Tensor, "B Q 3"], points: Float[Tensor, "B N 3"]) -> Float[Tensor, "B Q N"]:
    """Squared distances, axis by axis: a matrix product would round away small ones."""
    x, y, z = (queries[:, :, None, i] - points[:, None, :, i] for i in range(3))
    return x * x + y * y + z * z
