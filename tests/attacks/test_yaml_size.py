"""S4. YAML of ten megabytes, with a value of any length, or with too many of them."""

from __future__ import annotations

import pytest

from metaformer import yamlfile

M = yamlfile.MAX_BYTES
ATTACKS = {
    "too large": (b"a: " + b"x" * 10_000_000, "larger than", None),
    "long scalar": ("a: " + "x" * (M - 10), "Ki characters", 1),
    "many words": ("a: " + "x " * (M // 2 - 10), "Ki characters", 1),
    "many lines": ("x\n" * (M // 2), "Ki characters", 1),
    "escapes": ('a: "' + "\\n" * (M // 2 - 10) + '"', "Ki characters", 1),
    "many values": ("a: [" + "1," * (M // 2 - 10) + "1]", "more than", 1),
    "many items": ("a:\n" + "- 1\n" * (M // 4 - 2), "more than", None),
    "huge exponent": ("a: 1e999\n", "too large", 1),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_it_is_refused_at_once(refuse_yaml, name):
    refuse_yaml(*ATTACKS[name])
