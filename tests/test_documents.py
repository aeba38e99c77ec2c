"""What documents promise: every recipe, table, command and hook in them is read."""

from __future__ import annotations

import csv
import inspect
import io
import json
import re
import shlex
import sys
import tarfile
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from pyarrow import parquet
from ruamel.yaml import YAML
from typer.main import get_command

from metaformer import build, cli, errors, recipe
from metaformer.assemble import assemble
from metaformer.data.order import Address
from metaformer.discovery import check_hooks, new_manager
from metaformer.hookspecs import Component, Hooks, hookimpl
from metaformer.recipe_check import component_problems
from metaformer.recipe_file import read_recipe
from metaformer.registry import registry
from metaformer.schema import knobs_model
from metaformer.trainable import PRESETS
from metaformer.types import IGNORE
from tests.documents import CONTRIBUTING, DOCUMENTS, FIELDS, README, ROOT, blocks, rows, section, word
from tests.pictures import picture

yaml = YAML(typ="safe")


REST = {
    "name": "fragment",
    "tokenizers": {"image": {"use": "image", "image_size": 16, "patch_size": 8}},
    "encoders": {"shared": {"use": "transformer", "dim": 16, "depth": 1, "num_heads": 2}},
    "heads": {"label": {"use": "classification", "reads": "image", "num_classes": 10}},
    "tasks": {
        "digits": {
            "data": {"train": {"use": "digits", "split": "train"}},
            "objective": {"use": "cross_entropy", "head": "label"},
        }
    },
    "steps": 1,
    "engine": {"use": "torch"},
}
FRAGMENTS = [
    pytest.param(block, id=f"{file.relative_to(ROOT)}-{i}")
    for file in [*DOCUMENTS, *sorted(ROOT.glob("plugins/*/README.md"))]
    for i, block in enumerate(blocks(file, "yaml"))
]


def whole(fragment: str, folder: Path):
    file = folder / "recipe.yaml"
    with file.open("w") as out:
        yaml.dump(REST | yaml.load(fragment), out)
    return read_recipe(file)


@pytest.mark.parametrize("fragment", FRAGMENTS)
def test_recipes_in_documents_are_sound(fragment, tmp_path):
    file = whole(fragment, tmp_path)
    assert component_problems(file.source.data, registry()) == []


def shard(path: Path, keys: range) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = io.BytesIO()
    Image.fromarray(np.full((24, 30, 3), 99, dtype=np.uint8)).save(pixels, "PNG")
    with tarfile.open(path, "w") as tar:
        for key in keys:
            for name, content in ((f"{key:04d}.png", pixels.getvalue()), (f"{key:04d}.cls", b"%d" % (key % 3))):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))


