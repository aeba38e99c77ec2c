"""S4. YAML that says one key twice, so that a reader of the file sees another recipe than we do."""

from __future__ import annotations

import pytest

ATTACKS = {
    "duplicate key": ("a: 1\nb:\n  c: 1\n  c: 2\n", "second time", 4),
    "duplicate key at the top": ("output: runs\nsteps: 1\noutput: elsewhere\n", "second time", 3),
    "duplicate key in other quotes": ('a: {b: 1, "b": 2}\n', "second time", 1),
    "two documents": ("a: 1\n---\nb: 2\n", "second document", 2),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_it_is_refused_at_once(refuse_yaml, name):
    refuse_yaml(*ATTACKS[name])
