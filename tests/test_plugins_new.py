"""`metaformer plugins new`: what it writes is sound by every measure, and nothing of anybody else is overwritten."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from metaformer import __version__
from metaformer.commands.new import KINDS, LONGEST, new_command
from metaformer.errors import UsageError
from metaformer.hookspecs import API
from metaformer.registry import Registry, registry

NAMES = {"modality": "wind", "bridge": "metaformer-plugin-two-ways", "head": "x" * LONGEST, "objective": "o"}
yaml = YAML(typ="safe")

# In one process, because torch is imported once then: conformance, tests and training of every new plugin.
SOUND = """
import contextlib, io, json, os, sys
from pathlib import Path
from metaformer.commands.examine import Idle, Result, lines
found = {}
for name in sys.argv[2:]:
    said = list(lines(name))
    faults = [f"{line.check}: {line.sentence}" for line in said if isinstance(line, Result) and not line.passed]
    found[name] = {"faults": faults, "idle": [line.name for line in said if isinstance(line, Idle)], "count": len(said)}
from metaformer.train import train_command
for name in sys.argv[2:]:
    recipe = Path(sys.argv[1], name, "short.yaml")
    os.chdir(recipe.parent)
    with contextlib.redirect_stdout(io.StringIO()):
        train_command([recipe], ["steps=2", "controls=[]", "engine={use: torch}"])
    (run,) = recipe.parent.glob("runs/*/*")
    found[name]["state"] = json.loads((run / "status.json").read_text())["state"]
import pytest
found["pytest"] = {}
for name in sys.argv[2:]:
    with contextlib.redirect_stdout(io.StringIO()) as said:
        code = pytest.main(["-q", "-p", "no:cacheprovider", "-p", "no:xdist", str(Path(sys.argv[1], name))])
    found["pytest"][name] = int(code) and said.getvalue()
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def projects(tmp_path_factory) -> Path:
    """The folder in which a project of each kind has been written."""
    folder = tmp_path_factory.mktemp("projects")
    for kind, name in NAMES.items():
        new_command(registry(), name, [kind], folder)
    return folder


@pytest.fixture(scope="module")
def site(projects, tmp_path_factory) -> Path:
    """A folder of packages in which their wheels are installed: a wheel unpacked is a wheel installed."""
    site = tmp_path_factory.mktemp("site")
    for project in projects.iterdir():
        wheels = tmp_path_factory.mktemp("wheels")
        build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(wheels)]
        subprocess.run(build, cwd=project, check=True, capture_output=True)
        (wheel,) = wheels.glob("*.whl")
        zipfile.ZipFile(wheel).extractall(site)
    return site


def fragment(project: Path) -> dict:
    """The recipe, with what README says in the places of which it speaks."""
    (recipe,) = project.glob("*.yaml")
    (block,) = re.findall(r"^```yaml\n(.*?)^```$", (project / "README.md").read_text(), re.DOTALL | re.MULTILINE)
    return yaml.load(recipe) | yaml.load(block)


def test_new_plugins_keep_every_check_and_train_and_pass_their_tests(projects, site, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(site))
    names = sorted(project.name for project in projects.iterdir())
    for name in names:
        recipe = fragment(projects / name)
        with (projects / name / "short.yaml").open("w") as file:
            yaml.dump(recipe, file)
    command = [sys.executable, "-c", SOUND, str(projects), *names]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found.pop("pytest") == dict.fromkeys(names, 0)
    assert {name: (one["faults"], one["idle"], one["state"]) for name, one in found.items()} == dict.fromkeys(
        names, ([], [], "finished")
    )
    assert all(one["count"] > 20 for one in found.values())


def test_new_plugins_are_clean_by_the_linter_and_the_formatter(projects):
    # In the order of imports, too, which depends on the lengths of names.
    for command in (["check"], ["format", "--check"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "--no-cache", str(projects)], capture_output=True
        )
        assert done.returncode == 0, done.stdout.decode()


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_plugin_is_complete_and_named_throughout(projects, kind):
    plain = NAMES[kind].removeprefix("metaformer-plugin-")
    project, module = projects / f"metaformer-plugin-{plain}", f"metaformer_plugin_{plain.replace('-', '_')}"
    files = {str(path.relative_to(project)) for path in project.rglob("*") if path.is_file()}
    assert {"README.md", "pyproject.toml", ".gitignore", f"{module}/__init__.py", f"{module}/py.typed"} <= files
    assert {f"{module}/conformance.py", f"{module}/{KINDS[kind]}.py", "samples.jsonl"} <= files
    assert not [name for name in files if name.endswith(".txt") or name.startswith((".github", ".ci"))]
    texts = [
        path.read_text() for path in project.rglob("*") if path.is_file() and path.suffix in (".py", ".md", ".toml")
    ]
    assert not [text for text in [*texts, *files] if "smell" in text.lower()]
    declared = tomllib.loads((project / "pyproject.toml").read_text())["project"]
    assert declared["entry-points"]["metaformer"] == {module: module}
    (core,) = [need for need in declared["dependencies"] if need.startswith("metaformer")]
    least, below = re.fullmatch(r"metaformer>=(.+),<(.+)", core).groups()
    numbers = [[int(part) for part in version.split(".")] for version in (least, __version__, below)]
    assert numbers[0] <= numbers[1] < numbers[2]
    assert f'METAFORMER_API = "{API}"' in (project / module / "__init__.py").read_text()


@pytest.mark.parametrize(
    ("name", "kinds", "found"),
    [
        ("Wind", ["head"], "no name"),
        ("wind_x", ["head"], "no name"),
        ("3d", ["head"], "no name"),
        ("a--b", ["head"], "no name"),
        ("../x", ["head"], "no name"),
        ("", ["head"], "no name"),
        ("x" * (LONGEST + 1), ["head"], "no name"),
        ("wind", [], "none of them"),
        ("wind", ["head", "bridge"], "--head and --bridge"),
        ("classification", ["head"], "metaformer offers a head 'classification' already"),
    ],
)
def test_what_cannot_be_a_plugin_is_refused_and_nothing_is_written(name, kinds, found, tmp_path):
    with pytest.raises(UsageError) as caught:
        new_command(registry(), name, kinds, tmp_path)
    assert found in caught.value.found
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten(tmp_path):
    mine = tmp_path / "metaformer-plugin-wind" / "mine.txt"
    mine.parent.mkdir()
    mine.write_text("mine")
    with pytest.raises(UsageError, match="is there already"):
        new_command(Registry(), "wind", ["head"], tmp_path)
    assert list(mine.parent.iterdir()) == [mine]
