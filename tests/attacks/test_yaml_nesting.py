"""S4. YAML nested ten thousand levels deep."""

from __future__ import annotations

import pytest

ATTACKS = {
    "deep lists": ("a: " + "[" * 10_000, "nested deeper", 1),
    "deep blocks": ("- " * 10_000, "nested deeper", 1),
    "deep mappings": ("a: " + "{b: " * 10_000, "nested deeper", 1),
    "deep keys": ("? " * 10_000, "plain name", 1),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_it_is_refused_at_once(refuse_yaml, name):
    refuse_yaml(*ATTACKS[name])
