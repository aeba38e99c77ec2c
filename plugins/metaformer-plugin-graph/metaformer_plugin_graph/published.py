"""Tensors of a published TokenGT → those of our tokenizer.

Source: the names in the code of TokenGT (arXiv 2207.02505), which Meta-Transformer's graph model keeps. There, all
categorical columns share one table: column c's value v is row 1 + 512 c + v, and row 0 is padding.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from metaformer.errors import WeightsError
from metaformer_plugin_graph.columns import Columns

STRIDE = 512
NAMES = {
    "graph_token.weight": "class_token",
    "null_token.weight": "null_token",
    "order_encoder.weight": "kind",
    "lap_encoder.weight": "ids.laplacian.weight",
    "orf_encoder.weight": "ids.orthonormal.weight",
}
TABLES = {"atom_encoder.weight": "nodes.table.weight", "edge_encoder.weight": "edges.table.weight"}


def translate(
    source: Mapping[str, Tensor], nodes: Columns, edges: Columns, own: Mapping[str, Tensor]
) -> Mapping[str, Tensor]:
    """Published tensors under our names, ours as they are; what we have no place for is left out."""
    if not any(key.endswith("graph_token.weight") for key in source):
        return source
    out: dict[str, Tensor] = {}
    for key, tensor in source.items():
        name = ".".join(key.split(".")[-2:])
        if NAMES.get(name) in own:
            out[NAMES[name]] = tensor
        elif TABLES.get(name) in own:
            out[TABLES[name]] = _table(tensor, nodes if name.startswith("atom") else edges, key)
    return out


def _table(shared: Tensor, columns: Columns, key: str) -> Tensor:
    """Our rows of the shared table; a missing value, which it does not know, adds nothing."""
    last = 1 + STRIDE * (len(columns.sizes) - 1) + columns.sizes[-1]
    if len(shared) < last or max(columns.sizes) > STRIDE:
        raise WeightsError(
            f"{key} for columns of {columns.sizes} categories",
            f"{len(shared)} rows",
            "name the categories of the source",
        )
    rows = []
    for column, size in enumerate(columns.sizes):
        start = 1 + STRIDE * column
        rows += [shared[start : start + size], torch.zeros_like(shared[:1])]
    return torch.cat(rows)
