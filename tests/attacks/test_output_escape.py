"""S5. A recipe that writes outside of the working directory: by `..`, from the root, from a home folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from metaformer.recipe_file import check_file


@pytest.mark.parametrize("output", ["../elsewhere", "/elsewhere", "runs/../../elsewhere", "..", "./../x", '"runs\\0"'])
def test_it_needs_the_users_word(recipe, refuse, output):
    path = recipe(f"output: {output}\n")
    refusal = refuse(lambda: check_file(path))
    (problem,) = refusal.problems
    assert problem.path == "output"
    assert refusal.exit_code == 2
    if "0" not in output:
        assert str(problem).startswith(f"line {problem.line}: output: '{output}' is outside the working directory")
        assert f"--set output={output}" in problem.do


def test_the_user_may_say_so(recipe, tmp_path):
    check_file(recipe("output: ../elsewhere\n"), ["output=/elsewhere"])
    check_file(recipe("output: inside/of/it\n"))


def test_a_home_folder_is_only_a_name(recipe, tmp_path, monkeypatch):
    """Nothing unfolds `~`: the folder is one of that name, here."""
    monkeypatch.setenv("HOME", "/elsewhere")
    path = recipe("output: ~/runs\n")
    check_file(path)
    assert Path("~/runs").resolve().is_relative_to(tmp_path.resolve())
