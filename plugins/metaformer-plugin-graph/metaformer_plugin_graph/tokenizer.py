"""Graph tokenizer: every node and every edge is a token, told which nodes it is about by their identifiers.

Source: TokenGT (arXiv 2207.02505), as Meta-Transformer (arXiv 2307.10802) uses it for molecules.
Ours differs: every graph is a row of the batch, so that none attends to another; numbers as features, with vectors
for missing ones; an undirected edge may be one token instead of two; loops are edges and not nodes; whole
eigenvectors are dropped, where the released code drops their entries. The README has the list.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

import torch
from jaxtyping import Float, Int64
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from metaformer.base import Tokenizer
from metaformer.errors import DataError, MetaformerError
from metaformer.layers.init import init_transformer, width_std
from metaformer.types import Raw, TokenBatch
from metaformer_plugin_graph.columns import Category, Columns
from metaformer_plugin_graph.features import Features
from metaformer_plugin_graph.graph import Limits
from metaformer_plugin_graph.preprocess import GraphPreprocess
from metaformer_plugin_graph.published import translate

MAX_DEGREE = 32
"""Degrees with a vector of their own, where nodes have no features and the recipe does not say."""
EDGE, NODE = 0, 1
"""Rows of the type embedding, in the order of the published one."""

Count = Annotated[int, Field(ge=0)]
Size = Annotated[int, Field(gt=0)]


class GraphTokenizer(Tokenizer):
    """{ends [B E 2], order [B T], mask [B T], ...} → tokens [B T D]: the graph token, a null token, then
    the nodes in their order, then the edges in theirs (each with its way back, where edges are two tokens)."""

    fits: ClassVar[bool] = True
    preprocess: GraphPreprocess
    class_token: Float[Tensor, "1 D"] | None
    null_token: Float[Tensor, "1 D"] | None
    kind: Float[Tensor, "2 D"] | None

    def __init__(
        self,
        dim: int,
        *,
        max_nodes: Size = 128,
        max_edges: Count = 256,
        directed: bool = False,
        edge_tokens: Literal["both", "single"] = "both",
        node_categorical: tuple[Size | tuple[str, ...], ...] = (),
        node_numeric: Count = 0,
        node_columns: tuple[str, ...] = (),
        edge_categorical: tuple[Size | tuple[str, ...], ...] = (),
        edge_numeric: Count = 0,
        edge_columns: tuple[str, ...] = (),
        degree: Count | None = None,
        normalize: Literal["dataset", "none"] = "dataset",
        laplacian: Count = 16,
        sign_flip: bool = True,
        eigenvector_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0,
        orthonormal: Count = 0,
        type_embedding: bool = True,
        class_token: bool = True,
        null_token: bool = False,
    ) -> None:
        super().__init__()
        nodes = Columns("node", _categories(node_categorical), node_numeric, node_columns)
        edges = Columns("edge", _categories(edge_categorical), edge_numeric, edge_columns)
        degree = (0 if nodes.count else MAX_DEGREE) if degree is None else degree
        # A parameter that no graph could ever reach hangs some engines.
        if not (degree or nodes.count or type_embedding or laplacian or orthonormal):
            raise MetaformerError("tokens of a graph", "nothing to make them of", "leave type_embedding on")
        self.directed, self.single = directed, edge_tokens == "single" and not directed
        self.preprocess = GraphPreprocess(
            nodes,
            edges,
            Limits(max_nodes, max_edges),
            degree=degree,
            directed=directed,
            twice=not self.single,
            laplacian=laplacian,
            sign_flip=sign_flip,
            eigenvector_dropout=eigenvector_dropout,
            orthonormal=orthonormal,
            prefix=class_token or null_token,
        )
        self.dim, self.normalize = dim, normalize
        self.nodes = Features(dim, nodes.width + (degree + 1 if degree else 0), node_numeric)
        self.edges = Features(dim, edges.width, edge_numeric)
        ids = {"laplacian": laplacian, "orthonormal": orthonormal}
        self.sizes = {name: k for name, k in ids.items() if k}
        self.ids = nn.ModuleDict({name: nn.Linear(2 * k, dim, bias=False) for name, k in self.sizes.items()})
        init_transformer(self, width_std(dim))
        own = {"kind": 2 * type_embedding, "class_token": int(class_token), "null_token": int(null_token)}
        for name, rows in own.items():
            self.register_parameter(name, nn.Parameter(torch.randn(rows, dim) * width_std(dim)) if rows else None)
        self.num_prefix = int(class_token) + int(null_token)
        self.num_contents = self.nodes.num_contents + self.edges.num_contents

    def forward(self, raw: Raw) -> TokenBatch:
        nodes = self._contents(self.nodes, raw, "node", NODE)
        edges = self._contents(self.edges, raw, "edge", EDGE)
        x = take(torch.cat([nodes, edges], dim=1), raw["order"])
        positions = self._positions(raw, x.dtype)
        if positions is not None:
            positions = take(positions, raw["order"])
            x = x + positions
            positions = F.pad(positions, (0, 0, self.num_prefix, 0))
        prefix = [token for token in (self.class_token, self.null_token) if token is not None]
        x = torch.cat([*(token.expand(len(x), 1, -1).to(x.dtype) for token in prefix), x], dim=1)
        mask = F.pad(raw["mask"], (self.num_prefix, 0), value=True)
        return TokenBatch(x, mask, self.modality, num_prefix=self.num_prefix, positions=positions)

    def _contents(self, features: Features, raw: Raw, name: str, kind: int) -> Float[Tensor, "B n D"]:
        mask = raw[f"{name}_mask"]
        dtype = next(self.parameters()).dtype
        x: Tensor = features(mask, raw.get(f"{name}_codes"), raw.get(f"{name}_values"), dtype)
        if self.kind is not None:
            x = x + self.kind[kind]
        return x

    def _positions(self, raw: Raw, dtype: torch.dtype) -> Float[Tensor, "B T D"] | None:
        """What the identifiers of a token's two nodes add: both are a node's own for the node itself."""
        total = None
        for name, project in self.ids.items():
            ids = raw[name].to(next(project.parameters()).dtype)
            begin, end = (take(ids, raw["ends"][..., side]) for side in (0, 1))
            if self.single:
                # An edge without direction must not depend on the end that was named first.
                begin = end = (begin + end) / 2
            pairs = torch.cat([torch.cat([ids, ids], dim=-1), torch.cat([begin, end], dim=-1)], dim=1)
            added = project(pairs).to(dtype)
            total = added if total is None else total + added
        return total

    def contents(self, raw: Raw) -> Float[Tensor, "B P E"]:
        """What a node is made of, then what an edge is: ones at its categories, then its numbers on a unit scale. An
        edge has zeros at the node's places, and a node at the edge's."""
        nodes = self.nodes.contents(raw["node_mask"], raw.get("node_codes"), raw.get("node_values"))
        edges = self.edges.contents(raw["edge_mask"], raw.get("edge_codes"), raw.get("edge_values"))
        both = torch.cat([F.pad(nodes, (0, edges.shape[-1])), F.pad(edges, (nodes.shape[-1], 0))], dim=1)
        return take(both, raw["order"])

    def fit(self, values: Iterable[Any]) -> None:
        """Mean and deviation of the numeric features over the training set, for `normalize: dataset`.

        Missing and unusable graphs are left out: the loader meets the latter again, and there the recipe's
        policy for bad samples holds. Raises DataError where none is left."""
        parts = [part for part in (self.nodes, self.edges) if part.numeric]
        if self.normalize != "dataset" or not parts:
            return
        self.nodes.begin()
        self.edges.begin()
        graphs = 0
        for node_values, edge_values in self._usable(values):
            self.nodes.observe(node_values)
            self.edges.observe(edge_values)
            graphs += 1
        if not graphs:
            raise DataError("graphs to fit the normalisation on", "none that can be used")
        self.nodes.end()
        self.edges.end()

    def _usable(self, values: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
        for value in values:
            if value is None:
                continue
            try:
                graph = self.preprocess.read(value)
            except DataError:
                continue
            yield graph.node_values, graph.edge_values

    def translate(self, source: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Of a published TokenGT, or of Meta-Transformer's graph model, or our own names."""
        pre = self.preprocess
        return translate(source, pre.nodes, pre.edges, self.state_dict())

    def describe(self) -> str:
        pre = self.preprocess
        most = self.num_prefix + pre.limits.nodes + pre.limits.edges * (2 if pre.twice else 1)
        ids = [f"{size} {name}" for name, size in self.sizes.items()]
        kind = "directed" if self.directed else "undirected"
        return (
            f"graph: {kind}, at most {pre.limits.nodes} nodes and {pre.limits.edges} edges = {most} tokens,"
            f" {' and '.join(ids) or 'no'} identifiers"
        )


def take(rows: Float[Tensor, "B n k"], index: Int64[Tensor, "B m"]) -> Float[Tensor, "B m k"]:
    """Of each sample the rows at `index`."""
    return rows.gather(1, index.unsqueeze(-1).expand(-1, -1, rows.shape[-1]))


def _categories(given: tuple[int | tuple[str, ...], ...]) -> tuple[Category, ...]:
    return tuple(one if isinstance(one, int) else tuple(one) for one in given)
