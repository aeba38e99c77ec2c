"""The tokenizer, the head and the bundled data sets against the conformance kit."""

import subprocess
import sys

import numpy as np
import pytest

from metaformer.testing import dataset_checks, head_checks, tokenizer_checks

RNG = np.random.default_rng(0)
DRAWS = ("random_state", "preprocess_random_state")
"""Checks that need a process without run-time type checks, which draw from python's `random`."""

BARE = [RNG.normal(size=(n, 3)) for n in (1, 7, 40, 90)]
COLORED = [{"points": p, "color": RNG.integers(0, 256, (len(p), 3), dtype=np.uint8)} for p in BARE]
BAD = ["no path", 5, np.zeros((0, 3)), np.zeros((4, 2)), np.full((3, 3), np.nan), np.full((3, 3), 1e31), [[1, 2], [3]]]
BAD += [b"ply", {"color": np.zeros((3, 3))}, np.zeros((2, 3), dtype=complex)]
SMALL = {"num_points": 64, "neighbours": 8, "widths": (8, 12, 16)}
CASES = {
    "patch": (
        {**SMALL, "num_groups": 12, "rotate": 180.0, "zoom": (0.7, 1.5), "zoom_axes": "each", "shift": 0.2},
        BARE,
        BAD,
    ),
    "progressive": (
        {
            **SMALL,
            "num_points": 96,
            "stem": "progressive",
            "ratio": 0.0625,
            "features": ("color", "height", "xyz"),
            "norm": "layer",
            "dense": True,
            "jitter": 0.01,
            "drop_color": 0.5,
        },
        COLORED,
        [*BAD, np.zeros((97, 6)), {"points": np.zeros((3, 3))}],
    ),
}


def checks(*, draws: bool):
    for case, (knobs, good, bad) in CASES.items():
        for check in tokenizer_checks(("pointcloud", knobs), good, bad=bad):
            if (check.name in DRAWS) == draws:
                yield pytest.param(check, id=f"{case}-{check}")
    sets = {"terrain": {"samples": 32}, "motorcycle_scene": {"samples": 32}}
    for name, knobs in sets.items():
        for check in dataset_checks((name, {"split": "valid", **knobs}), limit=4):
            if (check.name in DRAWS) == draws:
                yield pytest.param(check, id=f"{name}-{check}")
    for check in head_checks(("cloud_classification", {"num_classes": 5, "hidden": (16, 8)})):
        if (check.name in DRAWS) == draws:
            yield pytest.param(check, id=f"head-{check}")


@pytest.mark.parametrize("check", list(checks(draws=False)))
def test_conformance(check):
    check.run()


def run_draws():
    for param in checks(draws=True):
        param.values[0].run()
    print("all run")


def test_nothing_moves_the_global_random_state():
    code = "import runpy, sys; runpy.run_path(sys.argv[1])['run_draws']()"
    done = subprocess.run([sys.executable, "-c", code, __file__], capture_output=True, text=True, check=False)
    assert done.stdout == "all run\n", done.stdout + done.stderr
