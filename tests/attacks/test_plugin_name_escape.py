"""S5. An installed plugin whose names are paths, markup or commands to a terminal."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from metaformer.registry import Registry

NAMES = ["../../evil", "/evil", "evil/../..", "\x1b]0;owned\x07evil", "[red]evil"]


@pytest.mark.parametrize("name", NAMES)
def test_it_is_listed_as_broken_and_written_nowhere(tmp_path, monkeypatch, name):
    info = tmp_path / "h1_evil-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[metaformer]\n{name} = h1_no_such_module\n")
    monkeypatch.syspath_prepend(tmp_path)
    registry = Registry.discover({})
    assert all("evil" not in plugin.distribution for plugin in registry.plugins)
    env = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-m", "metaformer", "plugins"], capture_output=True, text=True, env=env)
    assert done.returncode == 0
    assert "transformer" in done.stdout
    assert not {"\x1b", "\x07"} & set(done.stdout)
    assert sorted(p.name for p in tmp_path.iterdir()) == [info.name]


@pytest.mark.parametrize(
    "name", ["../../evil", "/etc/passwd", "evil; touch owned", "evil @ file:evil", "--index", ".."]
)
def test_a_recipe_cannot_require_one(recipe, refuse, name):
    from metaformer.recipe_file import check_file

    path = recipe()
    refusal = refuse(lambda: check_file(path, [f"requires=['{name}']"]))
    problems = [problem for problem in refusal.problems if problem.path == "requires.0"]
    assert problems
    assert "is not the name of a distribution" in problems[0].found
    assert "pip install" not in problems[0].do
