"""Graphs in files: GraphML, lists of edges, JSON; nothing that a file says is ever executed or looked up elsewhere."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from metaformer.errors import DataError
from metaformer_plugin_graph.graph import Graph, Limits, check_size, from_arrays, from_node_link
from metaformer_plugin_graph.graphml import read_graphml

MAX_BYTES = 2**26
"""A file of one graph; 64 MiB is a hundred bytes for each of half a million edges."""
HEADERS = ({"source", "target"}, {"src", "dst"}, {"from", "to"}, {"u", "v"})
"""What the first two cells of a list of edges are called where its first line is a header."""


def read_graph(path: Path, limits: Limits) -> Graph:
    """`.graphml`, `.json` (node-link, or arrays by name), or a list of edges. Raises DataError."""
    readers: dict[str, Callable[[bytes, Limits, str], Graph]] = {
        ".graphml": read_graphml,
        ".json": _read_json,
        ".csv": lambda data, limits, source: _read_edges(data, limits, source, ","),
        ".tsv": lambda data, limits, source: _read_edges(data, limits, source, "\t"),
        ".edgelist": lambda data, limits, source: _read_edges(data, limits, source, None),
        ".txt": lambda data, limits, source: _read_edges(data, limits, source, None),
    }
    suffix = path.suffix.lower()
    if suffix not in readers:
        raise DataError(f"graph file {path}", f"suffix {suffix!r}", f"give one of {', '.join(readers)}")
    # A pipe or a device has no size, and no end.
    if not path.is_file():
        raise DataError(f"graph file {path}", "no such file", "check the path and the data set's root")
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            do = "cut the graph into smaller ones"
            raise DataError(f"graph file {path} of at most {MAX_BYTES} bytes", f"{size}", do)
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"graph file {path}", str(error), "make it readable") from error
    if not data.strip():
        raise DataError(f"graph file {path}", "an empty file", "replace or remove it")
    return readers[suffix](data, limits, f" in {path}")


def _read_json(data: bytes, limits: Limits, source: str) -> Graph:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DataError(f"a graph{source}", f"no JSON: {str(error)[:100]}", "replace or remove it") from error
    if not isinstance(value, dict):
        raise DataError(f"a graph{source}", f"a JSON {type(value).__name__}", "give an object with nodes and edges")
    return from_node_link(value, limits, source) if "nodes" in value else from_arrays(value, limits, source)


def _read_edges(data: bytes, limits: Limits, source: str, delimiter: str | None) -> Graph:
    """`u v [columns]` a line; `#` begins a comment. Whole numbers name nodes in their order, texts by appearance."""
    asked = f"a list of edges{source}"
    try:
        lines = data.decode("utf-8-sig").splitlines()
        rows = [row for line in lines if (row := _cells(line.partition("#")[0], delimiter))]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(asked, str(error)[:100], "save it as UTF-8 text") from error
    header = None
    if rows and {cell.lower() for cell in rows[0][:2]} in HEADERS:
        header, rows = rows[0], rows[1:]
    if not rows:
        raise DataError(asked, "no edge", "a graph without edges can be a JSON file")
    check_size(0, len(rows), limits, source)
    width = len(header or rows[0])
    for number, row in enumerate(rows, start=1):
        if len(row) < 2 or len(row) != width or not (row[0] and row[1]):
            found = f"edge {number} has {len(row)} cells of {width}" if len(row) != width else f"edge {number}: {row}"
            raise DataError(asked, found, "write `from`, `to` and the same columns on every line")
    index = _places([name for row in rows for name in row[:2]])
    check_size(len(index), 0, limits, source)
    ends = np.array([(index[u], index[v]) for u, v, *_ in rows], dtype=np.int64)
    extra: Any = [row[2:] for row in rows]
    if header is not None:
        extra = [dict(zip(header[2:], row[2:], strict=True)) for row in rows]
    return Graph(len(index), ends, None, extra if width > 2 else None)


def _cells(line: str, delimiter: str | None) -> list[str]:
    if delimiter is None:
        cells = line.split()
        # networkx writes an empty dictionary behind edges without attributes.
        return cells[:-1] if cells[2:] == ["{}"] else cells
    row = next(csv.reader([line], delimiter=delimiter), [])
    return [cell.strip() for cell in row] if any(cell.strip() for cell in row) else []


def _places(names: list[str]) -> dict[str, int]:
    """Node name → index."""
    seen = list(dict.fromkeys(names))
    if all(name.isascii() and name.isdigit() and len(name) < 19 for name in seen):
        seen.sort(key=int)
    return {name: place for place, name in enumerate(seen)}
