"""Identifiers of nodes: eigenvectors of the normalised Laplacian, and random orthonormal vectors.

Source: TokenGT (arXiv 2207.02505), section 3.1 and appendix A. Everything here is float64 on one CPU thread.
Ours differs: eigenvectors have one sign and, where eigenvalues coincide, one basis, so that a graph is described
alike by every linear algebra library; isolated nodes have a zero in the Laplacian, as the usual definition says.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float64, Int64

SAME = 1e-8
"""Eigenvalues (between 0 and 2) that are nearer than this are one: their error is some 1e-15 times the nodes."""
TIE = 8
"""Decimals to which lengths are compared when a basis is chosen: in a tie the first node wins, not rounding."""


def normalized_laplacian(ends: Int64[np.ndarray, "E 2"], num_nodes: int) -> Float64[np.ndarray, "N N"]:
    """I - D^(-1/2) A D^(-1/2) of the graph without directions and repetitions; a loop is a neighbour like others."""
    adjacency = np.zeros((num_nodes, num_nodes))
    adjacency[ends[:, 0], ends[:, 1]] = adjacency[ends[:, 1], ends[:, 0]] = 1.0
    degree = adjacency.sum(axis=1)
    scale = np.where(degree > 0, degree.clip(min=1) ** -0.5, 0.0)
    return np.diag((degree > 0).astype(np.float64)) - scale[:, None] * adjacency * scale


def laplacian_ids(ends: Int64[np.ndarray, "E 2"], num_nodes: int, size: int) -> Float64[np.ndarray, "N k"]:
    """The eigenvectors of the `size` smallest eigenvalues, the trivial one among them; zeros where there are fewer.

    Renaming the nodes renames the rows, except in two cases, where the first node decides: an eigenvector that has
    the same entries as its negative, and coinciding eigenvalues where `basis` meets nodes of equal claim. Symmetries
    of the graph bring both about, and no rule could do better there.
    """
    out = np.zeros((num_nodes, size))
    if not num_nodes or not size:
        return out
    values, vectors = np.linalg.eigh(normalized_laplacian(ends, num_nodes))
    wanted = min(size, num_nodes)
    start = 0
    while start < wanted:
        stop = start + 1
        while stop < num_nodes and values[stop] - values[stop - 1] < SAME:
            stop += 1
        kept = min(stop, wanted) - start
        found = basis(vectors[:, start:stop], kept)
        out[:, start : start + kept] = _signed(found) if stop == start + 1 else found
        start = stop
    return out


def basis(vectors: Float64[np.ndarray, "N m"], count: int) -> Float64[np.ndarray, "N n"]:
    """The first `count` of an orthonormal basis of the space that the orthonormal `vectors` span, which depends on
    that space only: repeatedly the projection of the unit vector of the node that has the longest one.

    The chosen node's own entry is positive, and no other's is larger.
    """
    projector = vectors @ vectors.T
    out = np.zeros((len(vectors), count))
    for column in range(count):
        pivot = int(np.argmax(np.round(projector.diagonal(), TIE)))
        out[:, column] = projector[:, pivot] / projector[pivot, pivot] ** 0.5
        projector = projector - np.outer(out[:, column], out[:, column])
    return out


def _signed(vector: Float64[np.ndarray, "N 1"]) -> Float64[np.ndarray, "N 1"]:
    """Of the vector and its negative the one whose entries, sorted, are the larger; itself, where they are the same."""
    up, down = (np.sort(np.round(sign * vector[:, 0], TIE))[::-1] for sign in (1, -1))
    differ = np.flatnonzero(up != down)
    return -vector if len(differ) and up[differ[0]] < down[differ[0]] else vector


def orthonormal_ids(num_nodes: int, size: int, generator: torch.Generator | None) -> Float64[np.ndarray, "N k"]:
    """Rows of a random orthogonal matrix, filled up with zeros to `size`.

    Of more than `size` nodes the rows are cut and brought to length 1 again: then they are orthogonal only nearly.
    `generator` None draws from torch's global one.
    """
    out = np.zeros((num_nodes, size))
    if not num_nodes or not size:
        return out
    draw = torch.randn(num_nodes, num_nodes, generator=generator, dtype=torch.float64).numpy()
    q, r = np.linalg.qr(draw)
    # With the signs of R's diagonal taken in, Q is uniform over the orthogonal matrices.
    q = q * np.where(r.diagonal() < 0, -1.0, 1.0)
    kept = q[:, :size]
    length = np.linalg.norm(kept, axis=1, keepdims=True)
    out[:, : kept.shape[1]] = kept / np.where(length > 0, length, 1.0)
    return out
