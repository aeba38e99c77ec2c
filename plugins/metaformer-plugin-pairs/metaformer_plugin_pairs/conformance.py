"""The cases of this plugin, which `metaformer plugins check` and the tests run."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

from metaformer.testing import Check, dataset_checks


def checks() -> Iterator[Check]:
    """The data sets that need no download, where scikit-learn is there."""
    if importlib.util.find_spec("sklearn"):
        for name in ("digit_questions", "digit_pairs", "digit_entailment"):
            yield from dataset_checks((name, {"split": "valid"}), limit=5)
