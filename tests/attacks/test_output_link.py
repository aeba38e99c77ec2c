"""S5. A folder that brings, beside the recipe, a link to elsewhere in the place that the run will be written to.

Links inside the working directory are followed. One that leads out of it counts like `..`: it may have come with the
recipe, so the user has to say `--set output=...`, which also those say once whose own `runs` is such a link.
"""

from __future__ import annotations

import pytest

from metaformer.recipe_file import check_file


@pytest.fixture
def elsewhere(tmp_path_factory):
    return tmp_path_factory.mktemp("elsewhere")


@pytest.mark.parametrize("link", ["runs", "runs/tiny", "a", "a/b"])
def test_a_link_out_needs_the_users_word(recipe, refuse, tmp_path, elsewhere, link):
    (tmp_path / link).parent.mkdir(exist_ok=True)
    (tmp_path / link).symlink_to(elsewhere)
    more = "" if link.startswith("runs") else f"output: {link}\n"
    path = recipe(more)
    refusal = refuse(lambda: check_file(path), "outside the working directory")
    assert str(elsewhere) in refusal.problems[0].found
    check_file(path, [f"output={'runs' if not more else link}"])
    assert not list(elsewhere.iterdir())


def test_a_link_that_leads_nowhere_yet(recipe, refuse, tmp_path, elsewhere):
    (tmp_path / "runs").symlink_to(elsewhere / "later")
    path = recipe()
    refuse(lambda: check_file(path), "outside the working directory")


def test_a_link_to_itself(recipe, refuse, tmp_path):
    (tmp_path / "runs").symlink_to(tmp_path / "runs")
    path = recipe()
    refuse(lambda: check_file(path), "no folder")


def test_a_link_inside_is_followed(recipe, tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "runs").symlink_to(tmp_path / "disk")
    check_file(recipe())
