"""What counts as a graph in memory, which features it has, and what is refused."""

from __future__ import annotations

from typing import Any

import networkx as nx
import numpy as np
import pytest
import torch
from metaformer_plugin_graph.columns import Columns
from metaformer_plugin_graph.graph import Graph, Limits, as_graph
from metaformer_plugin_graph.preprocess import GraphPreprocess

from metaformer.errors import DataError

LIMITS = Limits(10, 20)


def pre(directed: bool = False, **columns: Any) -> GraphPreprocess:
    nodes = Columns("node", columns.get("nodes", ()), columns.get("numbers", 0), columns.get("names", ()))
    edges = Columns("edge", columns.get("edges", ()), columns.get("lengths", 0), columns.get("edge_names", ()))
    return GraphPreprocess(nodes, edges, Limits(10, 20), directed=directed)


def test_arrays_go_by_three_sets_of_names() -> None:
    ends = [[0, 1], [1, 2]]
    for node, edge in (("x", "edge_attr"), ("node_feat", "edge_feat"), ("node_features", "edge_features")):
        graph = as_graph({"edge_index": ends, node: [[1.0], [2.0], [None]], edge: [[3], [4]]}, LIMITS)
        assert graph.num_nodes == 3
        assert graph.ends.tolist() == [[0, 1], [1, 2]]
        np.testing.assert_array_equal(np.asarray(graph.nodes), [[1], [2], [np.nan]])
        np.testing.assert_array_equal(np.asarray(graph.edges), [[3], [4]])
    assert as_graph({"edge_index": torch.tensor(ends)}, LIMITS).num_nodes == 3
    assert as_graph({"num_nodes": 2}, LIMITS).ends.shape == (0, 2)
    # One column may come without its axis.
    assert as_graph({"x": [1, 2, 3]}, LIMITS).nodes is not None
    assert np.asarray(as_graph({"x": [1, 2, 3]}, LIMITS).nodes).shape == (3, 1)


def test_networkx_graphs_of_all_four_kinds() -> None:
    graph = nx.Graph()
    graph.add_node("a", kind="C", size=1.5)
    graph.add_edge("b", "a", bond="single")
    graph.add_node("c", kind="N")
    found = pre(
        nodes=(("C", "N"),), numbers=1, names=("kind", "size"), edges=(("single",),), edge_names=("bond",)
    ).read(graph)
    assert found.ends.tolist() == [[0, 1]]  # networkx lists an edge from the node that came first
    assert found.node_codes[:, 0].tolist() == [0, 2, 1]
    np.testing.assert_array_equal(found.node_values[:, 0], [1.5, np.nan, np.nan])
    assert found.edge_codes.tolist() == [[0]]
    assert len(pre().read(nx.MultiGraph([(0, 1), (0, 1), (1, 0)])).ends) == 3
    assert len(pre().read(nx.DiGraph([(0, 1), (1, 0), (1, 2)])).ends) == 2
    assert len(pre(directed=True).read(nx.DiGraph([(0, 1), (1, 0), (1, 2)])).ends) == 3
    assert len(pre(directed=True).read(nx.Graph([(0, 1), (1, 1)])).ends) == 3
    assert len(pre(directed=True).read(nx.MultiDiGraph([(0, 1), (0, 1)])).ends) == 2


class Data:
    """As much of torch_geometric's `Data` as counts."""

    def __init__(self, **parts: Any) -> None:
        self.x = self.edge_attr = self.batch = None
        self.num_nodes = 3
        vars(self).update(parts)


def test_objects_with_the_attributes_of_torch_geometric() -> None:
    index = torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]])
    found = pre(numbers=2).read(Data(edge_index=index, x=torch.ones(3, 2)))
    assert found.ends.tolist() == [[0, 1], [1, 2]]
    with pytest.raises(DataError, match="to_data_list"):
        pre().read(Data(edge_index=index, batch=torch.tensor([0, 0, 1])))


def test_torch_geometrics_own_data() -> None:
    data = pytest.importorskip("torch_geometric.data")
    index = torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]])
    one = data.Data(x=torch.ones(3, 2), edge_index=index, edge_attr=torch.tensor([[1.0], [1.0], [2.0], [2.0]]))
    found = pre(numbers=2, lengths=1).read(one)
    assert found.ends.tolist() == [[0, 1], [1, 2]]
    assert found.edge_values.tolist() == [[1.0], [2.0]]
    with pytest.raises(DataError):
        pre().read(data.Batch.from_data_list([one, one]))


def test_node_link_mappings() -> None:
    link = {"nodes": [{"id": "a", "w": 1}, {"id": 7}], "links": [{"source": 7, "target": "a"}]}
    found = pre(numbers=1, names=("w",)).read(link)
    assert found.ends.tolist() == [[1, 0]]
    np.testing.assert_array_equal(found.node_values, [[1], [np.nan]])
    graph = nx.karate_club_graph()
    mine, theirs = as_graph(nx.node_link_data(graph), Limits(50, 100)), as_graph(graph, Limits(50, 100))
    np.testing.assert_array_equal(mine.ends, theirs.ends)
    assert mine.undirected


