"""YAML in and out: the YAML 1.2 core schema as plain data, with the line of every value, safe on any input.

Source: YAML 1.2.2 section 10.3; ruamel.yaml scans and parses. Ours differs: data are built here from the
parser's events, so that size, depth and aliases are bounded before anything is built; tags, directives,
duplicate keys and keys that are not text are errors; and there are no dates: `2020-01-01` is text.
"""

from __future__ import annotations

import copy
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceStartEvent,
)

from metaformer.errors import Problem, RecipeError

# A recipe has some 50 lines. These bounds keep the refusal of hostile input under a second (see the tests).
MAX_BYTES = 256 * 1024
MAX_WRITTEN = 8_000
"""Nodes that stand in the file."""
MAX_NODES = 100_000
"""Nodes after every alias is replaced by what it stands for."""
MAX_DEPTH = 64
MAX_SCALAR = 64 * 1024
"""Characters of one value."""

_INT = re.compile(r"[-+]?[0-9]+")
_BASE = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_INF = re.compile(r"([-+]?)\.(inf|Inf|INF)")
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_./@-]*")
# Marks of writing direction among them: they make a line look like another.
_ESCAPED = re.compile(
    "[^\x20-\x7e\xa0-\u061b\u061d-\u200d\u2010-\u2027\u202f-\u2065\u206a-\ud7ff"
    "\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]"
)
_WORDS = {"": None, "~": None, **dict.fromkeys(("null", "Null", "NULL"))}
_WORDS |= dict.fromkeys(("true", "True", "TRUE"), True) | dict.fromkeys(("false", "False", "FALSE"), False)
_WORDS |= dict.fromkeys((".nan", ".NaN", ".NAN"), math.nan)

Key = tuple[str | int, ...]
"""Where a value stands: mapping keys and list positions from the top."""


@dataclass(frozen=True)
class YamlFile:
    """A YAML document as plain data, with the 1-based line that each value starts on."""

    data: dict[str, Any]
    lines: dict[Key, int]
    text: str


class _Refused(Exception):
    """Inside this file only: what is wrong, on which line, and what to do."""

    def __init__(self, line: int | None, found: str, do: str = "", at: Key = ()) -> None:
        super().__init__(found)
        self.line, self.found, self.do, self.at = line, found, do, at


def read_yaml(path: Path) -> YamlFile:
    """Read a file whose top level is a mapping; every refusal is a `RecipeError` with the line."""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        do = "check the spelling; paths are relative to the working directory"
        raise RecipeError(str(path), [Problem("", f"cannot be read: {error.strerror or error}", do)]) from error
    try:
        text = _decode(raw)
        data, lines = _build(text)
        if not isinstance(data, dict):
            shown = "is empty" if data is None else f"holds {_kind(data)}, not a mapping"
            raise _Refused(None, f"the file {shown}", "start with `name:`, `tokenizers:`, `tasks:` and `steps:`")
    except _Refused as error:
        path_to = ".".join(str(part) for part in error.at)
        raise RecipeError(str(path), [Problem(path_to, error.found, error.do, error.line)]) from None
    return YamlFile(data, lines, text)


def parse_value(text: str) -> Any:
    """The value of a `--set`, by the same rules as in a file."""
    try:
        if len(text.encode()) > MAX_BYTES:
            raise _Refused(None, "the value is too long")
        return _build(text)[0]
    except _Refused as error:
        do = error.do or "put text that has special characters in quotes, inside the shell's own"
        raise RecipeError("--set", [Problem("", error.found, do)]) from None


def parse_scalar(text: str) -> Any:
    """A plain (unquoted) scalar by the YAML 1.2 core schema: null, bool, int, float or text."""
    if text in _WORDS:
        return _WORDS[text]
    if _INT.fullmatch(text) and len(text) < 4000:
        return int(text)
    if _BASE.fullmatch(text):
        return int(text, 0)
    if _FLOAT.fullmatch(text):
        return float(text)
    match = _INF.fullmatch(text)
    return float(f"{match[1]}inf") if match else text


def write_yaml(data: Mapping[str, Any]) -> str:
    """Plain data as YAML that `read_yaml` reads back equal: blocks outside, one-line mappings inside."""
    return "\n".join(_block(data, 0)) + "\n"


def _decode(raw: bytes) -> str:
    if len(raw) > MAX_BYTES:
        raise _Refused(None, f"the file is larger than {MAX_BYTES // 1024} KiB", "this is not a recipe")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise _Refused(line, "the file is not UTF-8 text", "save it as UTF-8") from None


def _build(text: str) -> tuple[Any, dict[Key, int]]:
    """Parse and build; whatever the parser stumbles over becomes a `_Refused`."""
    builder = _Builder(YAML(typ="safe", pure=True).parse(text))
    try:
        return builder.document(), builder.lines
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        found = getattr(error, "problem", None) or str(error).splitlines()[0]
        do = ""
        if "\\t" in found:
            do = "indent with spaces"
        elif "cannot start any token" in found:
            do = "put the value in quotes"
        raise _Refused(mark.line + 1 if mark else None, f"not YAML: {found}", do) from None


