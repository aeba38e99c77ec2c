"""What can be done with a recording of motion: an even grid of time, gravity, turning the sensor.

Times are seconds, rates Hz, and NaN is missing throughout.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64

from metaformer.errors import DataError

STANDARD_GRAVITY = 9.80665
"""m/s² in one g, by definition."""


def on_grid(
    values: Float64[np.ndarray, "L C"],
    times: Float64[np.ndarray, " L"],
    rate: float,
    max_gap: float,
    longest: int,
) -> Float64[np.ndarray, "N C"]:
    """Values at every 1/rate seconds from the first time on, linearly between the two nearest samples of a channel.

    Where those are further apart than `max_gap`, the grid is NaN: nobody knows what happened there. Samples may come
    in any order; of several at one time the first counts. There is no filter: motion faster than half the new rate
    folds over. Raises DataError where no time is known, or the grid has more than `longest` places."""
    known = ~np.isnan(times)
    if not known.any():
        raise DataError("a recording with time stamps", "none that is known", "leave it out (a missing stream)")
    times, first = np.unique(times[known], return_index=True)
    values = values[known][first]
    span = (times[-1] - times[0]) * rate
    if span >= longest:
        raise DataError(
            f"a recording of at most {longest} steps at {rate:g} Hz",
            f"time stamps from {times[0]:g} to {times[-1]:g} seconds",
            "look at its time stamps and their unit, or raise max_samples",
        )
    # A hair of tolerance: the last sample must not fall off the grid by rounding.
    grid = times[0] + np.arange(int(np.floor(span + 1e-6)) + 1) / rate
    out = np.full((len(grid), values.shape[1]), np.nan)
    for channel in range(values.shape[1]):
        there = ~np.isnan(values[:, channel])
        if there.any():
            out[:, channel] = _between(grid, times[there], values[there, channel], max_gap, 1e-6 / rate)
    return out


def _between(
    grid: Float64[np.ndarray, " N"],
    times: Float64[np.ndarray, " L"],
    values: Float64[np.ndarray, " L"],
    max_gap: float,
    near: float,
) -> Float64[np.ndarray, " N"]:
    after = np.searchsorted(times, grid - near).clip(max=len(times) - 1)
    before = (np.searchsorted(times, grid + near, side="right") - 1).clip(min=0)
    outside = (grid < times[0] - near) | (grid > times[-1] + near)
    gap = times[after] - times[before] > max_gap * (1 + 1e-9)
    line: Float64[np.ndarray, " N"] = np.interp(grid, times, values)
    line[outside | gap] = np.nan
    return line


def without_gravity(values: Float64[np.ndarray, "L C"], window: int) -> Float64[np.ndarray, "L C"]:
    """Every channel minus its mean over the `window` steps around each: what changes slowly is gone."""
    there = ~np.isnan(values)
    sums, counts = (_running(np.where(there, part, 0.0), window) for part in (values, np.ones_like(values)))
    rest: Float64[np.ndarray, "L C"] = values - sums / counts.clip(min=1)
    return rest


def _running(values: Float64[np.ndarray, "L C"], window: int) -> Float64[np.ndarray, "L C"]:
    """Sums over the steps around each, fewer at the ends."""
    total = np.concatenate([np.zeros((1, values.shape[1])), values.cumsum(axis=0)])
    place = np.arange(len(values))
    first, last = place - window // 2, place + (window - window // 2)
    sums: Float64[np.ndarray, "L C"] = total[last.clip(max=len(values))] - total[first.clip(min=0)]
    return sums


def triads(channels: Sequence[str]) -> list[tuple[int, int, int]]:
    """Places of the channels that are the axes x, y and z of one sensor: `acc_x`, `acc_y`, `acc_z`."""
    place = {name: index for index, name in enumerate(channels)}
    stems = [name[:-2] for name in channels if name.endswith("_x")]
    return [
        (place[f"{stem}_x"], place[f"{stem}_y"], place[f"{stem}_z"])
        for stem in stems
        if f"{stem}_y" in place and f"{stem}_z" in place
    ]


def random_rotation(degrees: float) -> Float64[np.ndarray, "3 3"]:
    """A turn by at most `degrees` about an axis in any direction; draws from numpy's global generator.

    Rodrigues' formula: R = I + sin θ K + (1 - cos θ) K²."""
    x, y, z = axis = np.random.normal(size=3)
    angle = np.deg2rad(np.random.uniform(0, degrees))
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]]) / max(float(np.linalg.norm(axis)), 1e-12)
    turn: Float64[np.ndarray, "3 3"] = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    return turn
