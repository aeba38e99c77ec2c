"""One graph → tensors: features of nodes and edges, which nodes an edge joins, and identifiers of the nodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from metaformer.base import Preprocess
from metaformer.errors import DataError
from metaformer.types import Raw
from metaformer_plugin_graph.columns import Columns
from metaformer_plugin_graph.graph import Graph, Limits, as_graph, check_size
from metaformer_plugin_graph.spectrum import laplacian_ids, orthonormal_ids


@dataclass(frozen=True)
class Encoded:
    """A graph in numbers, every edge listed as often as it is one."""

    num_nodes: int
    ends: Int64[np.ndarray, "E 2"]
    node_codes: Int64[np.ndarray, "N c"]
    node_values: Float64[np.ndarray, "N k"]
    edge_codes: Int64[np.ndarray, "E d"]
    edge_values: Float64[np.ndarray, "E l"]


class GraphPreprocess(Preprocess):
    """A graph (see `as_graph`) → {node_mask [N], edge_mask [E], ends [E, 2]} and, of what the knobs ask for,
    {node_codes [N, c], node_values [N, k], edge_codes [E, c], edge_values [E, k], laplacian [N, l],
    orthonormal [N, o]}; values and identifiers are float64.

    In training the eigenvectors' signs are drawn, some eigenvectors are dropped, and random identifiers are new ones
    each time; in evaluation nothing is drawn, and random identifiers depend on the number of nodes alone.
    """

    reads_files: ClassVar[bool] = True

    def __init__(
        self,
        nodes: Columns,
        edges: Columns,
        limits: Limits,
        *,
        degree: int = 0,
        directed: bool = False,
        twice: bool = True,
        laplacian: int = 0,
        sign_flip: bool = True,
        eigenvector_dropout: float = 0.0,
        orthonormal: int = 0,
        prefix: bool = True,
    ) -> None:
        """`limits`: nodes and edges, an undirected edge counted once. `degree`: the highest degree with a number of
        its own, 0 for none. `twice`: an undirected edge becomes one token for each direction. `prefix`: whether there
        is a token before the nodes: without, a graph must have one."""
        self.nodes, self.edges, self.limits, self.degree = nodes, edges, limits, degree
        self.directed, self.twice = directed, twice and not directed
        self.laplacian, self.sign_flip, self.eigenvector_dropout = laplacian, sign_flip, eigenvector_dropout
        self.orthonormal, self.prefix = orthonormal, prefix

    def __call__(self, value: Any, train: bool) -> Raw:
        graph = self.read(value)
        ends, codes, values = graph.ends, graph.edge_codes, graph.edge_values
        if self.twice:
            ends, order = both_directions(ends)
            codes, values = codes[order], values[order]
        raw = self._raw(graph.num_nodes, len(ends))
        raw["ends"] = torch.from_numpy(ends)
        found = {"edge_codes": codes, "edge_values": values, "node_values": graph.node_values}
        found["node_codes"] = graph.node_codes
        if self.degree:
            # Both ends of a loop count, as in networkx.
            degree = np.bincount(graph.ends.reshape(-1), minlength=graph.num_nodes).clip(max=self.degree)
            found["node_codes"] = np.concatenate([graph.node_codes, degree[:, None] + self.nodes.width], axis=1)
        if self.laplacian:
            raw["laplacian"] = self._laplacian(graph, train)
        if self.orthonormal:
            generator = None if train else torch.Generator().manual_seed(0)
            raw["orthonormal"] = torch.from_numpy(orthonormal_ids(graph.num_nodes, self.orthonormal, generator))
        return {key: torch.from_numpy(found[key]) if key in found else tensor for key, tensor in raw.items()}

    def read(self, value: Any) -> Encoded:
        """The graph in numbers. Raises DataError."""
        listed = as_graph(value, self.limits if self.directed else Limits(self.limits.nodes, 2 * self.limits.edges))
        if not listed.num_nodes and not self.prefix:
            raise DataError("a graph with a node in it", "an empty one", "leave it out, or set class_token: true")
        node_codes, node_values = self.nodes.encode(listed.nodes, listed.num_nodes)
        edge_codes, edge_values = self.edges.encode(listed.edges, len(listed.ends))
        ends, kept = self._directions(listed, edge_codes, edge_values)
        check_size(0, len(ends), self.limits)
        return Encoded(listed.num_nodes, ends, node_codes, node_values, edge_codes[kept], edge_values[kept])

    def _directions(
        self, graph: Graph, codes: Int64[np.ndarray, "E c"], values: Float64[np.ndarray, "E k"]
    ) -> tuple[Int64[np.ndarray, "F 2"], Int64[np.ndarray, " F"]]:
        """The edges as they count, and which of the listed ones they are."""
        if self.directed:
            return both_directions(graph.ends) if graph.undirected else (graph.ends, np.arange(len(graph.ends)))
        if graph.undirected:
            return graph.ends, np.arange(len(graph.ends))
        kept: list[int] = []
        open_: dict[tuple[int, int, bytes, bytes], int] = {}
        # An edge is the way back of an earlier one with equal features, which has none yet: then they are one edge.
        for i, (u, v) in enumerate(graph.ends.tolist()):
            features = (codes[i].tobytes(), values[i].tobytes())
            if u != v and open_.get((v, u, *features), 0):
                open_[v, u, *features] -= 1
                continue
            kept.append(i)
            open_[u, v, *features] = open_.get((u, v, *features), 0) + 1
        order = np.array(kept, dtype=np.int64)
        return graph.ends[order], order

    def _laplacian(self, graph: Encoded, train: bool) -> Float64[Tensor, "N k"]:
        ids = torch.from_numpy(laplacian_ids(graph.ends, graph.num_nodes, self.laplacian))
        if train and self.sign_flip:
            ids = ids * (2 * torch.randint(0, 2, (self.laplacian,)) - 1)
        if train and self.eigenvector_dropout:
            keep = torch.rand(self.laplacian) >= self.eigenvector_dropout
            ids = ids * keep / (1 - self.eigenvector_dropout)
        return ids

    def collate(self, samples: Sequence[Raw]) -> Raw:
        """Beside the padded tensors, the tokens' `mask` [B, T], and their `order` [B, T]: where a token's node or edge
        is, all nodes of the batch's longest counted first. With it, padding is at the end of a row only."""
        raw = dict(super().collate(samples))
        there = torch.cat([raw["node_mask"], raw["edge_mask"]], dim=1)
        count = there.sum(dim=1, keepdim=True)
        longest = int(count.max())
        raw["order"] = torch.argsort((~there).byte(), dim=1, stable=True)[:, :longest]
        raw["mask"] = torch.arange(longest) < count
        return raw

    def blank(self) -> Raw:
        return self._raw(1, 0)

    def example(self) -> Raw:
        edges = self.limits.edges if self.limits.nodes else 0
        return self._raw(self.limits.nodes, 2 * edges if self.twice else edges)

    def _raw(self, nodes: int, edges: int) -> Raw:
        """So many nodes and edges, all alike."""
        codes = len(self.nodes.sizes) + (self.degree > 0)
        raw = {
            "node_mask": torch.ones(nodes, dtype=torch.bool),
            "edge_mask": torch.ones(edges, dtype=torch.bool),
            "ends": torch.zeros(edges, 2, dtype=torch.int64),
            "node_codes": torch.zeros(nodes, codes, dtype=torch.int64),
            "node_values": torch.zeros(nodes, self.nodes.numeric, dtype=torch.float64),
            "edge_codes": torch.zeros(edges, len(self.edges.sizes), dtype=torch.int64),
            "edge_values": torch.zeros(edges, self.edges.numeric, dtype=torch.float64),
            "laplacian": torch.zeros(nodes, self.laplacian, dtype=torch.float64),
            "orthonormal": torch.zeros(nodes, self.orthonormal, dtype=torch.float64),
        }
        return {key: tensor for key, tensor in raw.items() if tensor.dim() == 1 or tensor.shape[-1]}


def both_directions(ends: Int64[np.ndarray, "E 2"]) -> tuple[Int64[np.ndarray, "F 2"], Int64[np.ndarray, " F"]]:
    """Behind every edge its way back, and which edges these are; loops stay single."""
    order = np.repeat(np.arange(len(ends)), np.where(ends[:, 0] == ends[:, 1], 1, 2))
    back = np.concatenate([[False], order[1:] == order[:-1]])[: len(order)]
    return np.where(back[:, None], ends[order][:, ::-1], ends[order]), order
