"""Promises about the repository itself: who imports whom, hooks, plugin folders, and what no file may say.

What components promise is in test_conformance.py, what recipes promise in test_recipes.py, what source may not call
in test_safety.py.
"""

from __future__ import annotations

import ast
import graphlib
import importlib
import inspect
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path

import pytest

from metaformer.hookspecs import API, KINDS, Hooks
from metaformer.registry import registry

ROOT = Path(__file__).parent.parent
CORE = ROOT / "metaformer"
PLUGINS = sorted((ROOT / "plugins").glob("metaformer-plugin-*"))
HEAVY = {"torch", "numpy", "deepspeed", "timm", "transformers", "pyarrow", "datasets", "torchmetrics", "PIL"}


# Imports, as the syntax trees have them.


def imported(path: Path, *, everywhere: bool = True) -> set[str]:
    """Modules that a file imports, `a.b` also for `from a import b`; without those for type checkers only.
    `everywhere` counts imports inside functions too."""
    found: set[str] = set()

    def visit(nodes: Iterable[ast.AST]) -> None:
        for node in nodes:
            if isinstance(node, ast.Import):
                found.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path}: a relative import"
                found.add(node.module or "")
                found.update(f"{node.module}.{alias.name}" for alias in node.names)
            elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
                visit(node.orelse)
            elif everywhere or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                visit(ast.iter_child_nodes(node))

    visit(ast.parse(path.read_text(encoding="utf-8")).body)
    return found


def module_name(path: Path) -> str:
    """`metaformer.data.loader` for its file."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(CORE.rglob("*.py"))}


def room(name: str) -> str:
    """The first name under `metaformer`: `data` for metaformer.data.loader."""
    return name.split(".")[1] if "." in name else name


def test_imports_go_in_one_direction():
    graph = {name: imported(path, everywhere=False) & MODULES.keys() - {name} for name, path in MODULES.items()}
    # A package's __init__ and the modules that it offers are one room.
    for name, used in graph.items():
        graph[name] = {other for other in used if not name.startswith(f"{other}.")}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail(f"imports in a circle: {' -> '.join(error.args[1])}")


MAY_IMPORT = {
    "errors": set(),
    "plaintext": set(),
    "spelling": set(),
    "hookspecs": set(),
    "types": set(),
    "recipe": set(),
    "layers": {"errors", "layers", "types"},
    "files": {"errors", "files"},
    "arrays": {"arrays", "base", "errors", "files", "types"},
    "base": {"types", "model"},
    "encoders": {"base", "errors", "layers", "types"},
    "heads": {"base", "errors", "heads", "layers", "types"},
    "ranks": {"types"},
    "views": {"ranks", "types"},
    "sequence": {"base", "errors", "types"},
    "teacher": {"base", "model", "types"},
    "objectives": {"base", "errors", "layers", "objectives", "ranks", "types", "views"},
    "metrics": {"base", "errors", "metrics", "types"},
    "model": {"base", "errors", "layers", "sequence", "trainable", "types", "views"},
    "gradients": {"base", "data", "engine", "model", "recipe", "types"},
    "trainable": {"errors", "layers", "recipe"},
    "data": {"base", "data", "errors", "types"},
    "weights": {"encoders", "errors", "layers", "plaintext", "weights"},
    "registry": {"base", "discovery", "errors", "hookspecs", "spelling"},
    "offline": set(),
    "testing": {"base", "data", "errors", "model", "offline", "registry", "schema", "testing", "types"},
    "conformance": {"base", "testing", "types"},
}
"""Room -> the rooms of the core that it may know."""


@pytest.mark.parametrize("name", MAY_IMPORT)
def test_rooms_know_only_what_is_below_them(name):
    files = [path for module, path in MODULES.items() if module != "metaformer" and room(module) == name]
    assert files
    for path in files:
        rooms = {room(used) for used in imported(path) & MODULES.keys() - {"metaformer"}}
        assert rooms <= MAY_IMPORT[name], f"{path.name} knows {sorted(rooms - MAY_IMPORT[name])}"


ONLY_FOR = {
    "build": {
        "evaluate",
        "inspect",
        "ladder",
        "loop",
        "predict",
        "prepare",
        "recipe_file",
        "retrieve",
        "session",
        "train",
    },
    "assemble": {"build", "evaluate", "inspect", "ladder", "prepare"},
    "cli": {"__main__"},
    "commands": {"cli", "commands", "doctor"},
    "testing": {"commands", "conformance", "testing"},
    "study": {"cli"},
    "train": {"cli", "study"},
}
"""Room -> those that may import it: what runs commands."""


@pytest.mark.parametrize("name", ONLY_FOR)
def test_wiring_is_known_to_commands_only(name):
    users = {room(user) for user, path in MODULES.items() if f"metaformer.{name}" in prefixes(imported(path))}
    assert users <= ONLY_FOR[name] | {name}


def prefixes(names: Iterable[str]) -> set[str]:
    """The names and the packages they are in."""
    return {".".join(parts[:end]) for name in names for parts in [name.split(".")] for end in range(1, len(parts) + 1)}


TORCH_FREE = (
    *("__main__", "builtins", "cli", "discovery", "doctor", "errors", "faults", "hookspecs", "recipe", "recipe_check"),
    *("plaintext", "recipe_file", "registry", "schema", "spelling", "yamlfile", "schedule", "stopping"),
)


def torch_free() -> list[str]:
    """`metaformer` itself, and the rooms behind help, recipe checks and plugin lists."""
    return [name for name in MODULES if name == "metaformer" or room(name) in (*TORCH_FREE, "commands")]


@pytest.mark.parametrize("name", torch_free())
def test_torch_free_rooms_import_nothing_heavy(name):
    heavy = {used.partition(".")[0] for used in imported(MODULES[name], everywhere=False)} & HEAVY
    assert not heavy


def python(code: str) -> str:
    """What a fresh interpreter prints, which has none of this one's modules."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd="/")
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_torch_free_rooms_stay_so_in_a_fresh_process():
    names = [name for name in torch_free() if name != "metaformer.__main__"]
    assert len(names) > len(TORCH_FREE)
    assert python(f"import sys, {', '.join(names)}; print(sorted({HEAVY!r} & set(sys.modules)))") == "[]"


