"""The cases of this plugin, which `metaformer plugins check` and the tests run."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from metaformer.testing import Check, dataset_checks, tokenizer_checks

ROWS = [{"a": 1, "b": 2.5, "c": "red"}, {"a": None, "b": float("nan"), "c": None}, {"a": -3, "b": "", "c": "grey"}]
BAD = [{"a": "tall"}, {"z": 1}, [1, 2], "1,2,red", {"a": 1e31}]
NUMERIC, CATEGORICAL = ("a", "b"), {"c": ("red", "blue")}
BOTH = {"numeric": NUMERIC, "categorical": CATEGORICAL, "cell_dropout": 0.3}

CENSUS = (
    (
        "39, State-gov, 77516, Bachelors, 13, Never-married, Adm-clerical, Not-in-family, White, Male, 2174, 0, 40, "
        "United-States, <=50K"
    ),
    "52, Self-emp-not-inc, 209642, HS-grad, 9, Married-civ-spouse, ?, Husband, White, Male, 0, 0, 45, ?, >50K",
)


def adult(root: Path) -> Mapping[str, Any]:
    """UCI Adult as the archive unpacks: eight rows to train on, two others."""
    (root / "adult.data").write_text("\n".join(CENSUS * 4) + "\n\n")
    (root / "adult.test").write_text("|1x3 Cross validator\n" + "".join(f"{row}.\n" for row in CENSUS))
    return {"root": root}


def checks() -> Iterator[Check]:
    """The tokenizer, the published set, and the bundled ones where scikit-learn is there."""
    yield from tokenizer_checks(("tabular", BOTH), ROWS, bad=BAD)
    yield from tokenizer_checks(("tabular", {"numeric": NUMERIC, "scaling": "quantile"}), ROWS, bad=[[1, 2, 3]])
    yield from tokenizer_checks(("tabular", {"categorical": CATEGORICAL, "class_token": False}), ROWS, bad=[{"a": 1}])
    yield from dataset_checks(("adult", {"split": "train"}), limit=5, files=adult)
    if importlib.util.find_spec("sklearn"):
        for name in ("breast_cancer", "wine", "diabetes"):
            yield from dataset_checks((name, {"split": "valid"}), limit=5)
