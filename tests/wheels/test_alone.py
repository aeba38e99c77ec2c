"""Each plugin alone with the core: installed from wheels and checked; each of the twelve modalities trained and asked.

An environment holds what the two wheels say that they need, with `samples` for the starter's data, and nothing else:
a requirement that no wheel declares is not there.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from ruamel.yaml import YAML

from tests.stranger import Environment, build_wheel
from tests.wheels.raw_files import WRITERS, write

pytestmark = [pytest.mark.wheels, pytest.mark.timeout(1200)]
ROOT = Path(__file__).parents[2]
PLUGINS = sorted((ROOT / "plugins").glob("metaformer-plugin-*"))
MODALITIES = [path for path in PLUGINS if path.name.rpartition("-")[2] in WRITERS]
"""The others bring bridges, encoders and data, and have no raw files to predict on."""
STARTERS = ROOT / "recipes" / "starter"
ELSEWHERE = {"image": ROOT / "recipes" / "digits_frozen.yaml"}
"""Starters that are not among the others."""

EXTRA = "Provides-Extra"
QUICK = ("steps=4", "eval_every=4", "controls=[]", "output=runs")


class Wheels(NamedTuple):
    """Of the core and of all plugins."""

    files: Mapping[str, Path]
    """By the name of the distribution."""

    def needed(self, asked: str) -> list[metadata.Distribution]:
        """Distributions of this environment that an installer would fetch beside our wheels: what they need, what
        that needs, and so on."""
        found: dict[str, metadata.Distribution] = {}
        todo, seen = [Requirement(asked)], set[tuple[str, frozenset[str]]]()
        while todo:
            requirement = todo.pop()
            name = canonicalize_name(requirement.name)
            if (name, frozenset(requirement.extras)) in seen:
                continue
            seen.add((name, frozenset(requirement.extras)))
            try:
                found[name] = read(self.files[name]) if name in self.files else metadata.distribution(name)
            except metadata.PackageNotFoundError:
                continue  # pip names it, and who needs it
            todo += requirements(found[name], requirement.extras)
        return [distribution for name, distribution in found.items() if name not in self.files]


def read(wheel: Path) -> metadata.Distribution:
    (distribution,) = metadata.distributions(path=[str(wheel)])
    return distribution


def requirements(distribution: metadata.Distribution, extras: Iterable[str]) -> list[Requirement]:
    """What a distribution needs here, with some of its extras."""
    needs = map(Requirement, distribution.requires or ())
    return [n for n in needs if n.marker is None or any(n.marker.evaluate({"extra": e}) for e in ("", *extras))]


class Alone(NamedTuple):
    """A plugin, installed with the core in an environment of its own."""

    environment: Environment
    name: str
    wheel: Path

    @property
    def modality(self) -> str:
        return self.name.removeprefix("metaformer-plugin-")

    @property
    def recipe(self) -> Path:
        """Of a modality: a copy in the folder to work in."""
        return self.environment.work / starter(self.modality).name

    def settings(self) -> Any:
        return YAML(typ="safe").load(self.recipe)


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Wheels:
    folder = tmp_path_factory.mktemp("wheels")
    projects = {"metaformer": ROOT} | {path.name: path for path in PLUGINS}
    return Wheels({name: build_wheel(path, folder / name) for name, path in projects.items()})


def short(plugin: Path) -> str:
    return plugin.name.rpartition("-")[2]


def starter(modality: str) -> Path:
    recipe = STARTERS / f"{modality}.yaml"
    return ELSEWHERE[modality] if not recipe.exists() and modality in ELSEWHERE else recipe


@pytest.fixture(scope="module", params=PLUGINS, ids=short)
def alone(request: pytest.FixtureRequest, wheels: Wheels, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Alone]:
    plugin: Path = request.param
    asked = (
        f"{plugin.name}[samples]"
        if "samples" in (read(wheels.files[plugin.name]).metadata.get_all(EXTRA) or ())
        else plugin.name
    )
    only = {d.name: d for d in (*wheels.needed(asked), metadata.distribution("pip"))}
    environment = Environment(tmp_path_factory.mktemp(short(plugin)), only.values())
    # With its requirements: pip refuses where one is missing, or has another version than a wheel asks for.
    links = [f"--find-links={wheels.files[name].parent}" for name in ("metaformer", plugin.name)]
    environment.run("pip", "install", "--quiet", "--no-index", "--no-compile", *links, asked)
    if plugin in MODALITIES:
        recipe = starter(short(plugin))
        for file in (recipe, *recipe.parent.glob("*.safetensors")):
            shutil.copy(file, environment.work)
    yield Alone(environment, plugin.name, wheels.files[plugin.name])
    shutil.rmtree(environment.folder)


def test_there_are_twelve() -> None:
    assert [short(path) for path in MODALITIES] == sorted(WRITERS)
    assert len(MODALITIES) == 12


def test_it_is_alone_with_the_core_and_comes_from_wheels(alone: Alone) -> None:
    found = alone.environment.plugins()
    assert {plugin["distribution"] for plugin in found["plugins"]} == {"metaformer", alone.name}
    assert {component["distribution"] for component in found["components"]} == {"metaformer", alone.name}
    assert found["broken"] == []
    for module in ("metaformer", alone.name.replace("-", "_")):
        place = Path(alone.environment.ask(f"import {module}; print({module}.__file__)").strip())
        assert place.is_relative_to(alone.environment.site)
        assert not (alone.environment.site / module).is_symlink()
    assert (alone.environment.python.parent / "metaformer").exists()


IMPORT_ALL = """\
import importlib, pkgutil, sys
failed = []
for name in sys.argv[2:]:
    try:
        importlib.import_module(name)
    except ImportError as error:
        failed.append(f"{name}: {error}")
