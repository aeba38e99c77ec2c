"""The graph atlas, the karate club and TUDataset folders: exact labels, splits that do not leak, damage named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pytest
from metaformer_plugin_graph.atlas import AtlasDataset
from metaformer_plugin_graph.conformance import tu_dataset
from metaformer_plugin_graph.karate import KarateDataset
from metaformer_plugin_graph.refinement import share, signature
from metaformer_plugin_graph.tudataset import TuDataset

from metaformer.errors import DataError
from metaformer.train import train_command


def as_networkx(value: dict[str, Any]) -> nx.Graph:
    graph = nx.empty_graph(value["num_nodes"])
    graph.add_edges_from(value["edge_index"].T.tolist())
    return graph


def test_the_atlas_is_whole_and_its_labels_are_exact() -> None:
    both = [AtlasDataset(task="triangles", split=split, connected=False) for split in ("train", "valid")]
    numbers = sorted(number for half in both for number in half.numbers)
    assert numbers == list(range(1, 1253))
    for half in both:
        for index in range(0, len(half), 40):
            sample = half[index]
            adjacency = nx.to_numpy_array(as_networkx(sample["graph"]))
            assert sample["label"] == np.trace(np.linalg.matrix_power(adjacency, 3)) / 6
    diameters = AtlasDataset(task="diameter", split="valid")
    for index in range(0, len(diameters), 20):
        sample = diameters[index]
        adjacency = nx.to_numpy_array(as_networkx(sample["graph"]))
        reach, steps = np.eye(len(adjacency)), 0
        while not reach.all():
            reach, steps = reach + reach @ adjacency, steps + 1
        assert sample["label"] == ("at most 2" if steps < 3 else "3" if steps == 3 else "at least 4")


def test_no_graph_of_the_atlas_is_on_both_sides() -> None:
    sides: dict[str, set[str]] = {"train": set(), "valid": set()}
    for split, seen in sides.items():
        dataset = AtlasDataset(task="planar", split=split, connected=False)  # type: ignore[arg-type]
        for nodes, ends in dataset.graphs:
            graph = nx.Graph(ends.tolist())
            assert len(graph) <= nodes
            graph = nx.convert_node_labels_to_integers(graph)
            for node in graph:
                graph.nodes[node]["degree"] = str(graph.degree(node))
            seen.add(nx.weisfeiler_lehman_graph_hash(graph, node_attr="degree", iterations=7) if len(graph) else "")
    assert not sides["train"] & sides["valid"]
    sizes = [len(AtlasDataset(task="diameter", split=split)) for split in ("train", "valid")]
    assert sizes == [673, 323]


@pytest.mark.parametrize(("task", "connected"), [("diameter", False), ("connected", True)])
def test_tasks_that_make_no_sense_are_refused(task: Any, connected: bool) -> None:
    with pytest.raises(DataError, match="set connected"):
        AtlasDataset(task=task, split="train", connected=connected)


def test_a_signature_knows_no_order_of_nodes() -> None:
    rng = np.random.default_rng(0)
    ends = rng.integers(0, 8, (12, 2))
    labels, kinds = [str(i % 3) for i in range(8)], [str(i % 2) for i in range(12)]
    order = rng.permutation(8)
    moved = [labels[i] for i in np.argsort(order)]
    assert signature(8, order[ends][:, ::-1], moved, kinds) == signature(8, ends, labels, kinds)
    assert signature(8, ends, labels, kinds) != signature(8, ends, moved, kinds)
    assert signature(8, ends, labels, kinds) != signature(8, ends, labels, kinds[::-1])
    assert signature(3, np.zeros((0, 2), np.int64), [""] * 3, []) != signature(
        2, np.zeros((0, 2), np.int64), [""] * 2, []
    )
    counts = np.bincount([share(str(i), 10) for i in range(5000)], minlength=10)
    assert counts.min() > 400


def test_no_member_of_the_karate_club_is_on_both_sides() -> None:
    train, valid = (np.array(KarateDataset(split=split)[0]["side"]) for split in ("train", "valid"))
    assert ((train == -100) != (valid == -100)).all()
    assert (train >= 0).sum() == 8
    graph = nx.karate_club_graph()
    sides = np.array([graph.nodes[node]["club"] == "Officer" for node in graph])
    np.testing.assert_array_equal(np.where(train >= 0, train, valid), sides)
    sample = KarateDataset(split="train")[0]["graph"]
    assert sample["edge_index"].shape == (2, 78)
    assert train[0] == 0
    assert train[33] == 1
    with pytest.raises(IndexError):
        KarateDataset(split="train")[1]


KARATE = """
name: karate
requires: [metaformer-plugin-graph]
seed: 0
tokenizers:
  graph: {use: graph, max_nodes: 34, max_edges: 78, edge_tokens: single, edge_numeric: 1,
          class_token: false, degree: 0, laplacian: 2, sign_flip: false}
