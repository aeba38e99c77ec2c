"""The learning rate as a pure function of the step."""

from __future__ import annotations

import math

from metaformer.recipe import Schedule


def learning_rate(step: int, steps: int, peak: float, schedule: Schedule) -> float:
    """Rate for the update number `step`, counted from 0, of `steps`: linear warm-up, then decay to `floor`·peak."""
    if step < schedule.warmup:
        return peak * (step + 1) / schedule.warmup
    done = (step - schedule.warmup) / max(steps - schedule.warmup, 1)
    left = {
        "constant": 1.0,
        "linear": 1.0 - done,
        "cosine": 0.5 * (1.0 + math.cos(math.pi * done)),
        "polynomial": (1.0 - done) ** schedule.power,
    }[schedule.decay]
    return peak * (schedule.floor + (1.0 - schedule.floor) * left)
