"""Which pixels of a scene are for training and which for validation.

A pixel's value is its neighbourhood, so two nearby pixels share most of what a model sees. `checkerboard` cuts the
scene into squares, takes them in turn, and leaves out pixels whose neighbourhood reaches over a square's edge.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Int64

from metaformer.errors import DataError


def checkerboard(
    shape: tuple[int, int], block: int, radius: int, gap: int
) -> tuple[Bool[np.ndarray, "R C"], Bool[np.ndarray, "R C"]]:
    """Pixels for training and for validation: no pixel within `radius` of one is within `radius` of the other.

    `gap` pixels at the inner edges of squares are left out if that is more than `radius`. Beyond the scene's own edges
    neighbourhoods are mirrored, which stays in the square. Raises DataError where squares are too small."""
    margin = max(radius, gap)
    if block <= 2 * margin or min(shape) < block:
        raise DataError(
            f"squares of {block} pixels with {margin} left out at each edge, in a scene of {shape[0]} x {shape[1]}",
            "a square without any pixel" if block <= 2 * margin else "a square larger than the scene",
            "choose another block, or a smaller gap or patch_size",
        )
    rows, columns = (_inside(size, block, margin) for size in shape)
    inside = rows[:, None] & columns[None, :]
    odd = (np.arange(shape[0])[:, None] // block + np.arange(shape[1])[None, :] // block) % 2 == 1
    return inside & ~odd, inside & odd


def _inside(size: int, block: int, margin: int) -> Bool[np.ndarray, " L"]:
    """Places whose surroundings lie in one block. What is mirrored at the scene's edge is nearer than the margin."""
    place = np.arange(size)
    first, last = (place - margin).clip(min=0), (place + margin).clip(max=size - 1)
    inside: Bool[np.ndarray, " L"] = first // block == last // block
    return inside


def at_random(
    labels: Int64[np.ndarray, "R C"], share: float, seed: int
) -> tuple[Bool[np.ndarray, "R C"], Bool[np.ndarray, "R C"]]:
    """`share` of every class's pixels, at least one, for training and the others for validation. Neighbourhoods of
    the two overlap nearly everywhere: what comes out says little about other places."""
    train = np.zeros(labels.shape, dtype=bool)
    generator = np.random.default_rng(seed)
    for label in np.unique(labels[labels > 0]):
        places = generator.permutation(np.flatnonzero(labels == label))
        train.flat[places[: max(1, round(share * len(places)))]] = True
    return train, (labels > 0) & ~train


def few(
    places: Int64[np.ndarray, "N 2"], classes: Int64[np.ndarray, " N"], most: int, seed: int
) -> Int64[np.ndarray, "M 2"]:
    """At most `most` places of every class, drawn at random, in reading order."""
    generator = np.random.default_rng(seed)
    drawn = [generator.permutation(np.flatnonzero(classes == label))[:most] for label in np.unique(classes)]
    return places[np.sort(np.concatenate(drawn))] if drawn else places
