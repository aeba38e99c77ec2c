"""Data sets of pixels: neighbourhoods, labels, the official layout, and the paper's recipes on a small file of it."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from metaformer_plugin_hyperspectral.datasets import OFFICIAL_TEST, IndianPines, IndianPinesOfficial, SceneDataset

from metaformer.errors import DataError, MetaformerError
from metaformer.train import train_command

RECIPES = Path(__file__).parents[3] / "recipes" / "meta_transformer"
ROWS, COLUMNS, BANDS = 24, 20, 6
RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 4, (ROWS, COLUMNS))
CUBE = (RNG.normal(size=(ROWS, COLUMNS, BANDS)) + LABELS[:, :, None]).astype(np.float32)


@pytest.fixture
def scene(tmp_path: Path) -> dict[str, Path]:
    np.save(tmp_path / "cube.npy", CUBE)
    np.save(tmp_path / "labels.npy", LABELS)
    return {"cube": tmp_path / "cube.npy", "labels": tmp_path / "labels.npy"}


def test_samples_are_neighbourhoods_mirrored_at_the_edges(scene: dict[str, Path]) -> None:
    data = SceneDataset(**scene, split="train", patch_size=5, block=12)
    padded = np.pad(CUBE, ((2, 2), (2, 2), (0, 0)), mode="symmetric")
    edges = 0
    for index, (row, column) in enumerate(data.places):
        sample = data[index]
        np.testing.assert_array_equal(sample["spectrum"], padded[row : row + 5, column : column + 5])
        assert sample["label"] == str(LABELS[row, column])
        edges += row == 0
    assert edges
    assert data.classes == {"label": ("1", "2", "3")}
    copy = pickle.loads(pickle.dumps(data))
    assert len(pickle.dumps(data)) < CUBE.nbytes
    np.testing.assert_array_equal(copy[3]["spectrum"], data[3]["spectrum"])


def test_splits_and_names(scene: dict[str, Path]) -> None:
    names = ("rock", "sand", "water")
    blocks = [SceneDataset(**scene, split=split, block=6, class_names=names) for split in ("train", "valid")]
    assert len(blocks[0]) + len(blocks[1]) == (LABELS > 0).sum()
    assert blocks[0][0]["label"] in names
    few = SceneDataset(**scene, split="train", rule="random", train_share=0.5, per_class=5)
    assert np.bincount(few.labels).tolist() == [5, 5, 5]
    every = SceneDataset(**scene, split="train", rule="all")
    assert len(every) == (LABELS > 0).sum()
    assert len({data.fingerprint() for data in (*blocks, few, every)}) == 4
    with pytest.raises(DataError, match="one class name per label"):
        SceneDataset(**scene, split="train", class_names=("rock",))


def test_the_fingerprint_changes_with_the_cube(scene: dict[str, Path]) -> None:
    before = SceneDataset(**scene, split="train").fingerprint()
    np.save(scene["cube"], CUBE + 1)
    assert SceneDataset(**scene, split="train").fingerprint() != before


def test_a_cube_of_another_place_is_refused(scene: dict[str, Path], tmp_path: Path) -> None:
    np.save(tmp_path / "other.npy", CUBE[:-1])
    with pytest.raises(DataError, match="as the labels have"):
        SceneDataset(cube=tmp_path / "other.npy", labels=scene["labels"], split="train")[0]
    with pytest.raises(DataError, match="no such file"):
        SceneDataset(cube=tmp_path / "none.npy", labels=scene["labels"], split="train")
    with pytest.raises(MetaformerError, match="odd"):
        SceneDataset(**scene, split="train", patch_size=2)


def test_the_bundled_scene_is_the_published_one() -> None:
    pytest.importorskip("tensorly")
    data = IndianPines(split="train")
    assert data.scene.cube.shape == (145, 145, 200)
    assert len(data) + len(IndianPines(split="valid")) == 10249
    assert data[0]["spectrum"].shape == (1, 1, 200)
    # The published number of pixels of some classes, over both splits.
    both = np.concatenate([data.labels, IndianPines(split="valid").labels])
    counts = dict(zip(data.names, np.bincount(both).tolist(), strict=True))
    assert (counts["oats"], counts["corn-notill"], counts["soybean-mintill"]) == (20, 1428, 2455)


def write_official(path: Path, bands: int = 200, classes: int = 16) -> None:
    """A small file of SpectralFormer's layout: a strip of labelled pixels, half of them for training."""
    scipy = pytest.importorskip("scipy.io")
    labels = np.arange(ROWS * COLUMNS).reshape(ROWS, COLUMNS) % (classes + 1)
    cube = RNG.normal(2000, 10, (ROWS, COLUMNS, bands)) + 100 * labels[:, :, None]
    train = np.where(np.arange(COLUMNS) % 2, labels, 0).astype(float)
    test = labels - train
    content = {"input": cube, "TR": train, "TE": test, "color_mat_list": np.zeros((classes, 3))}
    scipy.savemat(path, content, do_compression=True)


