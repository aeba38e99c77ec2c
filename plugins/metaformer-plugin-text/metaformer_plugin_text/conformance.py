"""The cases of this plugin, which `metaformer plugins check` and the tests run."""

from __future__ import annotations

from collections.abc import Iterator

from metaformer.testing import Check, dataset_checks, tokenizer_checks

TEXTS = ["", "a", "äöü and more", "a longer text, with 42 words; or fewer" * 2]
BAD = [b"\xff", "\ud800", 1.5, ["a"]]
DROPPED = {"max_length": 32, "positions": "sinusoidal", "norm": True, "drop": 0.1, "token_dropout": 0.5}
NO_CLASS = {"class_token": False, "end_token": True, "positions": "none"}


def checks() -> Iterator[Check]:
    """The tokenizer and the data set."""
    yield from tokenizer_checks(("text", {"max_length": 32}), TEXTS, bad=BAD)
    yield from tokenizer_checks(("text", DROPPED), TEXTS, bad=BAD)
    yield from tokenizer_checks(("text", NO_CLASS), TEXTS[1:], bad=BAD)
    yield from dataset_checks(("python_topics", {"split": "valid"}), limit=5)
