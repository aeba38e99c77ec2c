"""A name for a graph up to the order of its nodes, so that copies of one graph can be kept on one side of a split.

Source: colour refinement (Weisfeiler and Leman, 1968). Graphs that are the same have the same name; a few that
differ share one too (regular graphs of one size), which for a split is harmless.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64


def signature(num_nodes: int, ends: Int64[np.ndarray, "E 2"], labels: Sequence[str], edges: Sequence[str]) -> str:
    """`labels` of nodes and of edges take part; edges are read without direction."""
    near: list[list[tuple[int, str]]] = [[] for _ in range(num_nodes)]
    for (u, v), label in zip(ends.tolist(), edges, strict=True):
        near[u].append((v, label))
        near[v].append((u, label))
    colours = [_hash(label) for label in labels]
    while True:
        finer = [
            _hash(f"{own}|{sorted(f'{colours[v]}{label}' for v, label in around)}")
            for own, around in zip(colours, near, strict=True)
        ]
        if len(set(finer)) == len(set(colours)):
            return _hash("".join(sorted(finer)))
        colours = finer


def share(name: str, parts: int) -> int:
    """0 to `parts` - 1, as good as drawn, and always the same for a name."""
    return int(_hash(name), 16) % parts


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
