"""`metaformer plugins new`: a whole plugin that passes its checks, to be changed into another one.

The templates are a plugin called smell, as files under `metaformer/templates`: those in `shared`, and those of the
kind. `smell` becomes the plugin's own name wherever it stands, also in the names of files.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from metaformer import __version__
from metaformer.errors import UsageError
from metaformer.hookspecs import API
from metaformer.registry import Registry

PREFIX = "metaformer-plugin-"
KINDS = {"modality": "tokenizer", "bridge": "bridge", "head": "head", "objective": "objective"}
"""What `plugins new` is asked for → the kind of component it writes."""

LONGEST = 24
"""Letters of a name: lines of the templates must not grow beyond what a formatter allows."""

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")


def new_command(registry: Registry, name: str, kinds: Sequence[str], output: Path) -> None:
    """Write the project of a plugin into a folder of its own below `output`, and say how it goes on."""
    if len(kinds) != 1:
        found = " and ".join(f"--{kind}" for kind in kinds) or "none of them"
        raise UsageError("one of " + ", ".join(f"--{kind}" for kind in KINDS), found, "say what the plugin adds")
    (kind,) = kinds
    plain = name.removeprefix(PREFIX)
    asked = f"a new plugin named '{name}'"
    if not _NAME.fullmatch(plain) or len(plain) > LONGEST:
        do = (
            f"use lower-case letters, digits and single hyphens, a letter first, {LONGEST} at most: such as light-curve"
        )
        raise UsageError(asked, "no name for a distribution and a python package", do)
    component = plain.replace("-", "_")
    for entry in registry.components(KINDS[kind]):
        if entry.component.name == component:
            found = f"{entry.distribution} offers a {entry.kind} '{component}' already"
            raise UsageError(asked, found, "choose another name: recipes would have to say which of the two they mean")
    folder = output / f"{PREFIX}{plain}"
    if folder.exists():
        raise UsageError(asked, f"{folder} is there already", "choose another name, or another --output")
    files = {path: text for part in ("shared", kind) for path, text in _rendered(part, plain)}
    for path, text in files.items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        print(file)
    print(f"\nnext: pip install {folder}; metaformer plugins check {folder.name}")


def _rendered(part: str, name: str) -> Iterator[tuple[str, str]]:
    """Path below the project's folder and text of every template of a part."""
    root = resources.files("metaformer") / "templates" / part
    for path, file in _walk(root, ""):
        text = file.read_text(encoding="utf-8").replace(">=0.1,<0.2", _range()).replace('"1.0"', f'"{API}"')
        yield _named(path, name).removesuffix(".txt").replace("dot_", "."), _named(text, name)


def _walk(folder: Traversable, prefix: str) -> Iterator[tuple[str, Traversable]]:
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        path = f"{prefix}{entry.name}"
        if entry.is_dir():
            yield from _walk(entry, f"{path}/")
        elif path.endswith(".txt"):
            yield path, entry


def _named(text: str, name: str) -> str:
    """The text with another name for the plugin: in distributions, in classes, and in everything else."""
    text = text.replace(f"{PREFIX}smell", f"{PREFIX}{name}")
    words = name.split("-")
    return text.replace("Smell", "".join(word.capitalize() for word in words)).replace("smell", "_".join(words))


def _range() -> str:
    """The versions of the core that a plugin written now may expect to work with."""
    major, minor = (int(part) for part in __version__.split(".")[:2])
    return f">={major}.{minor},<{major}.{minor + 1}" if major == 0 else f">={major}.{minor},<{major + 1}"