@pytest.fixture(scope="module")
def own_data(tmp_path_factory) -> Path:
    """The files that README's section on own data speaks of."""
    folder = tmp_path_factory.mktemp("own")
    data = folder / "data"
    for number in range(8):
        part, name = ("train", "valid")[number % 2], ("cat", "dog")[number // 2 % 2]
        picture(data / part / name / f"{number}.jpg", 30 * number)
    with (data / "visits.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["photo", "remark", "age", "income", "bought", "part"])
        table.writerow(["train/cat/0.jpg", "came back", 31, 1000, "yes", "train"])
        table.writerow(["", "no picture", 40, "", "no", "train"])
        table.writerow(["valid/cat/1.jpg", "", 25, 700, "no", "valid"])
    for part in ("train", "valid"):
        columns = {"age": [31, 40], "income": [1e3, None], "state": ["single", "married"], "price": [200.0, 310.0]}
        parquet.write_table(pa.table(columns), data / f"{part}.parquet")
    reviews = datasets.Dataset.from_dict({"body": ["good", "bad"], "stars": ["many", "few"]})
    datasets.DatasetDict({"train": reviews, "test": reviews}).save_to_disk(str(data / "reviews"))
    for number in range(2):
        shard(data / f"train-{number:03d}.tar", range(3 * number, 3 * number + 3))
    shard(data / "valid" / "000.tar", range(3))
    return folder


OWN = re.findall(r"^```yaml\n(.*?)^```$", section(README, "Your own data"), re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("fragment", OWN, ids=lambda fragment: next(iter(yaml.load(fragment)["tasks"])))
def test_own_data_is_read_as_the_readme_says(fragment, own_data, tmp_path, monkeypatch):
    monkeypatch.chdir(own_data)
    recipe_ = whole(fragment, tmp_path).recipe
    model = assemble(recipe_)
    for task, spec in build.open_data(recipe_, model, tmp_path).items():
        build.fit_tokenizers(model, {task: spec})
        for reader in (spec.train, spec.valid):
            items = [reader.read(Address(task, 0, index)) for index in range(len(reader))]
            assert items
            assert [item.bad for item in items if item.bad] == []
            batch = reader.collate(items)
            losses = {name: loss for part in model.objectives[task] for name, loss in part(model, batch).items()}
            assert losses
            assert all(torch.isfinite(loss) for loss in losses.values())
            assert all(((target != IGNORE) & ~target.isnan()).any() for target in batch.targets.values())


# Tables.


def documented(heading: str, name: str) -> dict[str, str]:
    """Field → default, out of the table under the heading that has a name in backticks."""
    text = FIELDS.read_text()
    found = re.search(rf"^{heading} [^\n]*`{name}`[^\n]*\n(.*?)(?=^#|\Z)", text, re.DOTALL | re.MULTILINE)
    assert found, f"{FIELDS.name} has no heading for {name}"
    return {word(row[0]): word(row[1]) for row in rows(found[1]) if len(row) == 3}


def default(field) -> str:
    """A field's default as recipes write it; empty where there is none."""
    if field.is_required():
        return ""
    value = field.get_default(call_default_factory=True)
    return json.dumps({} if isinstance(value, recipe.Shape) else value, default=dict)


def same_defaults(table: dict[str, str], fields: dict) -> None:
    assert list(table) == list(fields)
    for name, field in fields.items():
        told = json.dumps(yaml.load(table[name])) if table[name] else ""
        assert told == default(field), name


SHAPES = [
    shape
    for shape in vars(recipe).values()
    if isinstance(shape, type) and issubclass(shape, recipe.Shape | recipe.Entry) and shape.model_fields
]


@pytest.mark.parametrize("shape", [s for s in SHAPES if s is not recipe.Entry], ids=lambda shape: shape.__name__)
def test_every_field_of_a_recipe_is_documented_with_its_default(shape):
    same_defaults(documented("##", f"{shape.__name__}"), shape.model_fields)


CORE = [entry for entry in registry().components() if entry.distribution == "metaformer"]


@pytest.mark.parametrize("entry", CORE, ids=lambda entry: f"{entry.kind}-{entry.component.name}")
def test_every_knob_of_the_core_is_documented_with_its_default(entry):
    fields = {
        f.alias or name: f
        for name, f in knobs_model(registry().load(entry.kind, entry.component.name)).model_fields.items()
    }
    name = entry.component.name
    if not fields:
        assert f"`{name}`" in re.search(r"^(.*) have no knobs\.$", FIELDS.read_text(), re.MULTILINE)[1]
        return
    kind = FIELDS.read_text().index(f"\n## {entry.kind.capitalize() if entry.kind != 'dataset' else 'Data set'}s\n")
    text = FIELDS.read_text()[kind:]
    found = re.search(rf"^### `{name}`\n(.*?)(?=^#|\Z)", text, re.DOTALL | re.MULTILINE)
    same_defaults({word(row[0]): word(row[1]) for row in rows(found[1])}, fields)


def test_the_readme_has_every_preset_control_and_exit_code():
    presets = {word(row[0]) for row in rows(section(README, "What is trained"))}
    assert {re.sub(r"\d+$", "N", preset) for preset in presets} == set(PRESETS)
    controls = [word(row[0]) for row in rows(section(README, "Controls"))]
    assert controls == list(recipe.Control.__args__)
    told = {int(row[0]) for row in rows(section(README, "Exit codes and environment")) if row[0].isdigit()}
    codes = {
        e.exit_code for e in vars(errors).values() if isinstance(e, type) and issubclass(e, errors.MetaformerError)
    }
    assert told == codes | {0, 130}


def test_links_lead_somewhere():
    for file in DOCUMENTS:
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", file.read_text()):
            assert "://" in target or (file.parent / target).exists(), f"{file.name}: {target}"


# Commands.

COMMANDS = [
    pytest.param(line, id=line)
    for line in dict.fromkeys(
        line.split("    #")[0].strip()
        for file in DOCUMENTS
        for block in blocks(file, "sh")
        for line in block.splitlines()
    )
    if line
]


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_in_documents_are_commands(line):
    words = shlex.split(line.partition(" > ")[0])
    if words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
    elif words[0] == "pip":
        assert all((ROOT / name / "pyproject.toml").exists() for name in words[2:])
    elif words[0] == "python":
        assert (ROOT / words[1]).exists()
    elif "metaformer" in words:
        parse(words[words.index("metaformer") + 1 :])
    else:
        assert words[0] == ".venv/bin/pre-commit"


def parse(words: list[str]) -> None:
    """As the command line would, without running anything; recipes that are named exist."""
    command = get_command(cli.app)
    while words and words[0] in getattr(command, "commands", {}):
        command = command.commands[words[0]]
        words = words[1:]
    command.make_context("metaformer", list(words))
    assert all((ROOT / name).exists() for name in words if name.endswith(".yaml"))


# Hooks.


def test_every_hook_is_documented_and_its_example_is_one():
    text = section(CONTRIBUTING, "Hooks")
    told = dict(re.findall(r"^### `(\w+)\((.*?)\)`$", text, re.MULTILINE))
    hooks = {name: vars(Hooks)[name] for name in vars(Hooks) if not name.startswith("_")}
    arguments = {name: ", ".join(list(inspect.signature(hook).parameters)[1:]) for name, hook in hooks.items()}
    assert told == arguments
    for name in hooks:
        code = re.search(rf"^### `{name}\(.*?^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)[1]
        module = type(sys)(name)
        vars(module).update(Component=Component, hookimpl=hookimpl)
        exec(code, vars(module))
        manager = new_manager()
        manager.register(module, name)
        manager.check_pending()
        check_hooks(manager, module)
        assert [caller.name for caller in manager.get_hookcallers(module)] == [name]
        if name.startswith("register_"):
            assert all(isinstance(found, Component) for answer in getattr(manager.hook, name)() for found in answer)


@pytest.mark.parametrize("file", DOCUMENTS, ids=lambda file: str(file.relative_to(ROOT)))
def test_python_in_documents_compiles(file):
    for block in blocks(file, "python"):
        compile(block, file.name, "exec")
