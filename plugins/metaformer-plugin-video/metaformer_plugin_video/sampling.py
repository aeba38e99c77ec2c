"""Which frames of a video a clip is made of.

Source: `dense` clips of every n-th frame as in VideoMAE and the Kinetics models before it; `segments` as in TSN
(arXiv 1608.00859).
Ours differs: a rate in frames per second goes by each frame's own time, so that films with unequal intervals come out
right; the clips of a dense view are spread from the first frame to the last.
"""

from __future__ import annotations

import itertools
import random

import numpy as np
from jaxtyping import Float64, Int64

MICROSECOND = 1e-6
"""Clocks count in fractions of their own: a time that is meant to be a frame's may lie this far before it."""


def clip_indices(
    total: int, num_frames: int, stride: int = 1, clip: int = 0, clips: int = 1
) -> Int64[np.ndarray, " N"]:
    """Frames of clip number `clip` of `clips`, which are spread evenly from the first frame to the last; one alone is
    in the middle. Fewer than `num_frames`, from the start on, where the video has no more."""
    rest = max(total - ((num_frames - 1) * stride + 1), 0)
    start = rest // 2 if clips == 1 else rest * clip // (clips - 1)
    return _there(start + stride * np.arange(num_frames, dtype=np.int64), total)


def random_clip(total: int, num_frames: int, stride: int = 1) -> Int64[np.ndarray, " N"]:
    """`clip_indices` with a start drawn by python's `random`."""
    rest = max(total - ((num_frames - 1) * stride + 1), 0)
    return _there(random.randint(0, rest) + stride * np.arange(num_frames, dtype=np.int64), total)


def timed_clip(
    times: Float64[np.ndarray, " F"], num_frames: int, rate: float, clip: int = 0, clips: int = 1, train: bool = False
) -> Int64[np.ndarray, " N"]:
    """The frames shown at `rate` moments per second; where to begin as in `clip_indices`, or at random in training.

    `times` are seconds from the first frame. Moments after the last frame's time are left out."""
    rest = max(float(times[-1]) - (num_frames - 1) / rate, 0.0)
    start = random.uniform(0, rest) if train else rest / 2 if clips == 1 else rest * clip / (clips - 1)
    moments = start + np.arange(num_frames) / rate
    moments = moments[moments <= times[-1] + MICROSECOND]
    return np.searchsorted(times, moments + MICROSECOND, side="right").astype(np.int64) - 1


def segment_indices(total: int, num_frames: int, train: bool = False) -> Int64[np.ndarray, " N"]:
    """One frame out of each of `num_frames` equal parts: the middle one, or a random one in training. All frames where
    there are no more."""
    if total <= num_frames:
        return np.arange(total, dtype=np.int64)
    edges = [total * part // num_frames for part in range(num_frames + 1)]
    pairs = itertools.pairwise(edges)
    return np.array([random.randrange(a, b) if train else (a + b - 1) // 2 for a, b in pairs], dtype=np.int64)


def _there(indices: Int64[np.ndarray, " N"], total: int) -> Int64[np.ndarray, " M"]:
    return indices[indices < total]
