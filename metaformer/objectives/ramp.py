"""A share that grows from 0: how much of a target a teacher gives, who knows little at first.

Source: ALBEF (arXiv 2107.07651), which lets it grow over the first epoch.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


class Ramp(nn.Module):
    """`share` after `steps` updates, in proportion before; from the first step on where `steps` is 0."""

    updates: Int[Tensor, 1]

    def __init__(self, share: float, steps: int) -> None:
        super().__init__()
        self.share, self.steps = share, steps
        if steps:
            self.register_buffer("updates", torch.zeros(1, dtype=torch.int64))

    def now(self) -> Float[Tensor, 1] | float:
        """The share at this point of the run. No `forward`: ZeRO-3 hooks those, and wants tensors out of them."""
        return self.share * (self.updates / self.steps).clamp(max=1) if self.steps else self.share

    def move_on(self) -> None:
        """An update was made."""
        if self.steps:
            self.updates += 1
