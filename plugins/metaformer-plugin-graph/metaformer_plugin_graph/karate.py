"""Zachary's karate club: one graph of 34 members, and for each the side taken when the club split.

Source: Zachary, An information flow model for conflict and fission in small groups (Journal of Anthropological
Research 33, 1977), as shipped by networkx (BSD-3-Clause).
"""

from __future__ import annotations

import hashlib
from typing import Literal

import numpy as np

from metaformer.base import Dataset
from metaformer.types import IGNORE, Sample
from metaformer_plugin_graph.atlas import import_networkx

SIDES = ("Mr. Hi", "Officer")
"""Class 0 and class 1. Not announced as `classes`, because the other split's nodes have index -100."""


class KarateDataset(Dataset):
    """One sample, {`stream`: {num_nodes: 34, edge_index [2, 78], edge_attr [78, 1]}, `target`: a class for each node}.

    For `{use: token_classification, num_classes: 2}`: the nodes are the first tokens, edges have no class. The edge
    feature counts the contexts in which two members met (`edge_numeric: 1`, or leave it out).

    Split: both splits are the one graph, as is usual for classes of nodes; `train` has the classes of the first
    `labelled` members of each side, counted from its leader, and `valid` those of all others. No class is in both.
    What it is not: a measure. It has 34 nodes, and two of them settle nearly all the others.
    """

    def __init__(
        self,
        *,
        split: Literal["train", "valid"],
        labelled: Literal[1, 2, 4, 8] = 4,
        stream: str = "graph",
        target: str = "side",
    ) -> None:
        graph = import_networkx().karate_club_graph()
        self.stream, self.target = stream, target
        edges = list(graph.edges(data="weight", default=1))
        self.ends = np.array([(u, v) for u, v, _ in edges], dtype=np.int64)
        self.weights = np.array([[weight] for *_, weight in edges], dtype=np.float64)
        sides = np.array([SIDES.index(graph.nodes[node]["club"]) for node in graph])
        # The instructor is member 0, the officer the last: leaders first.
        known = [*np.flatnonzero(sides == 0)[:labelled], *np.flatnonzero(sides == 1)[::-1][:labelled]]
        shown = np.isin(np.arange(len(sides)), known) == (split == "train")
        self.sides = np.where(shown, sides, IGNORE)

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> Sample:
        if index not in (0, -1):
            raise IndexError(index)
        graph = {"num_nodes": len(self.sides), "edge_index": self.ends.T.copy(), "edge_attr": self.weights.copy()}
        return {self.stream: graph, self.target: self.sides.tolist()}

    def sample_id(self, index: int) -> str:
        return "karate"

    def fingerprint(self) -> str:
        text = repr((self.ends.tolist(), self.weights.tolist(), self.sides.tolist()))
        return f"karate:{hashlib.sha256(text.encode()).hexdigest()}"
