"""Random changes of a cloud in training.

Source: PointNeXt (arXiv 2206.04670), section 3.1, and its settings per data set.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64


@dataclass(frozen=True)
class Augment:
    """Strengths; 0, and (1, 1) for `zoom`, change nothing. Draws from numpy's global generator."""

    rotate: float = 0.0
    """Degrees to either side, about the vertical."""
    zoom: tuple[float, float] = (1.0, 1.0)
    zoom_each: bool = False
    """A factor of its own for every axis."""
    shift: float = 0.0
    jitter: float = 0.0
    """Deviation of what is added to every coordinate; cut off at four of them, as in PointNeXt."""
    drop_color: float = 0.0
    """How often a cloud loses its colours."""

    def __call__(
        self, points: Float64[np.ndarray, "N 3"], channels: dict[str, np.ndarray], up: int
    ) -> tuple[Float64[np.ndarray, "N 3"], bool]:
        """Points that are rotated, scaled, shifted, jittered, in this order, and whether colours are dropped; normals
        in `channels` follow."""
        normals = channels.get("normal")
        if self.rotate:
            turn = _turn(np.deg2rad(np.random.uniform(-self.rotate, self.rotate)), up)
            points = points @ turn.T
            normals = None if normals is None else normals @ turn.T
        if self.zoom != (1.0, 1.0):
            factor = np.random.uniform(*self.zoom, size=3 if self.zoom_each else 1)
            points = points * factor
            if normals is not None:
                # A surface that is stretched along an axis turns away from it.
                normals = normals / factor
                normals = normals / np.linalg.norm(normals, axis=1, keepdims=True).clip(min=1e-12)
        if self.shift:
            points = points + np.random.uniform(-self.shift, self.shift, size=3)
        if self.jitter:
            noise = np.random.normal(0.0, self.jitter, size=points.shape)
            points = points + noise.clip(-4 * self.jitter, 4 * self.jitter)
        if normals is not None:
            channels["normal"] = normals
        return points, bool(self.drop_color) and np.random.uniform() < self.drop_color


def _turn(angle: float, up: int) -> Float64[np.ndarray, "3 3"]:
    """A rotation about axis `up`, counter-clockwise seen from above."""
    turn = np.eye(3)
    first, second = (up + 1) % 3, (up + 2) % 3
    turn[first, first] = turn[second, second] = np.cos(angle)
    turn[second, first] = np.sin(angle)
    turn[first, second] = -turn[second, first]
    return turn
