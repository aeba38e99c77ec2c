"""What source may not call, found in the syntax trees, and what must work without optional packages."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = ("metaformer", "plugins", "benchmarks", "scripts", "examples")
AUDITED = {
    # The bytes were pickled on the same line and come from nowhere else.
    ("metaformer/testing/check.py", "pickle.loads"),
    # Only where the user has said --trust-checkpoint.
    ("metaformer/engine/screen.py", "torch.load without weights_only=True"),
}
"""(file, call) that may stay."""

NEVER = {
    *("eval", "exec", "os.system", "os.popen", "tempfile.mktemp"),
    *("pickle.load", "pickle.loads", "pickle.Unpickler", "marshal.load", "marshal.loads", "shelve.open"),
    *(
        "dill.load",
        "dill.loads",
        "cloudpickle.load",
        "cloudpickle.loads",
        "joblib.load",
        "torch.package.PackageImporter",
    ),
    *("pandas.read_pickle", "yaml.load", "yaml.load_all", "yaml.full_load", "yaml.unsafe_load", "torch.hub.load"),
    *("torch.jit.load", "torch.export.load", "runpy.run_path", "runpy.run_module", "dill.load_session"),
}
"""Calls that run code out of data, or a shell."""
UNLESS = {"torch.load": ("weights_only", "True"), "YAML": ("typ", "'safe'"), "extractall": ("filter", "'data'")}
"""Call -> the keyword and value without which it is one of them."""
EXACTLY = {"allow_pickle": "False", "shell": "False", "trust_remote_code": "False"}
"""Keywords that may only have this value, in any call."""


def faults(text: str) -> Iterator[tuple[int, str]]:
    """(line, call) of everything unsafe in a source."""
    tree = ast.parse(text)
    names = full_names(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            call = called(node.func, names)
            given = {word.arg: ast.unparse(word.value) for word in node.keywords}
            if call in NEVER or (call.rpartition(".")[2] in ("Unpickler", "unsafe_load")):
                yield node.lineno, call
            for name, (keyword, value) in UNLESS.items():
                if (call == name or call.endswith(f".{name}")) and given.get(keyword) != value:
                    yield node.lineno, f"{call} without {keyword}={value}"
            for keyword, value in EXACTLY.items():
                if keyword in given and given[keyword] != value:
                    yield node.lineno, f"{call} with {keyword}={given[keyword]}"


def full_names(tree: ast.AST) -> dict[str, str]:
    """What each imported name of a file stands for: `np` for numpy, `loads` for pickle.loads."""
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.asname: alias.name for alias in node.names if alias.asname}
        elif isinstance(node, ast.ImportFrom):
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return names


def called(function: ast.expr, names: dict[str, str]) -> str:
    """The dotted name of what is called; empty where it has none."""
    parts: list[str] = []
    while isinstance(function, ast.Attribute):
        parts.append(function.attr)
        function = function.value
    # `x().load` and `model.eval` are methods of something: a dot in front keeps them apart from functions.
    first = names.get(function.id, function.id) if isinstance(function, ast.Name) else ""
    return ".".join([first, *reversed(parts)])


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_unsafe_calls_in_source(folder):
    files = [path for path in sorted((ROOT / folder).rglob("*.py")) if "tests" not in path.parts]
    assert files
    found = [
        (path.relative_to(ROOT).as_posix(), line, call)
        for path in files
        for line, call in faults(path.read_text(encoding="utf-8"))
    ]
    assert [(name, line, call) for name, line, call in found if (name, call) not in AUDITED] == []


def test_every_exception_is_still_needed():
    for name, call in AUDITED:
        assert [c for _, c in faults((ROOT / name).read_text(encoding="utf-8"))] == [call]


@pytest.mark.parametrize(
    "text",
    [
        "import torch\ntorch.load(path)",
        "import torch\ntorch.load(path, weights_only=False)",
        "from torch import load\nload(path, weights_only=flag)",
        "import pickle as p\np.loads(data)",
        "from pickle import load as read\nread(file)",
        "import pickle\nclass Reader(pickle.Unpickler): pass\npickle.Unpickler(file).load()",
        "import numpy as np\nnp.load(path, allow_pickle=True)",
        "import yaml\nyaml.load(text, Loader=yaml.Loader)",
        "from ruamel.yaml import YAML\nYAML(typ='unsafe')",
        "from ruamel.yaml import YAML\nYAML()",
        "eval(text)",
        "exec(text)",
        "import subprocess\nsubprocess.run(text, shell=True)",
        "import os\nos.system(text)",
        "import torch\ntorch.jit.load(path)",
        "import runpy\nrunpy.run_path(path)",
        "archive.extractall(folder)",
        "load_dataset(name, trust_remote_code=True)",
    ],
)
def test_the_scan_finds(text):
    assert list(faults(text))


@pytest.mark.parametrize(
    "text",
    [
        "import torch\ntorch.load(path, weights_only=True)",
        "model.eval()",
        "import subprocess\nsubprocess.run([text], check=True)",
        "archive.extractall(folder, filter='data')",
        "import json\njson.loads(text)",
    ],
)
def test_the_scan_lets_pass(text):
    assert not list(faults(text))


# Optional packages.

OPTIONAL = ("timm", "transformers", "datasets", "webdataset", "open_clip", "tokenizers", "huggingface_hub", "pandas")
BLOCKED = """
import sys
from importlib.machinery import ModuleSpec, PathFinder

class Broken:
    def create_module(self, spec):
        return None

    def exec_module(self, module):
        raise OSError(module.__name__ + ": undefined symbol")  # media libraries beside another torch than theirs

class Finder(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            return ModuleSpec(name, Broken()) if {broken} else None
        return PathFinder.find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Finder
"""


def without(blocked: tuple[str, ...], code: str, broken: bool = False) -> str:
    """What `code` prints in a fresh interpreter in which these packages are absent, or fail when imported."""
    code = BLOCKED.format(blocked=blocked, broken=broken) + code
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


CHECK = """
import metaformer
from metaformer.commands.recipe import check_command
raise SystemExit(check_command(["recipes/digits_frozen.yaml"], []))
"""


@pytest.mark.parametrize("broken", [False, True], ids=["absent", "broken"])
def test_the_digits_recipe_needs_no_optional_package(broken):
    assert without((*OPTIONAL, "pyarrow"), CHECK, broken) == "recipes/digits_frozen.yaml: ok\n"


def test_all_of_the_core_can_be_imported_without_optional_packages():
    code = """
import importlib, pkgutil, metaformer
names = [m.name for m in pkgutil.walk_packages(metaformer.__path__, "metaformer.") if m.name != "metaformer.__main__"]
for name in names:
    importlib.import_module(name)
print(len(names))
"""
    assert int(without((*OPTIONAL, "pyarrow"), code)) > 50


USED = {
    "datasets": "from metaformer.data.huggingface import HuggingFaceDataset as D; D(path='x', split='train')",
    "timm": "from metaformer.weights.source import open_source; open_source('timm:vit_tiny_patch16_224', None)",
    "open_clip": "from metaformer.weights.source import open_source; open_source('openclip:ViT-B-32/openai', None)",
}


@pytest.mark.parametrize("package", USED)
def test_an_absent_package_is_named_where_it_is_needed(package):
    code = f"""
from metaformer.errors import MetaformerError
try:
    {USED[package]}
except MetaformerError as error:
    print(error)
"""
    said = without((package,), code)
    assert package in said.replace("-", "_")
    assert "install" in said
