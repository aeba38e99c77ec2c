"""The cases of this plugin, which `metaformer plugins check` and the tests run."""

from __future__ import annotations

import gzip
import importlib.util
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from metaformer.testing import Check, dataset_checks, tokenizer_checks

FEATURES = {
    "node_categorical": (4, ("red", "blue")),
    "node_numeric": 1,
    "edge_categorical": (3,),
    "edge_numeric": 2,
    "max_nodes": 9,
    "max_edges": 9,
    "degree": 3,
    "orthonormal": 4,
    "laplacian": 3,
    "null_token": True,
}
SINGLE = {"max_nodes": 9, "max_edges": 9, "edge_tokens": "single", "eigenvector_dropout": 0.3, "class_token": False}
RICH = [
    {
        "x": [[0, 1, 2.5], [3, None, None], [1, 0, -1.0]],
        "edge_index": [[0, 1, 2], [1, 2, 2]],
        "edge_attr": [[0, 1, 2]] * 3,
    },
    {"x": [[2, 0, 0.0]], "edge_index": [[], []]},
    {"num_nodes": 0},
    {"x": [[0, 0, 1.0]] * 5, "edge_index": [[0, 0, 0, 4], [1, 2, 3, 0]], "edge_attr": [[None, None, 3], [1, 0, 0]] * 2},
]
PLAIN = [{"num_nodes": n, "edge_index": [list(range(n)), [(i * i + 1) % n for i in range(n)]]} for n in (1, 4, 9)]
BAD: list[Any] = [
    None,
    5,
    [1, 2],
    {"edge_index": [[0], [1]], "num_nodes": 1},
    {"num_nodes": 100},
    {"num_nodes": -1},
    {"edge_index": np.zeros((3, 2), int)},
    {"edge_index": [["a"], ["b"]]},
    {"nodes": 3},
]
BAD_FEATURES = [*BAD, {"x": [[4, 0, 0]]}, {"x": [[0, 0]]}, {"x": [[0, 0, np.inf]]}]

# Seven nodes: a triangle, one node, a pair, and the second graph again.
TU = {
    "A": "1, 2\n2, 1\n2, 3\n3, 2\n1, 3\n3, 1\n5, 6\n6, 5\n",
    "graph_indicator": "1\n1\n1\n2\n3\n3\n4\n",
    "graph_labels": "1\n-1\n1\n-1\n",
    "graph_attributes": "0.5\n1.5\n2.5\n1.5\n",
    "node_labels": "0\n7\n0\n3\n3\n7\n3\n",
    "node_attributes": "1, 0.5\n2, 0\n3, 0\n4, 0\n5, 0\n6, 0\n7, 0\n",
    "edge_labels": "1\n1\n2\n2\n1\n1\n1\n1\n",
}

SMILES = ["CC", "c1ccccc1O", "C", "Cl[C@H](/C=C/C)Br", "O=C=O", "[Na+].[Cl-]", "C#N", "CC(=O)Oc1ccccc1C(=O)O"]
MOLECULES = "idx,smiles,homolumogap\n" + "".join(
    f"{i},{text},{'' if i == 7 else 3 + i / 4}\n" for i, text in enumerate(SMILES)
)
SPLITS = {"train": [0, 1, 2, 3], "valid": [4, 5, 6], "test-dev": [7]}


def tu_dataset(root: Path, changes: Mapping[str, str | None] = {}) -> Mapping[str, Any]:
    """A set called TINY in the TUDataset layout; `changes` are other texts of its parts, None for no such file."""
    root.mkdir(exist_ok=True)
    for part, text in {**TU, **changes}.items():
        if text is not None:
            (root / f"TINY_{part}.txt").write_text(text)
    return {"root": root}


def pcqm4m(root: Path, table: str = MOLECULES) -> Mapping[str, Any]:
    """A folder as pcqm4m-v2.zip unpacks, of eight molecules."""
    (root / "raw").mkdir(parents=True, exist_ok=True)
    (root / "raw" / "data.csv.gz").write_bytes(gzip.compress(table.encode()))
    torch.save({name: np.array(rows) for name, rows in SPLITS.items()}, root / "split_dict.pt")
    return {"root": root}


def checks() -> Iterator[Check]:
    """The tokenizer and its published folders, and where networkx and RDKit are there, what needs them."""
    yield from tokenizer_checks(("graph", FEATURES), RICH, bad=BAD_FEATURES)
    yield from tokenizer_checks(("graph", SINGLE), PLAIN, bad=BAD)
    yield from dataset_checks(("tu_dataset", {"split": "all"}), files=tu_dataset)
    if importlib.util.find_spec("networkx"):
        yield from dataset_checks(("graph_atlas", {"task": "diameter", "split": "valid"}), limit=5)
        yield from dataset_checks(("karate", {"split": "train"}))
    if importlib.util.find_spec("rdkit"):
        yield from dataset_checks(("pcqm4m", {"split": "train"}), files=pcqm4m)