encoders:
  shared: {use: transformer, dim: 32, depth: 1, num_heads: 2, norm_out: true}
heads:
  side: {use: token_classification, reads: graph, num_classes: 2}
tasks:
  club:
    data:
      train: {use: karate, split: train}
      valid: {use: karate, split: valid}
    objective: {use: cross_entropy, head: side}
    metrics: [accuracy]
trainable: tuned
optimizer: {use: adamw, lr: 3.0e-3}
schedule: {warmup: 2, decay: cosine}
steps: 30
batch_size: 1
engine: {use: torch, threads: 1}
eval_every: 30
"""


def test_sides_of_the_karate_club_are_learned_node_by_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "karate.yaml").write_text(KARATE)
    train_command([Path("karate.yaml")], [])
    (metrics,) = tmp_path.glob("runs/karate/*/metrics.jsonl")
    records = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert [record["metrics"]["club/accuracy"] for record in records if "metrics" in record][-1] > 0.8


def write(folder: Path, **changes: str | None) -> Path:
    tu_dataset(folder, changes)
    return folder


def test_a_tudataset_folder(tmp_path: Path) -> None:
    dataset = TuDataset(root=write(tmp_path / "tiny"), split="all")
    assert len(dataset) == 4
    assert dataset.classes == {"label": ("-1", "1")}
    assert [dataset[i]["label"] for i in range(4)] == ["1", "-1", "1", "-1"]
    graph = dataset[2]["graph"]
    assert graph["num_nodes"] == 2
    assert graph["edge_index"].tolist() == [[0, 1], [1, 0]]
    assert graph["x"].tolist() == [[1, 5, 0], [2, 6, 0]]
    assert graph["edge_attr"].tolist() == [[0], [0]]
    assert dataset[0]["graph"]["edge_attr"].tolist() == [[0], [0], [1], [1], [0], [0]]
    assert dataset.node_labels == ((0.0, 3.0, 7.0),)
    assert dataset[1]["graph"]["edge_index"].shape == (2, 0)
    numbers = TuDataset(root=tmp_path / "tiny", split="all", targets="attributes")
    assert numbers[1]["label"] == [1.5]


def test_folds_part_the_graphs_and_keep_copies_together(tmp_path: Path) -> None:
    root = write(tmp_path / "tiny")
    at: dict[str, int] = {}
    for fold in range(10):
        try:
            valid = TuDataset(root=root, split="valid", fold=fold)
        except DataError:  # so few graphs leave folds empty
            continue
        for i in range(len(valid)):
            assert at.setdefault(valid.sample_id(i), fold) == fold
        train = TuDataset(root=root, split="train", fold=fold)
        assert len(train) + len(valid) == 4
    assert len(at) == 4
    assert at["TINY:2"] == at["TINY:4"]


def test_a_tudataset_of_a_plain_graphs_trains_nothing_extra(tmp_path: Path) -> None:
    root = write(tmp_path / "plain", node_labels=None, node_attributes=None, edge_labels=None)
    graph = TuDataset(root=root, split="all")[0]["graph"]
    assert sorted(graph) == ["edge_index", "num_nodes"]


@pytest.mark.parametrize(
    ("part", "text"),
    [
        ("A", ""),
        ("A", "1, 9\n"),
        ("A", "0, 1\n"),
        ("A", "1, 4\n"),
        ("A", "1\n2\n"),
        ("A", "1, 2, 3\n"),
        ("A", "1, 1.5\n"),
        ("A", "1, x\n"),
        ("A", "1, inf\n"),
        ("graph_indicator", ""),
        ("graph_indicator", "2\n1\n1\n2\n3\n3\n4\n"),
        ("graph_indicator", "1\n1\n1\n2\n3\n3\n999999999999\n"),
        ("graph_labels", "1\n1\n"),
        ("graph_labels", None),
        ("node_labels", "1\n"),
        ("node_attributes", "1, 2\n3\n"),
        ("edge_labels", "1\n1\n\x00"),
    ],
)
def test_a_damaged_tudataset_names_the_file(tmp_path: Path, part: str, text: str | None) -> None:
    # Where nothing is left of the edges, graphs are without any, which edge labels contradict.
    named = "edge_labels" if (part, text) == ("A", "") else part
    with pytest.raises(DataError, match=rf"TINY_{named}\.txt"):
        TuDataset(root=write(tmp_path / "tiny", **{part: text}), split="all")


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    for root in (tmp_path, tmp_path / "absent"):
        with pytest.raises(DataError, match="TUDataset folder"):
            TuDataset(root=root, split="all")
