"""Identifiers of nodes: what is fixed is fixed, also where eigenvalues coincide."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pytest
import torch
from metaformer_plugin_graph.spectrum import _signed, basis, laplacian_ids, normalized_laplacian, orthonormal_ids

GRAPHS = {
    "path": nx.path_graph(6),
    "cycle": nx.cycle_graph(8),
    "complete": nx.complete_graph(5),
    "star": nx.star_graph(5),
    "parts": nx.disjoint_union(nx.cycle_graph(4), nx.path_graph(3)),
    "isolated": nx.disjoint_union(nx.cycle_graph(3), nx.empty_graph(3)),
    "karate": nx.karate_club_graph(),
}


def ends(graph: nx.Graph) -> np.ndarray:
    return np.array(list(graph.edges), dtype=np.int64).reshape(-1, 2)


@pytest.mark.parametrize("name", GRAPHS)
def test_the_laplacian_is_networkxs(name: str) -> None:
    graph = GRAPHS[name]
    expected = nx.normalized_laplacian_matrix(graph, weight=None).toarray()
    np.testing.assert_allclose(normalized_laplacian(ends(graph), len(graph)), expected, atol=1e-12)


@pytest.mark.parametrize("name", GRAPHS)
def test_ids_are_orthonormal_eigenvectors_in_order(name: str) -> None:
    graph = GRAPHS[name]
    laplacian = normalized_laplacian(ends(graph), len(graph))
    found = laplacian_ids(ends(graph), len(graph), len(graph))
    np.testing.assert_allclose(found.T @ found, np.eye(len(graph)), atol=1e-10)
    values = np.linalg.eigvalsh(laplacian)
    np.testing.assert_allclose(laplacian @ found, found * values, atol=1e-7)
    few = laplacian_ids(ends(graph), len(graph), 3)
    np.testing.assert_array_equal(few, found[:, :3])
    more = laplacian_ids(ends(graph), len(graph), len(graph) + 2)
    np.testing.assert_array_equal(more[:, len(graph) :], 0)


@pytest.mark.parametrize("size", [1, 3])
def test_a_basis_depends_on_the_space_alone(size: int) -> None:
    rng = np.random.default_rng(0)
    vectors, _ = np.linalg.qr(rng.normal(size=(9, size)))
    turn, _ = np.linalg.qr(rng.normal(size=(size, size)))
    one, two = basis(vectors, size), basis(vectors @ turn, size)
    np.testing.assert_allclose(one, two, atol=1e-12)
    assert (one[np.abs(one).argmax(axis=0), range(size)] > 0)[0]


def test_renamed_nodes_take_their_rows_along_where_nothing_ties() -> None:
    edges = np.array([(1, 6), (2, 3), (0, 4), (3, 4), (3, 6), (3, 5), (5, 6), (0, 3), (4, 5)])
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(7)
        np.testing.assert_allclose(laplacian_ids(edges, 7, 7), laplacian_ids(order[edges], 7, 7)[order], atol=1e-9)


def test_a_sign_does_not_depend_on_the_order_of_nodes_where_entries_tell() -> None:
    # Two largest entries of either sign: the third decides.
    vector = np.array([[0.6], [-0.6], [0.4], [-0.2], [-0.2]])
    vector /= np.linalg.norm(vector)
    for order in ([0, 1, 2, 3, 4], [1, 0, 2, 3, 4], [4, 3, 2, 1, 0]):
        for sign in (1, -1):
            np.testing.assert_allclose(_signed(sign * vector[order]), vector[order])


def test_ties_are_broken_by_the_order_of_nodes() -> None:
    found = laplacian_ids(ends(nx.cycle_graph(8)), 8, 3)
    # The two slowest waves of a circle: one begins at the first node, the other is a quarter later.
    wave = np.cos(2 * np.pi * np.arange(8) / 8) / 2
    np.testing.assert_allclose(found[:, 1], wave, atol=1e-9)
    assert found[:, 2][np.abs(found[:, 2]).round(6).argmax()] > 0


@pytest.mark.parametrize(("nodes", "size"), [(0, 3), (1, 0), (1, 3), (4, 6), (6, 4)])
def test_random_ids_are_rows_of_an_orthogonal_matrix(nodes: int, size: int) -> None:
    found = orthonormal_ids(nodes, size, torch.Generator().manual_seed(1))
    assert found.shape == (nodes, size)
    if nodes and size:
        np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1)
    if 0 < nodes <= size:
        np.testing.assert_allclose(found @ found.T, np.eye(nodes), atol=1e-12)
    again = orthonormal_ids(nodes, size, torch.Generator().manual_seed(1))
    np.testing.assert_array_equal(found, again)


@pytest.mark.parametrize("count", [0, 1])
def test_the_smallest_graphs(count: int) -> None:
    assert laplacian_ids(np.zeros((0, 2), np.int64), count, 4).shape == (count, 4)