class _Builder:
    """Plain data from parser events, one document, every bound checked on the way."""

    def __init__(self, events: Iterator[Any]) -> None:
        self.events = events
        self.lines: dict[Key, int] = {}
        self.written = 0
        self.nodes = 0
        self.anchors: dict[str, tuple[Any, int] | None] = {}
        """Anchor → value and its number of nodes; None while the value is being built."""

    def document(self) -> Any:
        value: Any = None
        documents = 0
        for event in self.events:
            if isinstance(event, DocumentStartEvent):
                documents += 1
                if documents > 1:
                    do = "one file holds one recipe: remove the line `---`, or split the file"
                    raise _Refused(self.line(event), "a second document starts here", do)
                if event.version or event.tags:
                    raise _Refused(self.line(event), "directives (`%YAML`, `%TAG`) are not allowed", "remove them")
                value = self.value(next(self.events), ())
        return value

    @staticmethod
    def line(event: Any) -> int:
        return int(event.start_mark.line) + 1

    def value(self, event: Any, at: Key) -> Any:
        line = self.line(event)
        self.lines.setdefault(at, line)
        self.written += 1
        if self.written > MAX_WRITTEN:
            raise _Refused(line, f"more than {MAX_WRITTEN} values", "this is not a recipe")
        if isinstance(event, AliasEvent):
            return self.alias(event, line, at)
        self.count(1, line)
        if len(at) > MAX_DEPTH:
            raise _Refused(line, f"nested deeper than {MAX_DEPTH} levels", "this is not a recipe")
        if event.tag is not None:
            tag = "".join(c for c in str(event.tag) if c.isprintable())[:60]
            raise _Refused(line, f"the tag '{tag}' is not allowed: recipes are plain data", "remove the tag", at)
        before = self.nodes
        if event.anchor:
            self.anchors[event.anchor] = None
        value = self.content(event, line, at)
        if event.anchor:
            self.anchors[event.anchor] = (value, self.nodes - before + 1)
        return value

    def content(self, event: Any, line: int, at: Key) -> Any:
        if isinstance(event, ScalarEvent):
            return self.scalar(event, line, at)
        if isinstance(event, SequenceStartEvent):
            return [self.value(inner, (*at, index)) for index, inner in enumerate(self.inside())]
        assert isinstance(event, MappingStartEvent)
        found: dict[str, Any] = {}
        first: dict[str, int] = {}
        for inner in self.inside():
            name, here = self.key(inner, at), self.line(inner)
            if name in found:
                do = f"keep one of the two; the first is on line {first[name]}"
                raise _Refused(here, f"the key '{name}' stands here a second time", do, (*at, name))
            first[name] = self.lines[*at, name] = here
            found[name] = self.value(next(self.events), (*at, name))
        return found

    def inside(self) -> Iterator[Any]:
        """Events that start something inside the current list or mapping, up to its end."""
        for event in self.events:
            if not isinstance(event, AliasEvent | ScalarEvent | SequenceStartEvent | MappingStartEvent):
                return
            yield event

    def key(self, event: Any, at: Key) -> str:
        line = self.line(event)
        self.written += 1
        if not isinstance(event, ScalarEvent) or event.tag is not None:
            raise _Refused(line, "a key must be a plain name", "write the name itself as the key", at)
        name: str = event.value
        plain = event.implicit[0]
        if plain and name == "<<":
            raise _Refused(line, "merge keys (`<<`) are not part of YAML 1.2", "write the values out", at)
        if plain and not isinstance(parse_scalar(name), str):
            shown = "an empty key" if name == "" else f"the key {name} is {_kind(parse_scalar(name))}, not text"
            raise _Refused(line, shown, f'write "{name}" in quotes' if name else "write a name before the colon", at)
        return name

    def scalar(self, event: Any, line: int, at: Key) -> Any:
        text: str = event.value
        if len(text) > MAX_SCALAR:
            raise _Refused(line, f"a value of more than {MAX_SCALAR // 1024} Ki characters", "this is not a recipe", at)
        if not event.implicit[0]:  # quoted or a block of text
            return text
        value = parse_scalar(text)
        if isinstance(value, float) and math.isinf(value) and "inf" not in text.lower():
            raise _Refused(line, f"the number {text[:20]} is too large", "write a smaller number, or .inf", at)
        return value

    def alias(self, event: Any, line: int, at: Key) -> Any:
        if event.anchor not in self.anchors:
            do = "put text that starts with * in quotes"
            raise _Refused(line, f"the alias *{event.anchor} stands for nothing above it", do, at)
        anchored = self.anchors[event.anchor]
        if anchored is None:
            raise _Refused(line, f"the alias *{event.anchor} contains itself", "write the values out", at)
        value, size = anchored
        self.count(size, line)
        # A copy: otherwise `--set` on one place would silently change the other.
        return copy.deepcopy(value)

    def count(self, nodes: int, line: int) -> None:
        self.nodes += nodes
        if self.nodes > MAX_NODES:
            raise _Refused(line, f"aliases expand to more than {MAX_NODES} values", "write the values out")


def _kind(value: Any) -> str:
    names = {
        bool: "true or false",
        int: "a number",
        float: "a number",
        str: "text",
        list: "a list",
        dict: "a mapping",
    }
    return names.get(type(value), "empty")


def _block(value: Mapping[str, Any], indent: int) -> Iterator[str]:
    for key, inner in value.items():
        head = f"{' ' * indent}{_flow(key)}:"
        line = f"{head} {_flow(inner)}"
        if isinstance(inner, Mapping) and inner and (indent == 0 or len(line) > 110):
            yield head
            yield from _block(inner, indent + 2)
        elif isinstance(inner, list | tuple) and len(line) > 110:
            yield head
            yield from (f"{' ' * (indent + 2)}- {_flow(item)}" for item in inner)
        else:
            yield line


def _flow(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_flow(key)}: {_flow(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_flow(item) for item in value) + "]"
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, float) and not math.isfinite(value):
        return ".nan" if math.isnan(value) else f"{'-' if value < 0 else ''}.inf"
    if isinstance(value, int | float):
        return repr(value)
    text = str(value)
    if _PLAIN.fullmatch(text) and isinstance(parse_scalar(text), str):
        return text
    return _ESCAPED.sub(lambda c: f"\\u{ord(c[0]):04x}", json.dumps(text, ensure_ascii=False))