def test_deepspeed_is_known_to_the_engine_only():
    folders = [CORE, *PLUGINS, ROOT / "examples", ROOT / "scripts"]
    files = [path for folder in folders for path in folder.rglob("*.py") if "tests" not in path.parts]
    users = [path for path in files if "deepspeed" in prefixes(imported(path))]
    assert users
    assert {path.parent for path in users} == {CORE / "engine"}


def test_the_core_names_no_plugin_of_a_third_party():
    named = {
        f"{path.name}: {found[0]}"
        for path in CORE.rglob("*.py")
        # The documentation's example of a stranger's plugin smells.
        for found in re.finditer(r"metaformer[-_]plugin[-_](?!smell)[a-z]\w*", path.read_text(encoding="utf-8"))
    }
    assert not named


# Hooks.

HOOKS = {name: hook for name, hook in vars(Hooks).items() if inspect.isfunction(hook)}


@pytest.mark.parametrize("name", HOOKS)
def test_every_hook_says_when_and_where_it_is_called_and_with_what(name):
    docs = inspect.getdoc(HOOKS[name]) or ""
    assert docs.endswith("."), f"{name} is not documented"
    if name in KINDS.values():
        docs += inspect.getdoc(Hooks) or ""  # says it once for all of them
        assert "once per process" in docs
    assert re.search(r"\b(every|all|rank zero)\b.*", docs, re.IGNORECASE), f"{name} does not say on which ranks"
    # An argument that several hooks have is described at the first of them.
    earlier = " ".join(inspect.getdoc(hook) or "" for hook in HOOKS.values())
    for argument in list(inspect.signature(HOOKS[name]).parameters)[1:]:
        assert re.search(rf"`{argument}`|\b{argument}\b", earlier, re.IGNORECASE), f"{name}: what is {argument}?"


def test_contributing_has_a_section_for_every_hook():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    wanted = {f"{name}({', '.join(list(inspect.signature(hook).parameters)[1:])})" for name, hook in HOOKS.items()}
    assert set(re.findall(r"^### `(\w+\(.*\))`$", text, re.MULTILINE)) == wanted


@pytest.mark.parametrize("path", sorted(set(re.findall(r"`(metaformer\.[\w.]+)`", inspect.getsource(Hooks)))))
def test_what_the_hooks_documentation_names_exists(path):
    module, _, name = path.rpartition(".")
    assert inspect.isclass(getattr(importlib.import_module(module), name))


def test_every_kind_of_component_has_its_hook():
    assert set(KINDS.values()) == {name for name in HOOKS if name.startswith("register_")}


# Plugin folders.

PUBLIC = {
    f"metaformer.{name}" for name in ("arrays", "base", "errors", "files", "hookspecs", "layers", "testing", "types")
}
"""What plugins may import, beside the names that `metaformer` itself offers."""
DISTRIBUTIONS = metadata.packages_distributions()


def package(folder: Path) -> Path:
    """The import package of a plugin folder."""
    return folder / folder.name.replace("-", "_")


def sources(folder: Path) -> list[Path]:
    return sorted(package(folder).rglob("*.py"))


def named_by_folder(folder: Path) -> str:
    return folder.name.removeprefix("metaformer-plugin-")


def requirement(text: str) -> str:
    """The distribution's name of a requirement."""
    return re.split(r"[^A-Za-z0-9._-]", text)[0].lower().replace("_", "-")


@pytest.fixture(params=PLUGINS, ids=named_by_folder)
def plugin(request) -> Path:
    return request.param


def test_a_plugin_folder_is_complete(plugin):
    for path in (
        "pyproject.toml",
        "README.md",
        f"{package(plugin).name}/__init__.py",
        f"{package(plugin).name}/py.typed",
    ):
        assert (plugin / path).is_file(), f"{plugin.name} lacks {path}"
    tests = sorted((plugin / "tests").glob("*.py"))
    assert tests
    prefix = f"test_{named_by_folder(plugin)}_"
    assert all(path.name.startswith(prefix) for path in tests), f"tests are called {prefix}*.py"


