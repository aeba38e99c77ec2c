"""Whatever a user calls a graph → one plain form, or a `DataError`.

Accepted: a mapping of arrays (`edge_index` and so on), a node-link mapping, a networkx graph, an object with the
attributes of torch_geometric's `Data`, and files. Neither library is imported here: an object of theirs can only
arrive where somebody else has imported them.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Int64

from metaformer.errors import DataError

Rows = np.ndarray | Sequence[Mapping[str, Any]] | Sequence[Sequence[str]] | None
"""Features of nodes or of edges: numbers [count, columns], attributes by name, or texts by column."""

NODE_KEYS = ("x", "node_feat", "node_features")
EDGE_KEYS = ("edge_attr", "edge_feat", "edge_features")
"""torch_geometric's name, OGB's, and ours: the first that is there counts."""


class Limits(NamedTuple):
    """The largest graph that is read: what is beyond is refused before memory is taken for it."""

    nodes: int
    edges: int
    """As they are listed, where an undirected edge may stand twice."""


@dataclass(frozen=True)
class Graph:
    """One graph as it was given. Nodes are 0 to `num_nodes` - 1."""

    num_nodes: int
    ends: Int64[np.ndarray, "E 2"]
    """From and to; any number of edges between the same nodes, and loops."""
    nodes: Rows = None
    edges: Rows = None
    undirected: bool = False
    """True: every edge is listed once and has no direction. False: edges are what is listed."""


def as_graph(value: Any, limits: Limits) -> Graph:
    """Raises DataError for everything that is no graph within the limits."""
    if isinstance(value, Path):
        from metaformer_plugin_graph.files import read_graph

        return read_graph(value, limits)
    networkx = sys.modules.get("networkx")
    if networkx is not None and isinstance(value, networkx.Graph):
        return _from_networkx(value, limits)
    if isinstance(value, Mapping):
        if "edge_index" not in value and "nodes" in value:
            return from_node_link(value, limits, "")
        return from_arrays(value, limits, "")
    if getattr(value, "edge_index", None) is not None:
        return _from_object(value, limits)
    raise DataError(
        "a graph",
        f"{type(value).__name__}: {value!r:.80}",
        "give a mapping with edge_index [2, E] and num_nodes, a networkx graph, a torch_geometric Data, or a file",
    )


def from_arrays(value: Mapping[str, Any], limits: Limits, source: str) -> Graph:
    """`edge_index` [2, E] (absent: no edges), `num_nodes`, and features of nodes and edges under any of their names."""
    x = next((value[key] for key in NODE_KEYS if value.get(key) is not None), None)
    attributes = next((value[key] for key in EDGE_KEYS if value.get(key) is not None), None)
    ends = _ends(value.get("edge_index"), limits, source)
    num_nodes = _num_nodes(value.get("num_nodes"), x, ends, source)
    check_size(num_nodes, len(ends), limits, source)
    if len(ends) and not (ends.min() >= 0 and ends.max() < num_nodes):
        raise DataError(
            f"a graph{source} whose edges join its {num_nodes} nodes",
            f"an edge at node {int(ends.min() if ends.min() < 0 else ends.max())}",
            "count nodes from 0, and set num_nodes",
        )
    nodes = None if x is None else _features(x, num_nodes, "node", source)
    edges = None if attributes is None else _features(attributes, len(ends), "edge", source)
    return Graph(num_nodes, ends, nodes, edges)


def from_node_link(value: Mapping[str, Any], limits: Limits, source: str) -> Graph:
    """{nodes: [{id, ...}], edges or links: [{source, target, ...}], directed}, as networkx and d3 write them."""
    nodes, edges = value.get("nodes"), value.get("edges", value.get("links", []))
    for name, rows in (("nodes", nodes), ("edges", edges)):
        if not isinstance(rows, (list, tuple)) or not all(isinstance(row, Mapping) for row in rows):
            raise DataError(f"a node-link graph{source}", f"{name} that are no list of objects", "write it anew")
    assert isinstance(nodes, (list, tuple))
    check_size(len(nodes), len(edges), limits, source)
    index: dict[Any, int] = {}
    for row in nodes:
        name = _name(row.get("id"), source)
        if name in index:
            raise DataError(f"a node-link graph{source}", f"two nodes with the id {name!r:.40}", "name each once")
        index[name] = len(index)
    ends = [[_place(index, row.get(key), source) for key in ("source", "target")] for row in edges]
    undirected = not value.get("directed", False)
    return Graph(len(index), np.array(ends, dtype=np.int64).reshape(-1, 2), nodes, edges, undirected)


def _name(name: Any, source: str) -> Any:
    if not isinstance(name, (str, int, float)):
        raise DataError(f"a node-link graph{source}", f"a node id {name!r:.40}", "use texts or numbers")
    return name


def _place(index: Mapping[Any, int], name: Any, source: str) -> int:
    if _name(name, source) not in index:
        raise DataError(f"a node-link graph{source}", f"an edge at an unknown node {name!r:.40}", "list every node")
    return index[name]


def check_size(nodes: int, edges: int, limits: Limits, source: str = "") -> None:
    """Raises DataError where there are more than the limits allow."""
    for name, count, most in (("node", nodes, limits.nodes), ("edge", edges, limits.edges)):
        if count > most:
            raise DataError(
                f"a graph{source} of at most {most} {name}s",
                f"{count}",
                f"raise the tokenizer's `max_{name}s`, or cut the graph into smaller ones",
            )


def _from_networkx(value: Any, limits: Limits) -> Graph:
    check_size(value.number_of_nodes(), value.number_of_edges(), limits)
    index = {node: place for place, node in enumerate(value)}
    listed = list(value.edges(data=True))
    ends = np.array([(index[u], index[v]) for u, v, _ in listed], dtype=np.int64).reshape(-1, 2)
    nodes = [attributes for _, attributes in value.nodes(data=True)]
    return Graph(len(index), ends, nodes, [row for *_, row in listed], not value.is_directed())


def _from_object(value: Any, limits: Limits) -> Graph:
    """An object with torch_geometric's attributes."""
    batch = getattr(value, "batch", None)
    if batch is not None and len(batch) and int(batch.max()) > 0:
        raise DataError("one graph", f"a batch of {int(batch.max()) + 1}", "give them one by one: `to_data_list()`")
    keys = ("edge_index", "x", "edge_attr", "num_nodes")
    return from_arrays({key: getattr(value, key, None) for key in keys}, limits, "")


