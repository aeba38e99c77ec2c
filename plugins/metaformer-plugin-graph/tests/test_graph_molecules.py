"""Molecules: OGB's categories, files in PCQM4Mv2's layout, and the two recipes of the paper on a small one."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from metaformer_plugin_graph.conformance import MOLECULES, SMILES, pcqm4m
from metaformer_plugin_graph.pcqm import PcqmDataset, read_split

from metaformer.errors import DataError
from metaformer.train import train_command

pytest.importorskip("rdkit", reason="pip install 'metaformer-plugin-graph[molecules]'")
from metaformer_plugin_graph.molecule import ATOM, BOND, read_smiles

RECIPES = Path(__file__).parents[3] / "recipes" / "meta_transformer"


def test_categories_are_those_of_the_benchmark() -> None:
    found = read_smiles("Cl[C@H](/C=C/C)Br")
    # The example in OGB's documentation of these columns: the chiral carbon, and the double bond.
    assert found["x"][1].tolist() == [5, 2, 4, 5, 1, 0, 2, 0, 0]
    assert found["edge_attr"][4].tolist() == [1, 2, 0]
    assert found["edge_index"][:, :4].tolist() == [[0, 1, 1, 2], [1, 0, 2, 1]]
    for text in [*SMILES, "[U]", "*", "[2H]C", "F[P-](F)(F)(F)(F)F", "[O]", "[C-6]"]:
        graph = read_smiles(text)
        assert (graph["x"] >= 0).all()
        assert (graph["x"] < np.array(ATOM)).all()
        assert (graph["edge_attr"] < np.array(BOND)).all()
    assert read_smiles("*")["x"][0, 0] == 118
    assert read_smiles("C")["edge_index"].shape == (2, 0)


@pytest.mark.parametrize("text", ["", "C(", "Xy", "c1ccc", "C" * 3000, "\u00e4", "((((", "%"])
def test_texts_that_are_no_molecule_are_refused(text: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(DataError, match="SMILES"):
        read_smiles(text)
    assert capfd.readouterr().err == ""


def test_splits_are_those_of_the_file(tmp_path: Path) -> None:
    root = pcqm4m(tmp_path)["root"]
    valid = PcqmDataset(root=root, split="valid")
    assert [valid.sample_id(i) for i in range(len(valid))] == ["4", "5", "6"]
    assert valid[0]["gap"] == 4.0
    assert valid[0]["graph"]["num_nodes"] == 3
    assert PcqmDataset(root=root, split="test-dev")[0]["gap"] is None
    with pytest.raises(DataError, match="no such split"):
        PcqmDataset(root=root, split="test-challenge")


class Harm:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch harmed",)


def test_a_split_file_cannot_run_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "split_dict.pt"
    objects = np.array([Harm()], dtype=object)
    for content in (
        {"train": Harm()},
        {"train": objects},
        Harm(),
        [1],
        {"train": np.zeros(3)},
        {"train": np.array([-1])},
    ):
        torch.save(content, path)
        with pytest.raises(DataError):
            read_split(path, "train")
    torch.save({"train": np.array([10**9])}, path)
    with pytest.raises(DataError):
        read_split(path, "train")
    assert not (tmp_path / "harmed").exists()
    good = (pcqm4m(tmp_path)["root"] / "split_dict.pt").read_bytes()
    rng = np.random.default_rng(0)
    for length in (0, 10, len(good) // 2, len(good) - 5):
        path.write_bytes(good[:length])
        with pytest.raises(DataError):
            read_split(path, "train")
    for _ in range(40):
        damaged = bytearray(good)
        for place in rng.integers(0, len(good), 4):
            damaged[place] ^= 1 << rng.integers(0, 8)
        path.write_bytes(damaged)
        try:
            read_split(path, "train")
        except DataError:
            continue


@pytest.mark.parametrize(
    "rows",
    [
        "",
        "idx,text,gap\n0,C,1\n",
        "idx,smiles,homolumogap\n0,C\n",
        "idx,smiles,homolumogap\n0,C,wide\n",
        "idx,smiles,homolumogap\n0,C,inf\n",
        "idx,smiles,homolumogap\n0,\u00e4,1\n",
        "idx,smiles,homolumogap\n" + '0,"' + "C" * 300_000,
        MOLECULES[:60],
    ],
    ids=range(8),
)
def test_unusable_tables_are_data_errors(tmp_path: Path, rows: str) -> None:
    with pytest.raises(DataError, match=r"data\.csv\.gz"):
        PcqmDataset(**pcqm4m(tmp_path, rows), split="train")


def test_damaged_archives_are_data_errors(tmp_path: Path) -> None:
    path = pcqm4m(tmp_path)["root"] / "raw" / "data.csv.gz"
    good = path.read_bytes()
    for data in (good[:20], good[:-12], good[:30] + b"\x00" * 20 + good[50:], b"plain text"):
        path.write_bytes(data)
        with pytest.raises(DataError):
            PcqmDataset(root=tmp_path, split="train")
    path.unlink()
    with pytest.raises(DataError, match="OGB-LSC"):
        PcqmDataset(root=tmp_path, split="train")


@pytest.mark.parametrize("name", ["graph_frozen", "graph_tuned"])
def test_the_recipes_train_on_a_small_folder_of_the_same_layout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    pcqm4m(tmp_path / "pcqm4m-v2")
    sets = ["encoders.shared.weights=null", "encoders.shared.dim=32", "encoders.shared.depth=1"]
    sets += ["encoders.shared.num_heads=2", "engine={use: torch, micro_batch: 2}", "batch_size=4", "steps=2"]
    sets += ["tasks.gap.data.train.root=pcqm4m-v2", "tasks.gap.data.valid.root=pcqm4m-v2", "schedule.warmup=1"]
    sets += ["loader.workers=0", "log_every=1", "eval_every=2", "save_every=2"]
    train_command([RECIPES / f"{name}.yaml"], sets)
    (metrics,) = (tmp_path / "runs" / f"meta_transformer_{name}").glob("*/metrics.jsonl")
    records = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert np.isfinite([record["loss"] for record in records if "loss" in record]).all()
    assert "gap/mae" in metrics.read_text()
