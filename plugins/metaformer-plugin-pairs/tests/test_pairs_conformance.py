"""The cases that `metaformer plugins check` runs as well."""

from __future__ import annotations

import pytest
from metaformer_plugin_pairs.conformance import checks

from metaformer.testing import Check

DRAWS = ("random_state", "preprocess_random_state")
"""tests/test_conformance.py runs these, in a process without run-time type checks."""


@pytest.mark.parametrize("check", [check for check in checks() if check.name not in DRAWS], ids=str)
def test_conformance(check: Check) -> None:
    check.run()
