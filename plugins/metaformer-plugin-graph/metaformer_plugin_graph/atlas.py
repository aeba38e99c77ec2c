"""The graph atlas: every graph of up to seven nodes, with exactly computed properties as targets.

Source: Read and Wilson, An Atlas of Graphs (Oxford University Press, 1998), as listed in networkx (BSD-3-Clause).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Literal

import numpy as np

from metaformer.base import Dataset
from metaformer.errors import DataError
from metaformer.types import Sample
from metaformer_plugin_graph.refinement import share, signature

Task = Literal["diameter", "planar", "bipartite", "chordal", "connected", "triangles"]
CLASSES: Mapping[str, tuple[str, ...]] = {
    "diameter": ("at most 2", "3", "at least 4"),
    "planar": ("no", "yes"),
    "bipartite": ("no", "yes"),
    "chordal": ("no", "yes"),
    "connected": ("no", "yes"),
}
PARTS, TRAINING = 10, 7
"""Seven of ten parts are for training."""


class AtlasDataset(Dataset):
    """{`stream`: {num_nodes, edge_index [2, E]}, `target`: class name, or the number of triangles}.

    The atlas has 1253 graphs, no two of them the same up to the order of nodes. `connected: true` leaves the 996
    connected ones; without, the empty graph is left out still. Tasks: `diameter` (connected graphs only; at most 2,
    3, at least 4), `planar`, `bipartite` (no odd cycle), `chordal` (no cycle of four or more without a chord),
    `connected`, and `triangles`, a number.

    Split: `valid` has three parts of ten, by a hash of the graph's name up to the order of nodes and without its
    isolated nodes; so a graph and the same one with another isolated node are on one side. What it is not: graphs
    that differ by one edge are on both sides, for these are all small graphs there are, and nothing is said about
    larger ones.
    """

    def __init__(
        self,
        *,
        task: Task,
        split: Literal["train", "valid"],
        connected: bool = True,
        stream: str = "graph",
        target: str = "label",
    ) -> None:
        if (task, connected) in (("diameter", False), ("connected", True)):
            do = f"set connected: {str(not connected).lower()}"
            raise DataError(f"the task {task} of the atlas", f"connected: {connected}".lower(), do)
        self.stream, self.target = stream, target
        if task in CLASSES:
            self.classes = {target: CLASSES[task]}
        self.numbers: list[int] = []
        self.graphs: list[tuple[int, np.ndarray]] = []
        self.labels: list[str | float] = []
        label = _label(import_networkx(), task)
        for number, (graph, ends, whole, part) in enumerate(_atlas()):
            if len(graph) and whole >= connected and (part < TRAINING) == (split == "train"):
                self.numbers.append(number)
                self.graphs.append((len(graph), ends))
                self.labels.append(label(graph))

    def __len__(self) -> int:
        return len(self.graphs)

    def __getitem__(self, index: int) -> Sample:
        nodes, ends = self.graphs[index]
        return {self.stream: {"num_nodes": nodes, "edge_index": ends.T.copy()}, self.target: self.labels[index]}

    def sample_id(self, index: int) -> str:
        return f"G{self.numbers[index]}"

    def fingerprint(self) -> str:
        text = repr([(n, ends.tolist(), label) for (n, ends), label in zip(self.graphs, self.labels, strict=True)])
        return f"graph_atlas:{hashlib.sha256(text.encode()).hexdigest()}"


@cache
def _atlas() -> tuple[tuple[Any, np.ndarray, bool, int], ...]:
    """Of every graph, by its number in the atlas: itself, its edges [E, 2], whether it is connected, its part."""
    networkx = import_networkx()
    found = []
    for graph in networkx.graph_atlas_g():
        ends = np.array(sorted(graph.edges), dtype=np.int64).reshape(-1, 2)
        whole = len(graph) > 0 and networkx.is_connected(graph)
        found.append((graph, ends, whole, share(_core(ends), PARTS)))
    return tuple(found)


def _core(ends: np.ndarray) -> str:
    """Name of the graph without its isolated nodes."""
    names, places = np.unique(ends, return_inverse=True)
    return signature(len(names), places.reshape(-1, 2), [""] * len(names), [""] * len(ends))


def _label(networkx: Any, task: Task) -> Callable[[Any], str | float]:
    def diameter(graph: Any) -> str:
        return CLASSES["diameter"][int(np.clip(networkx.diameter(graph), 2, 4)) - 2]

    def triangles(graph: Any) -> float:
        return float(sum(networkx.triangles(graph).values()) // 3)

    def says(holds: Callable[[Any], bool]) -> Callable[[Any], str]:
        return lambda graph: "yes" if holds(graph) else "no"

    tasks: Mapping[str, Callable[[Any], str | float]] = {
        "diameter": diameter,
        "triangles": triangles,
        "planar": says(lambda graph: networkx.check_planarity(graph)[0]),
        "bipartite": says(networkx.is_bipartite),
        "chordal": says(networkx.is_chordal),
        "connected": says(networkx.is_connected),
    }
    return tasks[task]


def import_networkx() -> Any:
    """The package, which has the bundled graphs. Raises DataError where it is absent."""
    try:
        import networkx  # type: ignore[import-untyped]
    except ImportError as error:
        raise DataError(
            "a graph out of the networkx package",
            "networkx is absent",
            "pip install 'metaformer-plugin-graph[samples]'",
        ) from error
    return networkx
