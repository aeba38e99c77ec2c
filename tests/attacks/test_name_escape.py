"""S5. A run, stream, encoder, head or task whose name is a path: names become folders and parameter names."""

from __future__ import annotations

import pytest

from metaformer.recipe_file import check_file

NAMES = ["../x", "/x", "a/b", "..", ".", "a.b", '"a\\0"', '"a\\nb"', "a b", '""', "$HOME", "~", "a" + "/.." * 200]


@pytest.mark.parametrize("name", NAMES)
def test_it_is_refused_as_the_runs_name(recipe, refuse, name):
    path = recipe(name=name)
    refusal = refuse(lambda: check_file(path))
    assert any(problem.path == "name" for problem in refusal.problems)


@pytest.mark.parametrize("name", ["../x", "a.b", "/x"])
@pytest.mark.parametrize("part", ["encoders", "heads", "tokenizers", "tasks", "passes", "bridges"])
def test_it_is_refused_as_a_parts_name(recipe, refuse, name, part):
    path = recipe()
    refuse(lambda: check_file(path, [f"{part}={{{name}: {{use: transformer, reads: image}}}}"]))
