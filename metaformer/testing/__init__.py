"""Conformance checks for components: what the core relies on, as small checks, each named after what it finds.

    import pytest
    from metaformer.testing import tokenizer_checks

    CHECKS = tokenizer_checks(("smell", {"sensors": 8}), samples=[[0.1] * 8, [0.2] * 8], bad=["smoke", None])

    @pytest.mark.parametrize("check", CHECKS, ids=str)
    def test_conformance(check):
        check.run()

A check fails with an AssertionError whose sentence names the defect. Each makes its own component, from the same
seeds, and leaves the global random generators as they were.
"""

from __future__ import annotations

from metaformer.testing.bridge import bridge_checks
from metaformer.testing.check import Check
from metaformer.testing.dataset import dataset_checks
from metaformer.testing.encoder import encoder_checks
from metaformer.testing.head import head_checks
from metaformer.testing.metric import metric_checks
from metaformer.testing.objective import objective_checks
from metaformer.testing.tokenizer import tokenizer_checks

__all__ = [
    "Check",
    "bridge_checks",
    "dataset_checks",
    "encoder_checks",
    "head_checks",
    "metric_checks",
    "objective_checks",
    "tokenizer_checks",
]