def _ends(value: Any, limits: Limits, source: str) -> Int64[np.ndarray, "E 2"]:
    """edge_index [2, E] → [E, 2]."""
    if value is None:
        return np.zeros((0, 2), dtype=np.int64)
    found = _numbers(value, f"the edge_index of a graph{source}")
    if found.size == 0 and found.shape in ((0,), (2, 0), (0, 2), (1, 0)):
        return np.zeros((0, 2), dtype=np.int64)
    if found.ndim != 2 or found.shape[0] != 2:
        do = "transpose it" if found.ndim == 2 and found.shape[1] == 2 else "give rows `from` and `to`"
        raise DataError(f"the edge_index of a graph{source}, of shape [2, E]", f"shape {list(found.shape)}", do)
    check_size(0, found.shape[1], limits, source)
    whole = np.isfinite(found) & (found == np.floor(found)) & (np.abs(found) < 2**53)
    if not whole.all():
        raise DataError(f"the edge_index of a graph{source}", f"{found[~whole][0]}", "use whole numbers from 0")
    return found.T.astype(np.int64)


def _num_nodes(value: Any, x: Any, ends: Int64[np.ndarray, "E 2"], source: str) -> int:
    if value is not None:
        if isinstance(value, torch.Tensor) and value.numel() == 1:
            value = value.item()
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 0:
            raise DataError(f"the num_nodes of a graph{source}", f"{value!r:.40}", "give a whole number")
        return int(value)
    if x is not None:
        try:
            return len(x)
        except TypeError as error:
            raise DataError(f"node features of a graph{source}", str(error), "give one row per node") from error
    if not len(ends):
        raise DataError(f"a graph{source}", "neither num_nodes, nor node features, nor edges", "give num_nodes")
    return int(ends.max()) + 1


def _features(value: Any, count: int, kind: str, source: str) -> np.ndarray:
    """[count, columns] float64; None is NaN."""
    found = _numbers(value, f"{kind} features of a graph{source}")
    if found.ndim == 1:
        found = found.reshape(count, -1) if found.size == count else found[:, None]
    if found.ndim != 2 or len(found) != count:
        raise DataError(
            f"{kind} features of a graph{source}, of shape [{count}, columns]",
            f"shape {list(found.shape)}",
            f"give one row per {kind}" + (", in the order of edge_index" if kind == "edge" else ""),
        )
    return found


def _numbers(value: Any, asked: str) -> np.ndarray:
    """As float64."""
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().numpy() if value.dtype != torch.bfloat16 else value.detach().cpu().float().numpy()
    if not isinstance(value, (np.ndarray, list, tuple)) or (
        isinstance(value, np.ndarray) and value.dtype.kind not in "biufO"
    ):
        raise DataError(asked, f"{type(value).__name__}: {value!r:.60}", "give an array or nested lists of numbers")
    try:
        return np.array(value, dtype=np.float64)
    except (ValueError, TypeError, OverflowError) as error:
        raise DataError(asked, str(error), "give every row the same number of numbers; None is missing") from error
