"""S5. A recipe that asks for environment variables, commands, or other files: all of it stays the text it is."""

from __future__ import annotations

import pytest

from metaformer.recipe_file import check_file, read_recipe, resolved

TEXTS = ["${HOME}", "$HOME", "${oc.env:SECRET}", "$(touch owned)", "`touch owned`", "{{ env.SECRET }}", "%(SECRET)s"]


@pytest.mark.parametrize("text", TEXTS)
def test_it_stays_text(recipe, monkeypatch, tmp_path, text):
    monkeypatch.setenv("SECRET", "hunter2")
    path = recipe(f"output: '{text}'\n")
    check_file(path)
    file = read_recipe(path)
    assert file.recipe.output == text
    assert "hunter2" not in resolved(file)
    assert read_recipe(recipe(), [f"output='{text}'"]).recipe.output == text
    assert [p.name for p in tmp_path.iterdir()] == ["recipe.yaml"]


def test_there_are_no_includes(recipe, refuse):
    for more in ("include: /etc/passwd\n", "defaults: [other]\n", "base: other.yaml\n", "extends: other.yaml\n"):
        path = recipe(more)
        refuse(lambda path=path: check_file(path))
