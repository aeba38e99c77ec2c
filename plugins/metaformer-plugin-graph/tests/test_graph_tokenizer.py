"""The graph tokenizer: its tokens by hand, graphs that do not see one another, and the order of nodes that is none."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from metaformer_plugin_graph.spectrum import laplacian_ids, orthonormal_ids
from metaformer_plugin_graph.tokenizer import GraphTokenizer

from metaformer.base import masked_mean
from metaformer.encoders.transformer import TransformerEncoder
from metaformer.errors import DataError, MetaformerError, WeightsError
from metaformer.types import TokenBatch

# Found by search: no two eigenvalues coincide, and no eigenvector has two entries of the largest size.
ENDS = [(1, 6), (2, 3), (0, 4), (3, 4), (3, 6), (3, 5), (5, 6), (0, 3), (4, 5)]
GRAPH = {"num_nodes": 7, "edge_index": np.array(ENDS).T}
FEATURES: dict[str, Any] = {"node_categorical": (5, 3), "node_numeric": 2, "edge_categorical": (4,), "edge_numeric": 1}


def rich(seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    x = np.concatenate([rng.integers(0, [5, 3], (7, 2)), rng.normal(3, 2, (7, 2))], axis=1)
    x[2, 1] = x[4, 3] = np.nan
    edges = np.concatenate([rng.integers(0, 4, (9, 1)), rng.normal(size=(9, 1))], axis=1)
    return {**GRAPH, "x": x, "edge_attr": edges}


def build(**knobs: Any) -> GraphTokenizer:
    torch.manual_seed(0)
    return GraphTokenizer(16, **{"max_nodes": 12, "max_edges": 20, "laplacian": 7, **knobs}).eval()


def run(tokenizer: GraphTokenizer, *values: Any, train: bool = False) -> TokenBatch:
    pre = tokenizer.preprocess
    tokens: TokenBatch = tokenizer(pre.collate([pre(value, train) for value in values]))
    return tokens


def renamed(graph: dict[str, Any], order: np.ndarray) -> dict[str, Any]:
    """The same graph, node i being called order[i]; its edges in another order too."""
    shuffle = np.random.default_rng(1).permutation(graph["edge_index"].shape[1])
    out = {"num_nodes": graph["num_nodes"], "edge_index": order[graph["edge_index"]][:, shuffle]}
    if "x" in graph:
        out["x"] = graph["x"][np.argsort(order)]
        out["edge_attr"] = graph["edge_attr"][shuffle]
    return out


@pytest.mark.parametrize("knobs", [{}, {"edge_tokens": "single"}, {"directed": True}], ids=str)
def test_tokens_are_those_of_a_dense_computation(knobs: dict[str, Any]) -> None:
    tokenizer = build(**FEATURES, **knobs, orthonormal=9, null_token=True, degree=2)
    tokenizer.fit([rich(0), rich(1)])
    tokenizer = tokenizer.double()
    graph = rich()
    found = run(tokenizer, graph)
    w = {name: tensor.numpy() for name, tensor in tokenizer.state_dict().items()}
    # Adjacency, degrees and identifiers, densely.
    adjacency = np.zeros((7, 7))
    for u, v in ENDS:
        adjacency[u, v] = adjacency[v, u] = 1
    root = np.diag(adjacency.sum(0) ** -0.5)
    _, vectors = np.linalg.eigh(np.eye(7) - root @ adjacency @ root)
    vectors = vectors * np.sign(vectors[np.abs(vectors).argmax(0), np.arange(7)])
    ids = [("laplacian", vectors), ("orthonormal", orthonormal_ids(7, 9, torch.Generator().manual_seed(0)))]

    def identify(u: int, v: int) -> np.ndarray:
        total = np.zeros(16)
        for name, p in ids:
            pair = [(p[u] + p[v]) / 2] * 2 if knobs.get("edge_tokens") else [p[u], p[v]]
            total += w[f"ids.{name}.weight"] @ np.concatenate(pair)
        return total

    def numbers(values: np.ndarray, of: str) -> np.ndarray:
        unit = np.nan_to_num((values - w[f"{of}.mean"]) / w[f"{of}.std"])
        return w[f"{of}.linear.weight"] @ unit + w[f"{of}.missing.weight"] @ np.isnan(values)

    expected = [w["class_token"][0], w["null_token"][0]]
    for i in range(7):
        a, b = (5 if np.isnan(graph["x"][i, 0]) else int(graph["x"][i, 0])), graph["x"][i, 1]
        table = w["nodes.table.weight"]
        token = table[a] + table[6 + (3 if np.isnan(b) else int(b))] + table[10 + min(int(adjacency[i].sum()), 2)]
        expected.append(token + numbers(graph["x"][i, 2:], "nodes") + w["kind"][1] + identify(i, i))
    for (u, v), row in zip(ENDS, graph["edge_attr"], strict=True):
        token = w["edges.table.weight"][int(row[0])] + numbers(row[1:], "edges") + w["kind"][0]
        ways = [(u, v), (v, u)] if not knobs else [(u, v)]
        expected += [token + identify(*way) for way in ways]
    assert found.mask.all()
    np.testing.assert_allclose(found.x[0].detach().numpy(), np.stack(expected), atol=1e-10, rtol=0)
    single = run(tokenizer.float(), graph)
    np.testing.assert_allclose(single.x[0].detach().numpy(), np.stack(expected), atol=1e-6, rtol=0)


@pytest.mark.parametrize("edge_tokens", ["both", "single"])
def test_a_graphs_output_is_the_same_alone_and_beside_others(edge_tokens: str) -> None:
    tokenizer = build(**FEATURES, edge_tokens=edge_tokens, orthonormal=4)
    encoder = TransformerEncoder(dim=16, depth=3, num_heads=4).eval()
    others = [{"num_nodes": 0}, {"x": rich()["x"][:1]}, rich(3), {**rich(4), "num_nodes": 7}]
    alone = encoder(run(tokenizer, rich()))
    together = encoder(run(tokenizer, others[0], rich(), *others[1:]))
    torch.testing.assert_close(together.x[1][together.mask[1]], alone.x[0], atol=1e-5, rtol=1e-5)
    # Whatever else is in the batch: other graphs in the other rows change no bit.
    changed = encoder(run(tokenizer, {"num_nodes": 0}, rich(), others[1], rich(8), rich(9)))
    assert torch.equal(changed.x[1], together.x[1])


@pytest.mark.parametrize("knobs", [{"laplacian": 0}, {}, {"edge_tokens": "single"}], ids=str)
def test_the_readout_knows_no_order_of_nodes(knobs: dict[str, Any]) -> None:
    tokenizer = build(**FEATURES, **knobs)
    encoder = TransformerEncoder(dim=16, depth=3, num_heads=4).eval()
    order = np.random.default_rng(5).permutation(7)
    one, two = (encoder(run(tokenizer, graph)) for graph in (rich(), renamed(rich(), order)))
    torch.testing.assert_close(one.x[:, 0], two.x[:, 0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(masked_mean(one.x, one.mask), masked_mean(two.x, two.mask), atol=1e-5, rtol=1e-5)
    # Nodes take their tokens along.
    torch.testing.assert_close(one.x[0, 1:8], two.x[0, 1:8][torch.from_numpy(order)], atol=1e-5, rtol=1e-5)


def test_an_undirected_edge_is_the_same_from_either_end() -> None:
    back = {**GRAPH, "edge_index": GRAPH["edge_index"][::-1].copy()}
    single = build(edge_tokens="single")
    assert torch.equal(run(single, GRAPH).x, run(single, back).x)
    both = build()
    one, two = run(both, GRAPH).x[0, 8:], run(both, back).x[0, 8:]
    torch.testing.assert_close(one.unflatten(0, (9, 2)).flip(1), two.unflatten(0, (9, 2)))
    directed = build(directed=True)
    assert not torch.allclose(run(directed, GRAPH).x, run(directed, back).x)


@pytest.mark.parametrize(
    ("graph", "nodes", "edges"),
    [
        ({"num_nodes": 0}, 0, 0),
        ({"num_nodes": 1}, 1, 0),
        ({"num_nodes": 1, "edge_index": [[0], [0]]}, 1, 1),
        ({"num_nodes": 4, "edge_index": [[0], [1]]}, 4, 2),
        ({"num_nodes": 2, "edge_index": [[0, 0, 0], [1, 1, 1]]}, 2, 6),
        ({"num_nodes": 2, "edge_index": [[0, 1], [1, 0]]}, 2, 2),
        ({"num_nodes": 2, "edge_index": [[0, 1, 0], [1, 0, 1]]}, 2, 4),
        ({"num_nodes": 2, "edge_index": [[0, 1, 1], [1, 0, 1]]}, 2, 3),
    ],
    ids=["empty", "one", "loop", "isolated", "parallel", "both ways", "parallel and back", "loop beside"],
)
def test_odd_graphs_have_the_tokens_they_should(graph: dict[str, Any], nodes: int, edges: int) -> None:
    tokenizer = build(orthonormal=3)
    tokens = run(tokenizer, graph, GRAPH)
    assert tokens.x.isfinite().all()
    assert tokens.mask[0].sum() == 1 + nodes + edges
    raw = tokenizer.preprocess(graph, False)
    assert len(raw["node_mask"]) == nodes
    degree = raw["node_codes"][:, -1]
    ends = np.array(graph.get("edge_index", [[], []]))
    assert degree.sum() == edges + (ends[0] == ends[1]).sum()
    encoded = TransformerEncoder(dim=16, depth=2, num_heads=4).eval()(run(tokenizer, graph))
    assert encoded.x.isfinite().all()


def test_a_loop_is_an_edge_and_no_node() -> None:
    tokenizer = build(degree=0)
    x = run(tokenizer, {"num_nodes": 1, "edge_index": [[0], [0]]}).x[0]
    assert tokenizer.kind is not None
    torch.testing.assert_close(x[1] - x[2], tokenizer.kind[1] - tokenizer.kind[0])


def test_edges_with_other_features_on_the_way_back_stay_two() -> None:
    tokenizer = build(edge_categorical=(3,))
    graph = {"num_nodes": 2, "edge_index": [[0, 1], [1, 0]], "edge_attr": [[0], [0]]}
    assert len(tokenizer.preprocess(graph, False)["ends"]) == 2
    assert len(tokenizer.preprocess({**graph, "edge_attr": [[0], [1]]}, False)["ends"]) == 4


def test_an_empty_graph_needs_a_token_before_the_nodes() -> None:
    with pytest.raises(DataError, match="empty"):
        run(build(class_token=False), {"num_nodes": 0})
    assert run(build(class_token=False, null_token=True), {"num_nodes": 0}).mask.sum() == 1


def test_training_draws_from_the_global_generator_and_evaluation_not_at_all() -> None:
    pre = build(orthonormal=9, eigenvector_dropout=0.5).preprocess
    torch.manual_seed(1)
    one = pre(GRAPH, True)
    torch.manual_seed(1)
    two, three = pre(GRAPH, True), pre(GRAPH, True)
    still = pre(GRAPH, False)
    for key in ("laplacian", "orthonormal"):
        assert torch.equal(one[key], two[key])
        assert not torch.equal(one[key], three[key])
        assert torch.equal(still[key], pre(GRAPH, False)[key])
    # Whole eigenvectors: nothing, or twice the vector with either sign.
    ratio = torch.where(still["laplacian"].abs() > 1e-9, one["laplacian"] / still["laplacian"], torch.nan)
    for column in ratio.T:
        kept = column[~column.isnan()]
        assert (kept == kept[0]).all() or torch.allclose(kept, kept[0])
        assert round(float(kept[0])) in (-2, 0, 2)
    gram = one["orthonormal"] @ one["orthonormal"].T
    torch.testing.assert_close(gram, torch.eye(7, dtype=torch.float64))


def test_statistics_are_those_of_the_training_set() -> None:
    tokenizer, graphs = build(**FEATURES), [rich(0), rich(1)]
    tokenizer.fit([None, "no graph", *graphs])
    x = np.concatenate([graph["x"][:, 2:] for graph in graphs])
    np.testing.assert_allclose(tokenizer.nodes.mean.numpy(), np.nanmean(x, axis=0))
    np.testing.assert_allclose(tokenizer.nodes.std.numpy(), np.nanstd(x, axis=0))
    edges = np.concatenate([graph["edge_attr"][:, 1] for graph in graphs])
    np.testing.assert_allclose(tokenizer.edges.mean.numpy(), edges.mean())
    assert tokenizer.bfloat16().nodes.mean.dtype == torch.float64
    with pytest.raises(DataError):
        build(**FEATURES).fit(["no graph"])
    build(node_categorical=(2,)).fit(never())


def never() -> Any:
    raise AssertionError("the training set was read")
    yield


def test_contents_are_what_tokens_are_made_of() -> None:
    tokenizer = build(**FEATURES, edge_tokens="single")
    raw = tokenizer.preprocess.collate([tokenizer.preprocess(rich(), False)])
    contents = tokenizer.contents(raw)
    assert contents.shape == (1, 16, tokenizer.num_contents)
    assert (contents[0, :7, :10].sum(dim=1) == 2).all()
    assert not contents[0, :7, 12:].any()
    assert not contents[0, 7:, :12].any()
    np.testing.assert_allclose(contents[0, 7:, -1].numpy(), rich()["edge_attr"][:, 1], rtol=1e-6)


def test_positions_are_the_identifiers() -> None:
    with_ids, without = run(build(), GRAPH), run(build(laplacian=0), GRAPH)
    assert with_ids.positions is not None
    assert without.positions is None
    moved = build()
    moved.ids["laplacian"].weight.data.zero_()
    torch.testing.assert_close(with_ids.x - with_ids.positions, run(moved, GRAPH).x, atol=1e-6, rtol=1e-5)


def test_published_tensors_find_their_places() -> None:
    tokenizer = build(node_categorical=(5, 3), edge_categorical=(4,), null_token=True, laplacian=4)
    prefix = "encoder.graph_encoder.graph_feature."
    names = {"atom_encoder": 512 * 2, "edge_encoder": 512 + 1, "graph_token": 1, "null_token": 1, "order_encoder": 2}
    source = {f"{prefix}{name}.weight": torch.randn(rows, 16) for name, rows in names.items()}
    source[f"{prefix}lap_encoder.weight"] = torch.randn(16, 8)
    found = tokenizer.translate({**source, "encoder.layers.0.fc1.weight": torch.zeros(2)})
    tokenizer.load_state_dict(dict(found), strict=True)
    graph = {"x": [[2, 1], [4, 0]], "edge_index": [[0], [1]], "edge_attr": [[3]]}
    x = run(tokenizer, graph).x[0]
    # As the published code sums it: column c's value v is row 1 + 512 c + v.
    p = laplacian_ids(np.array([[0, 1]]), 2, 4)
    atoms, lap = source[f"{prefix}atom_encoder.weight"], source[f"{prefix}lap_encoder.weight"]
    node = atoms[1 + 2] + atoms[1 + 512 + 1] + source[f"{prefix}order_encoder.weight"][1]
    node = node + lap @ torch.from_numpy(np.concatenate([p[0], p[0]])).float()
    edge = source[f"{prefix}edge_encoder.weight"][1 + 3] + source[f"{prefix}order_encoder.weight"][0]
    edge = edge + lap @ torch.from_numpy(np.concatenate([p[0], p[1]])).float()
    expected = [source[f"{prefix}graph_token.weight"][0], source[f"{prefix}null_token.weight"][0], node, edge]
    torch.testing.assert_close(x[[0, 1, 2, 4]], torch.stack(expected), atol=1e-5, rtol=1e-5)
    own = dict(tokenizer.state_dict())
    assert tokenizer.translate(own).keys() == own.keys()
    with pytest.raises(WeightsError):
        tokenizer.translate({**source, f"{prefix}atom_encoder.weight": torch.zeros(100, 16)})


@pytest.mark.parametrize(
    "knobs",
    [
        {"node_columns": ("a",)},
        {"node_categorical": ((),)},
        {"degree": 0, "type_embedding": False, "laplacian": 0},
    ],
    ids=json.dumps,
)
def test_impossible_knobs_are_refused(knobs: dict[str, Any]) -> None:
    with pytest.raises(MetaformerError):
        build(**knobs)


def test_describe_counts_the_largest_graph() -> None:
    tokenizer = build(orthonormal=2, null_token=True)
    assert "12 nodes and 20 edges = 54 tokens, 7 laplacian and 2 orthonormal" in tokenizer.describe()
    largest = tokenizer.preprocess.example()
    assert tokenizer(tokenizer.preprocess.collate([largest])).x.shape[1] == 54
