"""The graph tokenizer and the data sets against the conformance kit."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest

from metaformer.testing import Check, dataset_checks, tokenizer_checks

DRAWS = ("random_state", "preprocess_random_state")
"""Checks that need a process without run-time type checks, see tests/test_conformance.py."""

CLASSES = {"node_categorical": (4, ("red", "blue")), "node_numeric": 1, "edge_categorical": (3,), "edge_numeric": 2}
RICH = [
    {
        "x": [[0, 1, 2.5], [3, None, None], [1, 0, -1.0]],
        "edge_index": [[0, 1, 2], [1, 2, 2]],
        "edge_attr": [[0, 1, 2]] * 3,
    },
    {"x": [[2, 0, 0.0]], "edge_index": [[], []]},
    {"num_nodes": 0},
    {"x": [[0, 0, 1.0]] * 5, "edge_index": [[0, 0, 0, 4], [1, 2, 3, 0]], "edge_attr": [[None, None, 3], [1, 0, 0]] * 2},
]
PLAIN = [{"num_nodes": n, "edge_index": [list(range(n)), [(i * i + 1) % n for i in range(n)]]} for n in (1, 4, 9)]
BAD = [
    None,
    5,
    [1, 2],
    {"edge_index": [[0], [1]], "num_nodes": 1},
    {"num_nodes": 100},
    {"num_nodes": -1},
    {"edge_index": np.zeros((3, 2), int)},
    {"edge_index": [["a"], ["b"]]},
    {"nodes": 3},
]
CASES = {
    "features": (
        {**CLASSES, "max_nodes": 9, "max_edges": 9, "degree": 3, "orthonormal": 4, "laplacian": 3, "null_token": True},
        RICH,
        [*BAD, {"x": [[4, 0, 0]]}, {"x": [[0, 0]]}, {"x": [[0, 0, np.inf]]}],
    ),
    "single": (
        {"max_nodes": 9, "max_edges": 9, "edge_tokens": "single", "eigenvector_dropout": 0.3, "class_token": False},
        PLAIN,
        BAD,
    ),
}
DATASETS = {
    "atlas": ("graph_atlas", {"task": "diameter", "split": "valid"}),
    "karate": ("karate", {"split": "train"}),
}


def named(cases: dict[str, Iterable[Check]]) -> list[object]:
    pairs = [(case, check) for case, checks in cases.items() for check in checks]
    return [pytest.param(check, id=f"{case}-{check}") for case, check in pairs if check.name not in DRAWS]


@pytest.mark.parametrize(
    "check",
    named({case: tokenizer_checks(("graph", knobs), good, bad=bad) for case, (knobs, good, bad) in CASES.items()}),
)
def test_tokenizer(check: Check) -> None:
    check.run()


@pytest.mark.parametrize("check", named({case: dataset_checks(use, limit=5) for case, use in DATASETS.items()}))
def test_dataset(check: Check) -> None:
    check.run()
