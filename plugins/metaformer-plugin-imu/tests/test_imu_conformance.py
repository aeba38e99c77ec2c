"""The IMU components against the conformance kit."""

from __future__ import annotations

import numpy as np
import pytest

from metaformer.testing import dataset_checks, tokenizer_checks

pytest.importorskip("aeon", reason='pip install "metaformer-plugin-imu[samples]"')
RNG = np.random.default_rng(0)
DRAWS = ("random_state", "preprocess_random_state")
"""These need a process without run-time type checks: beartype draws from python's `random`."""

MOTIONS = [RNG.normal(3, 2, (length, 6)) for length in (1, 9, 40, 24)]
MOTIONS[2][4:6, 0] = np.nan
TIMED = [
    {"values": MOTIONS[2], "rate": 20.0},
    {"values": MOTIONS[3], "timestamps": np.r_[np.arange(12), 30 + np.arange(12)] / 20},
    {"values": MOTIONS[1], "rate": 50},
]
NO_MOTIONS = [np.zeros((4, 5)), np.full((4, 6), np.nan), np.full((3, 6), 1e31), np.zeros((0, 6)), 5, "no path", {}]
NO_TIMED = [MOTIONS[2], {"values": MOTIONS[2]}, {"values": MOTIONS[2], "rate": -1}, {"values": 3, "rate": 1}]
NO_TIMED += [{"values": MOTIONS[1], "timestamps": [0, 1]}, {"values": MOTIONS[0], "timestamps": [np.inf]}]
NO_TIMED += [{"values": MOTIONS[1], "timestamps": np.arange(9) * 1e12}, {"values": MOTIONS[1], "hz": 3}]
MORE = {"rotate": 30, "jitter": 0.1, "scale": 0.1, "crop": 0.5}

CHECKS = {
    "patch": tokenizer_checks(("imu", {"max_length": 40, "patch_length": 4, **MORE}), MOTIONS, bad=NO_MOTIONS),
    "imagebind": tokenizer_checks(
        ("imu", {"max_length": 60, "stem": "imagebind", "rate": 25, "gravity_window": 0.4}), TIMED, bad=NO_TIMED
    ),
    "basic_motions": dataset_checks(("basic_motions", {"split": "train"}), limit=4),
    "pickup_gesture": dataset_checks(("pickup_gesture", {"split": "valid"}), limit=4),
}


@pytest.mark.parametrize(
    "check",
    [
        pytest.param(check, id=f"{case}-{check}")
        for case, checks in CHECKS.items()
        for check in checks
        if check.name not in DRAWS
    ],
)
def test_conformance(check):
    check.run()
