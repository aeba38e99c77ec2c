"""S4. YAML nested ten thousand levels deep."""

from __future__ import annotations

import pytest

from metaformer.errors import RecipeError
from metaformer.yamlfile import read_yaml

ATTACKS = {
    "deep lists": ("a: " + "[" * 10_000, "nested deeper", 1),
    "deep blocks": ("- " * 10_000, "nested deeper", 1),
    "deep mappings": ("a: " + "{b: " * 10_000, "nested deeper", 1),
    "deep keys": ("? " * 10_000, "plain name", 1),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_it_is_refused_at_once(tmp_path, refuse, memory, name):
    text, found, line = ATTACKS[name]
    path = tmp_path / "recipe.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with memory(200):
        refusal = refuse(lambda: read_yaml(path), found, RecipeError)
    (problem,) = refusal.problems
    assert found in problem.found
    assert line is None or problem.line == line
    assert len(str(problem)) < 400
