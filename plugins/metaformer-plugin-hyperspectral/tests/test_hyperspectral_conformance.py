"""The hyperspectral components against the conformance kit."""

from __future__ import annotations

import numpy as np
import pytest

from metaformer.testing import dataset_checks, tokenizer_checks

pytest.importorskip("tensorly", reason='pip install "metaformer-plugin-hyperspectral[samples]"')
RNG = np.random.default_rng(0)
DRAWS = ("random_state", "preprocess_random_state")
"""These need a process without run-time type checks: beartype draws from python's `random`."""

PATCHES = [RNG.normal(2000, 500, (3, 3, 8)) for _ in range(4)]
PATCHES[1][:, :, 2:6] = np.nan
PATCHES[2][0, 1, 3] = np.nan
NO_PATCHES = [np.zeros((3, 3, 7)), np.full((3, 3, 8), np.nan), np.full((3, 3, 8), np.inf), "no path", None, 5]
SPECTRA = [patch[0, 0] for patch in PATCHES]
NO_SPECTRA = [np.zeros(7), np.zeros(0), ["x"] * 8, np.zeros(8, dtype=complex)]

CHECKS = {
    "patches": tokenizer_checks(
        (
            "hyperspectral",
            {"num_bands": 8, "patch_size": 3, "near_bands": 3, "band_stride": 2, "flips": True, "band_dropout": 0.5},
        ),
        PATCHES,
        bad=NO_PATCHES,
    ),
    "spectra": tokenizer_checks(
        (
            "hyperspectral",
            {"num_bands": 8, "scaling": "standard", "positions": "sinusoidal", "class_token": False},
        ),
        SPECTRA,
        bad=NO_SPECTRA,
    ),
    "indian_pines": dataset_checks(("indian_pines", {"split": "train", "patch_size": 3})),
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
