"""S2, S5. A recipe that comes in a git repository whose settings start a program when git looks at it."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from metaformer.run import git_state

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="no git")


def git(folder, *words):
    who = ("-c", "user.name=a", "-c", "user.email=a@b")
    subprocess.run(["git", *who, "-C", str(folder), *words], check=True, capture_output=True)


@pytest.fixture(params=["fsmonitor", "filter"])
def repository(request, tmp_path, trap):
    git(tmp_path, "init", "-q", ".")
    (tmp_path / "recipe.yaml").write_text("name: x\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "x")
    if request.param == "fsmonitor":
        git(tmp_path, "config", "core.fsmonitor", f"touch {trap.mark}; false")
    else:
        (tmp_path / ".gitattributes").write_text("* filter=x\n")
        git(tmp_path, "config", "filter.x.clean", f"touch {trap.mark}; cat")
    return tmp_path


def test_looking_at_it_starts_nothing(repository, trap):
    recipe = repository / "recipe.yaml"
    recipe.write_text("name: y\n")
    trap.would_spring(lambda: git(repository, "status", "--porcelain"))
    recipe.write_text("name: z\n")
    git_state(repository)
    assert not trap.sprung
