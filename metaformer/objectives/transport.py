"""Optimal transport between two sets of tokens: what it costs to turn words into patches.

Source: the inexact proximal point method, IPOT (arXiv 1802.04307), with the constants of ViLT (arXiv 2102.03334): step
0.5, 50 outer iterations, one inner. The plan is made without gradient, the cost with.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

STEP, ITERATIONS = 0.5, 50


def transport_distance(
    x: Float[Tensor, "B M D"], x_mask: Bool[Tensor, "B M"], y: Float[Tensor, "B N D"], y_mask: Bool[Tensor, "B N"]
) -> Float[Tensor, B]:
    """Cost, in cosine distances, of the plan that moves an even weight on the tokens of `x` onto one on those of `y`;
    0 where either has none."""
    cost = 1 - F.normalize(x, dim=2) @ F.normalize(y, dim=2).transpose(1, 2)
    both = x_mask[:, :, None] & y_mask[:, None, :]
    cost = cost.masked_fill(~both, 0.0)
    with torch.no_grad():
        plan = transport_plan(cost, both)
    return (plan * cost).sum(dim=(1, 2))


def transport_plan(cost: Float[Tensor, "B M N"], both: Bool[Tensor, "B M N"]) -> Float[Tensor, "B M N"]:
    """Near the cheapest plan whose rows and columns each have an even weight; 0 outside `both`."""
    rows, columns = both.any(dim=2), both.any(dim=1)
    number_of_rows, number_of_columns = (side.sum(dim=1, keepdim=True).clamp(min=1) for side in (rows, columns))
    kernel = torch.exp(-cost / STEP) * both
    plan = both.to(cost.dtype)
    sigma = columns / number_of_columns.to(cost.dtype)
    for _ in range(ITERATIONS):
        q = kernel * plan
        # Outside the mask both sides of a division are 0.
        delta = rows / (number_of_rows * (q @ sigma[:, :, None])[:, :, 0]).masked_fill(~rows, 1.0)
        sigma = columns / (number_of_columns * (delta[:, None, :] @ q)[:, 0]).masked_fill(~columns, 1.0)
        plan = delta[:, :, None] * q * sigma[:, None, :]
    return plan