def test_a_plugins_names_agree(plugin):
    project = tomllib.loads((plugin / "pyproject.toml").read_text())["project"]
    name = package(plugin).name
    assert project["name"] == plugin.name
    assert project["entry-points"]["metaformer"] == {name: name}
    (core,) = [text for text in project["dependencies"] if requirement(text) == "metaformer"]
    assert re.fullmatch(r"metaformer>=[\d.]+,<[\d.]+", core), f"{core}: give the range of the core it is made for"
    assert importlib.import_module(name).METAFORMER_API == API


def test_a_plugin_is_installed_and_sound(plugin):
    used = {p.distribution: p for p in registry().plugins}
    assert plugin.name in used, [str(broken) for broken in registry().broken]
    assert used[plugin.name].target == package(plugin).name
    assert plugin.name not in registry().slow


def test_a_plugins_hooks_are_light(plugin):
    name = package(plugin).name
    found = json.loads(python(f"import json, sys, {name}; print(json.dumps(sorted(sys.modules)))"))
    assert not HEAVY & set(found)
    # Hook implementations only: nothing of the plugin itself is imported with them.
    assert [module for module in found if module.startswith(f"{name}.")] == []
    assert imported(package(plugin) / "__init__.py", everywhere=False) <= {
        *("__future__", "__future__.annotations", "collections.abc", "collections.abc.Iterable"),
        *("metaformer", "metaformer.Component", "metaformer.hookimpl"),
    }


def test_a_plugin_imports_only_the_public_surface(plugin):
    import metaformer

    names = {f"metaformer.{name}" for name in metaformer.__all__}
    own = package(plugin).name
    for path in sources(plugin):
        used = imported(path)
        core = {name for name in used if name.partition(".")[0] == "metaformer"}
        beyond = {name for name in core - {"metaformer"} - names if not prefixes([name]) & PUBLIC}
        assert not beyond, f"{path.name} imports {sorted(beyond)}"
        other = {name for name in used if name.startswith("metaformer_plugin_") and name.partition(".")[0] != own}
        assert not other, f"{path.name} imports another plugin: {sorted(other)}"


def test_a_plugin_declares_what_it_imports(plugin):
    project = tomllib.loads((plugin / "pyproject.toml").read_text())["project"]
    needs = {requirement(text) for text in project["dependencies"]}
    extras = {requirement(text) for extra in project.get("optional-dependencies", {}).values() for text in extra}
    for path in sources(plugin):
        for everywhere, declared in ((False, needs), (True, needs | extras)):
            modules = {name.partition(".")[0] for name in imported(path, everywhere=everywhere)}
            foreign = modules - set(sys.stdlib_module_names) - {package(plugin).name}
            missing = {name for name in foreign if not declared & {d.lower() for d in DISTRIBUTIONS.get(name, [name])}}
            assert not missing, f"{path.name} imports {sorted(missing)}, which pyproject.toml does not name"


# What no file may be, and what none may say.


def tracked() -> Iterator[tuple[str, str]]:
    """Every text file that is, or could be, in the repository, with its text."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("not a git checkout")
    for name in done.stdout.splitlines():
        path = ROOT / name
        # shared/ is no part of the project.
        if path.is_file() and not name.startswith("shared/"):
            try:
                yield name, path.read_text(encoding="utf-8")
            except UnicodeDecodeError:
                continue


def test_files_stay_readable():
    for name, text in tracked():
        path = Path(name)
        assert path.stem not in ("utils", "util", "helpers", "common", "misc"), f"{name}: a noun of its own, please"
        if path.suffix == ".py" and path.parts[0] in ("metaformer", "plugins"):
            assert text.count("\n") <= 400, f"{name}: a room that wants a door"


def test_every_module_begins_with_what_it_is():
    for path in [*CORE.rglob("*.py"), *(path for folder in PLUGINS for path in sources(folder))]:
        docs = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        assert docs.split("\n\n")[0].rstrip().endswith((".", "?", ":")), path


HOSTS = re.compile(
    r"(?:https?:)?//[^\s/'\"<>)]*(?:pypi|pythonhosted|artifactory|jfrog|nexus|devpi|mirror)", re.IGNORECASE
)
INDEXES = re.compile(r"(?:extra-)?index-url\s*[= ]\s*[\"']?\w+:", re.I)
HOMES = re.compile(r"(?<![\w.])/(?:home/[a-z]\w*|Users/[A-Za-z]\w*|root)/")


def test_no_file_names_a_registry_or_a_machine():
    for name, text in tracked():
        for pattern in (HOSTS, INDEXES, HOMES):
            found = pattern.search(text)
            assert found is None, f"{name}: {found[0]}"
        assert Path("/") == ROOT or f"{ROOT}/" not in text, f"{name} names the folder of this checkout"


def test_the_pins_name_no_host():
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    assert "://" not in text
    assert "@" not in text
