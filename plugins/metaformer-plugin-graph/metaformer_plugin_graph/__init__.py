"""Graphs as a modality: the hooks."""

from __future__ import annotations

from collections.abc import Iterable

from metaformer import Component, hookimpl

METAFORMER_API = "1.0"


@hookimpl
def register_tokenizers() -> Iterable[Component]:
    return [
        Component("graph", "metaformer_plugin_graph.tokenizer:GraphTokenizer", "Graphs: nodes and edges are tokens.")
    ]


@hookimpl
def register_datasets() -> Iterable[Component]:
    package = "metaformer_plugin_graph"
    return [
        Component("graph_atlas", f"{package}.atlas:AtlasDataset", "All graphs of up to seven nodes, out of networkx."),
        Component("karate", f"{package}.karate:KarateDataset", "Zachary's karate club: a side for every node."),
        Component("pcqm4m", f"{package}.pcqm:PcqmDataset", "PCQM4Mv2 molecules in OGB's layout."),
        Component("tu_dataset", f"{package}.tudataset:TuDataset", "A graph data set in the TUDataset text layout."),
    ]
