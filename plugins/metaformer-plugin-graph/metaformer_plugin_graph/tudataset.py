"""Graph data sets in the TUDataset text layout, read from a folder as the collection's archives unpack.

Source: TUDataset (arXiv 2007.08663): `NAME_A.txt` (edges), `NAME_graph_indicator.txt` (the graph of each node),
`NAME_graph_labels.txt` or `NAME_graph_attributes.txt` (targets), and, where there are any, `NAME_node_labels.txt`,
`NAME_node_attributes.txt`, `NAME_edge_labels.txt`, `NAME_edge_attributes.txt`. Nodes and graphs are counted from 1.
"""

from __future__ import annotations

import hashlib
import warnings
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from jaxtyping import Float64
from pydantic import Field

from metaformer.base import Dataset
from metaformer.errors import DataError
from metaformer.types import Sample
from metaformer_plugin_graph.refinement import share, signature

FOLDS = 10


class TuDataset(Dataset):
    """{`stream`: {num_nodes, edge_index, x, edge_attr}, `target`: class name or numbers}.

    Features are the labels, then the attributes; labels become 0, 1, ... in their order, of nodes and edges both
    (`node_labels` and `edge_labels` have the names, a list for each column; their lengths are `node_categorical` and
    `edge_categorical` of the tokenizer).

    Split: the collection has none. `valid` is fold `fold` of ten, `train` the other nine, `all` everything. Folds
    are drawn by a hash of the graph up to the order of its nodes (labels count, attributes do not), so that
    copies of a graph, of which some of these sets have many, are on one side.
    """

    def __init__(
        self,
        *,
        root: Path,
        split: Literal["train", "valid", "all"],
        fold: Annotated[int, Field(ge=0, lt=FOLDS)] = 0,
        targets: Literal["labels", "attributes"] = "labels",
        stream: str = "graph",
        target: str = "label",
    ) -> None:
        self.stream, self.target, self.folder = stream, target, root
        self.name = _name(root)
        graph_of = self._whole("graph_indicator", 1)[:, 0]
        count = int(graph_of.max())
        if graph_of.min() < 1 or (np.diff(graph_of) < 0).any() or count > len(graph_of):
            raise self._wrong("graph_indicator", "nodes that are not sorted by graph, from 1")
        edges = self._whole("A", 2)
        if edges.min(initial=1) < 1 or edges.max(initial=1) > len(graph_of):
            raise self._wrong("A", f"edges beyond the {len(graph_of)} nodes")
        edges = edges - 1
        owner = graph_of[edges[:, 0]]
        if (owner != graph_of[edges[:, 1]]).any():
            raise self._wrong("A", "edges from one graph to another")
        order = np.argsort(owner, kind="stable")
        self.ends = edges[order]
        numbers = np.arange(1, count + 2)
        self.first_node = np.searchsorted(graph_of, numbers)
        self.first_edge = np.searchsorted(owner[order], numbers)
        self.x, self.node_labels, node_names = self._features("node", len(graph_of))
        attributes, self.edge_labels, edge_names = self._features("edge", len(edges))
        self.edge_attr = None if attributes is None else attributes[order]
        values = self._numbers(f"graph_{targets}", count)
        self.values: list[str] | list[list[float]]
        if targets == "labels":
            self.values = [f"{value:g}" for value in values[:, 0]]
            self.classes = {target: tuple(f"{value:g}" for value in np.unique(values[:, 0]))}
        else:
            self.values = values.tolist()
        self.kept = [
            i
            for i in range(count)
            if split == "all" or (self._fold(i, node_names, edge_names) == fold) == (split == "valid")
        ]
        if not self.kept:
            raise DataError(f"the {split} split of {self.name}", f"none of {count} graphs", "choose another fold")

    def __len__(self) -> int:
        return len(self.kept)

    def __getitem__(self, index: int) -> Sample:
        at = self.kept[index]
        nodes, edges = self._range(at)
        graph = {"num_nodes": nodes.stop - nodes.start, "edge_index": (self.ends[edges] - nodes.start).T.copy()}
        if self.x is not None:
            graph["x"] = self.x[nodes].copy()
        if self.edge_attr is not None:
            graph["edge_attr"] = self.edge_attr[edges].copy()
        return {self.stream: graph, self.target: self.values[at]}

    def sample_id(self, index: int) -> str:
        return f"{self.name}:{self.kept[index] + 1}"

    def fingerprint(self) -> str:
        digest = hashlib.sha256(repr((self.kept, self.values)).encode())
        for array in (self.ends, self.first_node, self.x, self.edge_attr):
            digest.update(b"-" if array is None else np.ascontiguousarray(array).tobytes())
        return f"{self.name}:{digest.hexdigest()}"

    def _range(self, graph: int) -> tuple[slice, slice]:
        nodes, edges = (slice(int(a[graph]), int(a[graph + 1])) for a in (self.first_node, self.first_edge))
        return nodes, edges

    def _fold(self, graph: int, node_names: int, edge_names: int) -> int:
        nodes, edges = self._range(graph)
        ends = self.ends[edges] - nodes.start
        labels = [""] * len(range(nodes.start, nodes.stop))
        if self.x is not None:
            labels = [str(row) for row in self.x[nodes, :node_names].tolist()]
        kinds = [""] * len(ends)
        if self.edge_attr is not None:
            kinds = [str(row) for row in self.edge_attr[edges, :edge_names].tolist()]
        return share(signature(len(labels), ends, labels, kinds), FOLDS)

    def _features(self, kind: str, count: int) -> tuple[np.ndarray | None, tuple[tuple[float, ...], ...], int]:
        """[count, columns] or None, the labels of each column of them, and how many columns these are."""
        columns, names = [], []
        if self._path(f"{kind}_labels").is_file():
            for column in self._numbers(f"{kind}_labels", count).T:
                there, codes = np.unique(column, return_inverse=True)
                names.append(tuple(there.tolist()))
                columns.append(codes.astype(np.float64)[:, None])
        if self._path(f"{kind}_attributes").is_file():
            columns.append(self._numbers(f"{kind}_attributes", count))
        return np.concatenate(columns, axis=1) if columns else None, tuple(names), len(names)

    def _path(self, part: str) -> Path:
        return self.folder / f"{self.name}_{part}.txt"

    def _wrong(self, part: str, found: str) -> DataError:
        return DataError(f"TUDataset file {self._path(part)}", found, "unpack the archive anew")

    def _whole(self, part: str, columns: int) -> np.ndarray:
        found = self._numbers(part, None)
        if found.shape[1] != columns or (found != np.floor(found)).any() or np.abs(found).max(initial=0) > 2**52:
            raise self._wrong(part, f"other lines than {columns} whole numbers")
        return found.astype(np.int64)

    def _numbers(self, part: str, count: int | None) -> Float64[np.ndarray, "n c"]:
        path = self._path(part)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # of an empty file, which is looked at below
                found = np.loadtxt(path, delimiter=",", ndmin=2, comments=None, encoding="utf-8")
        except FileNotFoundError as error:
            raise self._wrong(part, "no such file") from error
        except (OSError, ValueError) as error:
            raise self._wrong(part, str(error)[:100]) from error
        if not np.isfinite(found).all():
            raise self._wrong(part, "numbers that are not finite")
        if count is None and not found.size and part == "A":
            return np.zeros((0, 2))
        if not found.size or (count is not None and len(found) != count):
            raise self._wrong(part, f"{len(found)} lines" + ("" if count is None else f" where {count} are needed"))
        return found


def _name(root: Path) -> str:
    """NAME of the only `NAME_A.txt`."""
    found = sorted(path.name.removesuffix("_A.txt") for path in root.glob("*_A.txt"))
    if len(found) != 1:
        what = f"{len(found)} files called NAME_A.txt" if root.is_dir() else "no such folder"
        raise DataError(f"a TUDataset folder at {root}", what, "give the folder that the archive of one set unpacks to")
    return found[0]