def test_the_official_layout(tmp_path: Path) -> None:
    write_official(tmp_path / "IndianPine.mat")
    sets = [IndianPinesOfficial(path=tmp_path / "IndianPine.mat", split=split) for split in ("train", "valid")]
    assert not {tuple(place) for place in sets[0].places} & {tuple(place) for place in sets[1].places}
    assert sets[0].names == sets[1].names == tuple(str(i) for i in range(1, 17))
    assert sets[0][0]["spectrum"].shape == (1, 1, 200)
    assert sum(OFFICIAL_TEST.values()) == 9671
    with pytest.raises(DataError, match="SpectralFormer code repository"):
        IndianPinesOfficial(path=tmp_path / "none.mat", split="train")


def test_classes_have_names_where_the_file_is_the_papers(tmp_path: Path) -> None:
    scipy = pytest.importorskip("scipy.io")
    counts = list(OFFICIAL_TEST.values())
    test = np.repeat(np.arange(17), [21025 - 695 - sum(counts), *counts])
    test = np.concatenate([np.zeros(695, dtype=int), test]).reshape(145, 145)
    train = np.zeros(21025, dtype=int)
    train[:695] = np.repeat(np.arange(1, 17), [*[50] * 13, *[15] * 3])
    content = {"input": np.zeros((145, 145, 3)), "TR": train.reshape(145, 145), "TE": test}
    scipy.savemat(tmp_path / "a.mat", content, do_compression=True)
    data = IndianPinesOfficial(path=tmp_path / "a.mat", split="valid")
    assert (len(data), data.names[0], data.names[15]) == (9671, "corn-notill", "oats")
    scipy.savemat(tmp_path / "b.mat", {**content, "TE": np.maximum(test, train.reshape(145, 145))})
    with pytest.raises(DataError, match="pixels in both"):
        IndianPinesOfficial(path=tmp_path / "b.mat", split="valid")


@pytest.mark.parametrize("kind", ["frozen", "tuned"])
def test_the_papers_recipes_train_on_a_small_file_of_the_layout(kind: str, tmp_path: Path) -> None:
    write_official(tmp_path / "IndianPine.mat")
    sets = [f"tasks.crops.data.{which}.path={tmp_path / 'IndianPine.mat'}" for which in ("train", "valid")]
    sets += ["encoders.shared.dim=32", "encoders.shared.depth=1", "encoders.shared.num_heads=2", "steps=2"]
    sets += ["encoders.shared.weights=null", "engine={use: torch}", "batch_size=8", "loader.workers=0"]
    sets += ["schedule.warmup=1", f"output={tmp_path / 'runs'}"]
    train_command([RECIPES / f"hyperspectral_{kind}.yaml"], sets)
    (result,) = tmp_path.rglob("result.json")
    metrics: dict[str, Any] = json.loads(result.read_text())["this run"]["metrics"]
    assert set(metrics) == {"crops/loss", "crops/accuracy", "crops/accuracy/label"}
    assert all(value == value for value in metrics.values())
