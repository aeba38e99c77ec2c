"""GraphML → a graph, by a reader that refuses document types and with them every entity.

Source: the GraphML primer (graphml.graphdrawing.org). A file may hold one graph, without nested graphs, hyperedges
or edges whose direction differs from the graph's. Ports and data of the graph itself are skipped.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from xml.parsers import expat

import numpy as np

from metaformer.errors import DataError
from metaformer_plugin_graph.graph import Graph, Limits, check_size

NUMBERS: dict[str, Callable[[str], Any]] = {"int": int, "long": int, "float": float, "double": float}
MAX_DEPTH = 64
"""Elements within elements: a graph has five, and drawing programs add some in their data."""


def read_graphml(data: bytes, limits: Limits, source: str) -> Graph:
    """The graph in a file's bytes. Raises DataError for damage, and before there are more parts than allowed."""
    reading = _Reading(limits, source)
    # Internal entities are refused by their document type; external ones are never fetched by expat itself.
    parser = expat.ParserCreate(namespace_separator=" ")
    parser.buffer_text = True
    parser.StartDoctypeDeclHandler = reading.refuse_doctype
    parser.EntityDeclHandler = reading.refuse_doctype
    parser.StartElementHandler = reading.start
    parser.EndElementHandler = reading.end
    parser.CharacterDataHandler = reading.text
    try:
        parser.Parse(data, True)
    except (expat.ExpatError, ValueError, LookupError) as error:
        raise DataError(f"a GraphML graph{source}", str(error)[:100], "replace or remove it") from error
    return reading.graph()


@dataclass
class _Reading:
    limits: Limits
    source: str
    keys: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Id of a key → (name, type)."""
    defaults: dict[str, dict[str, Any]] = field(default_factory=lambda: {"node": {}, "edge": {}})
    index: dict[str, int] = field(default_factory=dict)
    nodes: list[dict[str, Any]] = field(default_factory=list)
    edges: list[dict[str, Any]] = field(default_factory=list)
    ends: list[tuple[str, str]] = field(default_factory=list)
    undirected: bool | None = None
    path: list[str] = field(default_factory=list)
    """Names of the open elements."""
    key: str = ""
    """Key of the open `data` or `default`."""
    of: str = "all"
    """What the open `key` is for."""
    parts: list[str] = field(default_factory=list)

    def wrong(self, found: str, do: str = "replace or remove it") -> DataError:
        return DataError(f"a GraphML graph{self.source}", found, do)

    def refuse_doctype(self, *_: object) -> None:
        raise self.wrong("a document type or an entity, which could make it grow or read other files", "take it out")

    def start(self, name: str, attributes: dict[str, str]) -> None:
        name = name.rpartition(" ")[2]
        if len(self.path) >= MAX_DEPTH:
            raise self.wrong(f"elements nested more than {MAX_DEPTH} deep")
        self.path.append(name)
        if len(self.path) == 1 and name != "graphml":
            raise self.wrong(f"a document of <{name}>")
        if "data" in self.path[:-1]:
            return
        if name == "key":
            self.key = self.attribute(attributes, "id")
            self.keys[self.key] = (attributes.get("attr.name", self.key), attributes.get("attr.type", "string"))
            self.of = attributes.get("for", "all")
        elif name in ("data", "default"):
            self.key = self.attribute(attributes, "key") if name == "data" else self.key
            self.parts = []
        elif name == "graph":
            if self.undirected is not None:
                raise self.wrong("several graphs, or one within another", "write one graph a file")
            self.undirected = attributes.get("edgedefault", "undirected") != "directed"
        elif name == "node":
            self.node(self.attribute(attributes, "id"))
        elif name == "edge":
            self.edge(attributes)
        elif name == "hyperedge":
            raise self.wrong("a hyperedge", "make it a node of its own, joined to its ends")

    def attribute(self, attributes: dict[str, str], name: str) -> str:
        if name not in attributes:
            raise self.wrong(f"a <{self.path[-1]}> without {name}")
        return attributes[name]

    def node(self, name: str) -> None:
        if name in self.index:
            raise self.wrong(f"two nodes with the id {name!r:.40}", "name each once")
        self.index[name] = len(self.index)
        self.nodes.append({})
        check_size(len(self.nodes), 0, self.limits, self.source)

    def edge(self, attributes: dict[str, str]) -> None:
        directed = attributes.get("directed")
        if self.undirected is None or (directed is not None and (directed == "true") == self.undirected):
            raise self.wrong("an edge of another direction than its graph", "make all edges directed, or none")
        self.ends.append((self.attribute(attributes, "source"), self.attribute(attributes, "target")))
        self.edges.append({})
        check_size(0, len(self.edges), self.limits, self.source)

    def text(self, text: str) -> None:
        if self.path and self.path[-1] in ("data", "default"):
            self.parts.append(text)

    def end(self, name: str) -> None:
        name = self.path.pop()
        if name not in ("data", "default") or "data" in self.path:
            return
        label, kind = self.keys.get(self.key, (self.key, "string"))
        value = self.convert("".join(self.parts).strip(), kind)
        owner = self.path[-1] if self.path else ""
        if owner == "node":
            self.nodes[-1][label] = value
        elif owner == "edge":
            self.edges[-1][label] = value
        elif owner == "key":
            for of in ("node", "edge"):
                if self.of in (of, "all"):
                    self.defaults[of][label] = value

    def convert(self, text: str, kind: str) -> Any:
        if kind not in NUMBERS or not text:
            return text
        try:
            return NUMBERS[kind](text)
        except ValueError as error:
            raise self.wrong(f"{text!r:.40}, which is no {kind}") from error

    def graph(self) -> Graph:
        if self.undirected is None:
            raise self.wrong("no graph in it")
        ends = []
        for pair in self.ends:
            absent = [name for name in pair if name not in self.index]
            if absent:
                raise self.wrong(f"an edge at an unknown node {absent[0]!r:.40}", "list every node")
            ends.append([self.index[name] for name in pair])
        return Graph(
            len(self.index),
            np.array(ends, dtype=np.int64).reshape(-1, 2),
            [{**self.defaults["node"], **row} for row in self.nodes],
            [{**self.defaults["edge"], **row} for row in self.edges],
            self.undirected,
        )