HUGE = 10**15
REFUSED: list[Any] = [
    {"num_nodes": HUGE},
    {"num_nodes": HUGE, "edge_index": [[0], [HUGE - 1]]},
    {"num_nodes": True},
    {"num_nodes": 1.5},
    {"num_nodes": 3, "x": [[1], [2]]},
    {"num_nodes": 2, "edge_index": [[0], [2]]},
    {"num_nodes": 2, "edge_index": [[-1], [0]]},
    {"num_nodes": 2, "edge_index": [[0.5], [0]]},
    {"num_nodes": 2, "edge_index": [[np.nan], [0]]},
    {"num_nodes": 2, "edge_index": [[0, 1]]},
    {"num_nodes": 2, "edge_index": [[0], [1, 0]]},
    {"num_nodes": 2, "edge_index": np.zeros((2, 41), int)},
    {"num_nodes": 2, "edge_index": np.array([["a"], ["b"]])},
    {"num_nodes": 2, "edge_index": "0 1"},
    {"edge_index": [[], []]},
    {"edge_index": [[0], [1]], "edge_attr": [[1], [2], [3]]},
    {"x": 5},
    {"x": [[[1]]]},
    {"x": "abc"},
    {"nodes": [1, 2]},
    {"nodes": [{"id": 1}, {"id": 1}]},
    {"nodes": [{"id": [1]}]},
    {"nodes": [{}]},
    {"nodes": [{"id": 1}], "edges": [{"source": 1, "target": 2}]},
    {"nodes": [{"id": i} for i in range(11)]},
    nx.path_graph(11),
    nx.complete_graph(10),
    {},
    "a graph",
    b"graph",
    3.5,
    None,
    [],
    {1, 2},
    object(),
]


@pytest.mark.parametrize("value", REFUSED, ids=[f"{i}-{type(value).__name__}" for i, value in enumerate(REFUSED)])
def test_what_is_no_graph_is_refused(value: Any) -> None:
    with pytest.raises(DataError) as raised:
        pre().read(value)
    assert raised.value.found
    assert raised.value.do


@pytest.mark.parametrize(
    ("columns", "rows", "says"),
    [
        ({"nodes": (2,)}, [[2.0]], "raise its size"),
        ({"nodes": (2,)}, [[-1.0]], "raise its size"),
        ({"nodes": (2,)}, [[0.5]], "raise its size"),
        ({"nodes": (2,)}, [[0, 1]], "node_numeric"),
        ({"nodes": (2,)}, None, "none"),
        ({"numbers": 1}, [[np.inf]], "NaN is missing"),
        ({"numbers": 1}, [[1e31]], "NaN is missing"),
        ({"numbers": 1}, [{"a": 1}], "node_columns"),
        ({"numbers": 1, "names": ("b",)}, [{"a": 1}], "node_columns"),
        ({"numbers": 1, "names": ("a",)}, [{"a": "tall"}], "repair"),
        ({"nodes": (3,), "names": ("a",)}, [{"a": "tall"}], "names of its values"),
    ],
)
def test_features_that_do_not_fit_say_which_knob_does(columns: dict[str, Any], rows: Any, says: str) -> None:
    nodes = pre(**columns).nodes
    with pytest.raises(DataError, match=says):
        nodes.encode(np.array(rows, dtype=float) if rows and not isinstance(rows[0], dict) else rows, 1)


def test_categories_are_rows_behind_one_another_with_one_for_the_missing() -> None:
    nodes = Columns("node", (3, ("a", "b")), 1, ("n", "l", "w"))
    rows = [{"n": "2", "l": "b", "w": "1.5"}, {"n": None, "l": "zzz", "w": "?"}, {"n": 0.0, "l": "a"}]
    codes, values = nodes.encode(rows, 3)
    assert codes.tolist() == [[2, 5], [3, 6], [0, 4]]
    np.testing.assert_array_equal(values[:, 0], [1.5, np.nan, np.nan])
    assert nodes.width == 7
    again, _ = nodes.encode(np.array([[2, 1, 0], [np.nan, np.nan, 0]]), 2)
    assert again.tolist() == [[2, 5], [3, 6]]


def test_an_undirected_graph_from_both_ways_is_that_from_one() -> None:
    once = np.array([[0, 1, 2, 2], [1, 2, 0, 2]])
    twice = np.concatenate([once, once[::-1][:, :3]], axis=1)
    assert pre().read({"edge_index": once}).ends.tolist() == pre().read({"edge_index": twice}).ends.tolist()
    assert isinstance(as_graph({"edge_index": twice}, LIMITS), Graph)
