"""The audio tokenizer and the bundled data set against the conformance kit."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Iterable

import numpy as np
import pytest

from metaformer.testing import Check, dataset_checks, tokenizer_checks

DRAWS = ("random_state", "preprocess_random_state")
"""Checks that need a process without run-time type checks, see tests/test_conformance.py."""
ROWS = "contents"
"""This check wants the patches of a shorter sound to be the first of a longer one's. Those of a spectrogram, row by
row, are not: test_audio_tokenizer.py compares them by their places."""

RNG = np.random.default_rng(0)
SOUNDS = [
    RNG.normal(0, 0.1, 6000),
    {"samples": RNG.normal(0, 0.1, (1500, 1)).astype(np.float32), "rate": 11025},
    {"samples": np.zeros(1, np.int16), "rate": 16000},
    RNG.integers(-9000, 9000, (9000, 1), dtype=np.int16),
]
BAD = [
    None,
    5,
    "no path",
    b"",
    b"RIFF",
    np.zeros(0),
    np.zeros((4, 4, 4)),
    np.full(9, np.nan),
    np.full(9, 1e30),
    np.zeros(16000 * 3),
    [["a"]],
    {"samples": [0.0]},
    {"samples": [0.0], "rate": 0},
    {"samples": np.zeros(9, bool), "rate": 16000},
]
SMALL = {"mel_bins": 32, "max_frames": 40, "max_seconds": 2.0}
TOKENIZERS = {
    "mask": ({**SMALL, "gain": 6.0, "noise": 0.1, "roll": 4, "freq_mask": 8, "time_mask": 8}, SOUNDS),
    "zeros": (
        {
            **SMALL,
            "channels": 2,
            "patch_size": (32, 4),
            "stride": None,
            "class_tokens": 0,
            "positions": "sinusoidal",
            "padding": "zeros",
        },
        [*SOUNDS, RNG.normal(0, 0.1, (3000, 2))],
    ),
}


def tokenizers() -> dict[str, Iterable[Check]]:
    return {case: tokenizer_checks(("audio", knobs), good, bad=BAD) for case, (knobs, good) in TOKENIZERS.items()}


def datasets() -> dict[str, Iterable[Check]]:
    knobs = {"split": "valid"}
    return {
        "clip": dataset_checks(("game_sounds", knobs), limit=5),
        "direction": dataset_checks(("game_sounds", {**knobs, "task": "direction", "seconds": 0.5}), limit=5),
    }


def named(cases: dict[str, Iterable[Check]]) -> list[object]:
    pairs = [(case, check) for case, checks in cases.items() for check in checks]
    return [pytest.param(check, id=f"{case}-{check}") for case, check in pairs if check.name not in (*DRAWS, ROWS)]


@pytest.mark.parametrize("check", named(tokenizers()))
def test_tokenizer(check):
    check.run()


@pytest.mark.parametrize("check", named(datasets()))
def test_dataset(check):
    if not importlib.util.find_spec("pygame"):
        pytest.skip("pip install 'metaformer-plugin-audio[samples]'")
    check.run()


def run_draws() -> None:
    """Run the checks that `named` leaves out, and say what fails."""
    for case, checks in {**tokenizers(), **datasets()}.items():
        for check in checks:
            if check.name in DRAWS:
                try:
                    check.run()
                except AssertionError as error:
                    print(f"{case}: {error}")
    print("all run")


def test_nothing_moves_the_global_random_state():
    code = "import runpy, sys; runpy.run_path(sys.argv[1])['run_draws']()"
    done = subprocess.run([sys.executable, "-c", code, __file__], capture_output=True, text=True, check=False)
    assert done.stdout == "all run\n", done.stdout + done.stderr