package = importlib.import_module(sys.argv[1])
for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
    try:
        importlib.import_module(module.name)
    except ImportError as error:
        failed.append(f"{module.name}: {error}")
sys.exit("\\n".join(failed) or 0)
"""


def test_what_it_declares_can_be_imported_and_is_all_its_modules_need(alone: Alone) -> None:
    declared = {canonicalize_name(need.name) for need in requirements(read(alone.wheel), ["samples"])}
    assert "metaformer" in declared
    packages = [
        name
        for name, distributions in metadata.packages_distributions().items()
        if not name.startswith("_") and declared & {canonicalize_name(d) for d in distributions}
    ]
    module = alone.name.replace("-", "_")
    (alone.environment.work / "import_all.py").write_text(IMPORT_ALL)
    alone.environment.run("import_all", module, *packages)


@pytest.fixture(scope="module")
def trained(alone: Alone) -> Alone:
    alone.environment.metaformer("train", alone.recipe.name, *(word for text in QUICK for word in ("--set", text)))
    return alone


@pytest.mark.parametrize("alone", MODALITIES, ids=short, indirect=True)
def test_it_trains_its_starter(trained: Alone) -> None:
    (run,) = (trained.environment.work / "runs" / trained.settings()["name"]).iterdir()
    assert json.loads((run / "status.json").read_text())["state"] == "finished"
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["step"] == 4


@pytest.mark.parametrize("alone", MODALITIES, ids=short, indirect=True)
def test_it_predicts_for_a_raw_file(trained: Alone) -> None:
    recipe = trained.settings()
    (knobs,), (head,) = recipe["tokenizers"].values(), recipe["heads"]
    given = write(trained.modality, trained.environment.work, knobs)
    done = trained.environment.metaformer("predict", f"runs/{recipe['name']}", "--input", given)
    (line,) = done.stdout.splitlines()
    prediction = json.loads(line)
    assert prediction.keys() == {"id", head}
    said = prediction[head]
    numbers = said["probabilities"].values() if isinstance(said, dict) else said
    assert all(math.isfinite(number) for number in numbers)
    if isinstance(said, dict):
        assert len(numbers) == recipe["heads"][head]["num_classes"]
        assert sum(numbers) == pytest.approx(1, abs=1e-4)


@pytest.fixture(scope="module")
def receipt(alone: Alone) -> Any:
    """Of `metaformer plugins check`, which exits with 0."""
    done = alone.environment.metaformer("plugins", "check", alone.name, "--json")
    (receipt,) = json.loads(done.stdout)
    return receipt


def test_it_passes_conformance(receipt: Any) -> None:
    assert receipt["failed"] == 0
    assert receipt["passed"]


@pytest.mark.parametrize("alone", MODALITIES, ids=short, indirect=True)
def test_conformance_exercises_its_tokenizers(receipt: Any) -> None:
    """A receipt without them says nothing about a modality."""
    idle = [f"{part['name']}: {part['why']}" for part in receipt["not_exercised"] if part["kind"] == "tokenizer"]
    assert not idle, idle
