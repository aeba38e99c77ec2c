"""Data sets: small ones in the official layouts, and what the bundled ones promise."""

import json

import numpy as np
import pytest
from metaformer_plugin_pointcloud.modelnet import ModelNetDataset
from metaformer_plugin_pointcloud.s3dis import S3disDataset
from metaformer_plugin_pointcloud.scanobjectnn import ScanObjectDataset
from metaformer_plugin_pointcloud.scenes import MotorcycleDataset, TerrainDataset, stripes
from metaformer_plugin_pointcloud.shapenetpart import ShapeNetPartDataset

from metaformer.errors import DataError
from metaformer.testing import dataset_checks

RNG = np.random.default_rng(0)
OFF = "OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 {z}\n3 0 1 2\n"
DRAWS = ("random_state",)
"""Needs a process without run-time type checks."""


def table(rows, width):
    return "\n".join(",".join(f"{x:.4f}" for x in row) for row in RNG.normal(size=(rows, width))) + "\n"


def meshes(root):
    for name in ("chair", "night_stand"):
        for split in ("train", "test"):
            (root / name / split).mkdir(parents=True)
            for i in range(2):
                (root / name / split / f"{name}_000{i}.off").write_text(OFF.format(z=i))
    return {"root": root, "split": "train"}


def resampled(root):
    names = {"train": ["chair_0001", "night_stand_0002"], "test": ["chair_0003"]}
    (root / "modelnet40_shape_names.txt").write_text("chair\nnight_stand\n")
    for split, models in names.items():
        (root / f"modelnet40_{split}.txt").write_text("\n".join(models))
        for model in models:
            (root / model.rpartition("_")[0]).mkdir(exist_ok=True)
            (root / model.rpartition("_")[0] / f"{model}.txt").write_text(table(30, 6))
    return {"root": root, "split": "train"}


def scans(root):
    h5py = pytest.importorskip("h5py")
    with h5py.File(root / "test_objectdataset.h5", "w") as file:
        file["data"], file["label"] = RNG.normal(size=(4, 20, 3)).astype(np.float32), np.array([0, 14, 3, 3])
    return {"path": root / "test_objectdataset.h5"}


def room(count=60):
    points, color = RNG.uniform(0, 3, (count, 3)), RNG.integers(0, 256, (count, 3))
    return np.concatenate([points, color, RNG.integers(0, 13, (count, 1))], axis=1)


def rooms(root):
    for name in ("Area_1_office_1", "Area_5_office_2", "Area_5_hallway_1"):
        np.save(root / f"{name}.npy", room().astype(np.float32))
    return {"root": root, "split": "valid", "points": 16, "crops": 3}


def annotations(root):
    for area in (1, 5):
        folder = root / f"Area_{area}" / "office_1" / "Annotations"
        folder.mkdir(parents=True)
        for name in ("chair_1", "stairs_1", "wall_2"):
            np.savetxt(folder / f"{name}.txt", room()[:, :6], fmt="%.3f")
    return {"root": root, "split": "train", "points": 16, "crops": 3}


def parts(root):
    (root / "synsetoffset2category.txt").write_text("Airplane\t02691156\nChair\t03001627\n")
    (root / "train_test_split").mkdir()
    models = ["shape_data/02691156/1a-b", "shape_data/03001627/2c"]
    (root / "train_test_split" / "shuffled_train_file_list.json").write_text(json.dumps(models))
    for model in models:
        _, synset, name = model.split("/")
        (root / synset).mkdir()
        rows = np.concatenate([RNG.normal(size=(12, 6)), RNG.integers(0, 50, (12, 1))], axis=1)
        np.savetxt(root / synset / f"{name}.txt", rows, fmt="%.5f")
    return {"root": root, "split": "train"}


KINDS = {
    "meshes": ("modelnet40", ModelNetDataset, meshes),
    "resampled": ("modelnet40", ModelNetDataset, resampled),
    "scans": ("scanobjectnn", ScanObjectDataset, scans),
    "rooms": ("s3dis", S3disDataset, rooms),
    "annotations": ("s3dis", S3disDataset, annotations),
    "parts": ("shapenetpart", ShapeNetPartDataset, parts),
}


@pytest.mark.parametrize("kind", KINDS)
def test_official_layouts_keep_the_contract(tmp_path, kind):
    use, _, layout = KINDS[kind]
    for check in dataset_checks(
        (use, {key: str(v) if key in ("root", "path") else v for key, v in layout(tmp_path).items()})
    ):
        if check.name not in DRAWS:
            check.run()


def test_modelnet(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    data = ModelNetDataset(**meshes(tmp_path / "a"))
    assert len(data) == 4
    assert data.classes["label"] == ["chair", "night_stand"]
    assert data[3] == {"cloud": tmp_path / "a/night_stand/train/night_stand_0001.off", "label": "night_stand"}
    data = ModelNetDataset(**resampled(tmp_path / "b"))
    assert [data[i]["label"] for i in range(2)] == ["chair", "night_stand"]
    assert data[0]["cloud"]["normal"].shape == (30, 3)
    (tmp_path / "b/modelnet40_train.txt").write_text("chair_../../../etc/passwd\n")
    with pytest.raises(DataError, match="CLASS_NUMBER"):
        ModelNetDataset(root=tmp_path / "b", split="train")
    with pytest.raises(DataError, match=r"ModelNet40\.zip"):
        ModelNetDataset(root=tmp_path, split="train")


def test_scanobjectnn_reads_nothing_but_itself(tmp_path):
    h5py = pytest.importorskip("h5py")
    knobs = scans(tmp_path)
    assert ScanObjectDataset(**knobs)[1]["label"] == "toilet"
    with h5py.File(tmp_path / "link.h5", "w") as file:
        file["data"] = h5py.ExternalLink("test_objectdataset.h5", "data")
        file["label"] = np.zeros(4, dtype=int)
    with pytest.raises(DataError, match="none in the file itself"):
        ScanObjectDataset(path=tmp_path / "link.h5")
    content = knobs["path"].read_bytes()
    for bad in (b"", content[:200], b"\0" * 600):
        knobs["path"].write_bytes(bad)
        with pytest.raises(DataError):
            ScanObjectDataset(**knobs)


def test_s3dis_holds_an_area_out(tmp_path):
    (tmp_path / "a").mkdir()
    knobs = rooms(tmp_path / "a")
    valid = S3disDataset(**knobs)
    train = S3disDataset(**{**knobs, "split": "train"})
    assert {name.split(":")[0][:6] for name in map(valid.sample_id, range(len(valid)))} == {"Area_5"}
    assert {name.split(":")[0][:6] for name in map(train.sample_id, range(len(train)))} == {"Area_1"}
    sample = valid[0]
    assert sample["cloud"]["points"].shape == (16, 3)
    assert len(sample["classes"]) == 16
    # The nearest of all to the first, which was drawn.
    points = np.load(valid.rooms[0])[:, :3].astype(np.float64)
    far = np.sort(np.linalg.norm(points - sample["cloud"]["points"][0], axis=1))[:16]
    found = np.linalg.norm(sample["cloud"]["points"] - sample["cloud"]["points"][0], axis=1)
    np.testing.assert_allclose(found, far)
    (tmp_path / "b").mkdir()
    labels = S3disDataset(**{**annotations(tmp_path / "b"), "points": 1000})[0]["classes"]
    assert set(labels) == {2, 7, 12}  # wall, chair, and stairs as clutter
    np.save(tmp_path / "a/Area_5_hallway_1.npy", np.full((5, 7), 13.0))
    with pytest.raises(DataError, match="class"):
        S3disDataset(**knobs)[0]


def test_shapenetpart(tmp_path):
    data = ShapeNetPartDataset(**parts(tmp_path))
    assert [data[i]["kind"] for i in range(2)] == ["Airplane", "Chair"]
    assert len(data[0]["parts"]) == len(data[0]["cloud"]["normal"]) == 12
    listed = tmp_path / "train_test_split/shuffled_train_file_list.json"
    listed.write_text('["shape_data/02691156/../../secret"]')
    with pytest.raises(DataError, match="list"):
        ShapeNetPartDataset(root=tmp_path, split="train")
    with pytest.raises(DataError, match="unpack"):
        ShapeNetPartDataset(root=tmp_path / "absent", split="train")


def test_stripes_share_no_column_and_keep_a_gap():
    train, valid = (stripes(403, split, 134, 82, 8) for split in ("train", "valid"))
    columns = {split: {c for a, b in found for c in range(a, b)} for split, found in (("t", train), ("v", valid))}
    assert min(abs(a - b) for a in columns["t"] for b in columns["v"]) == 9  # eight columns lie between


def test_terrain_turns_every_second_block_over():
    data = TerrainDataset(split="valid", samples=8)
    assert [data[i]["label"] for i in range(4)] == ["up", "down", "up", "down"]
    block = data[0]["cloud"]
    assert block.shape == (512, 3)
    assert np.abs(block.mean(axis=0)).max() < 1e-8
    # 32 cells of 74 x 93 metres, of which half are drawn.
    assert 1700 < np.linalg.norm(block[:, :2], axis=1).max() < 2100
    labels = TerrainDataset(split="train", samples=8, task="landform")[0]["label"]
    assert set(labels) == {0, 1, 2}


def test_landform_is_height_above_the_surroundings():
    data = TerrainDataset(split="train", samples=8, task="landform", radius=3)
    above = np.array([[h - data.heights[i - 3 : i + 4, j - 3 : j + 4].mean() for j, h in enumerate(row[3:50], 3)]
                      for i, row in enumerate(data.heights[3:40], 3)])  # fmt: skip
    forms = data.forms[3:40, 3:50]
    assert above[forms == 0].max() < above[forms == 1].min()
    assert above[forms == 1].max() < above[forms == 2].min()


def test_the_motorcycle_is_where_the_calibration_puts_it():
    data = MotorcycleDataset(split="train", samples=4)
    assert data.there.sum() == 343_274
    points = data.points_at(*np.nonzero(data.there))
    assert 2.1 < points[:, 1].min() < 2.12
    assert 5.0 < points[:, 1].max() < 5.03
    # A pixel of the left picture, its disparity, and the same point seen from the right.
    i, j = np.nonzero(data.there)
    x, away, _ = points.T
    right = data.FOCAL * (x - data.BASELINE) / away + data.CENTRE[0] + data.SHIFT
    np.testing.assert_allclose(j - right, data.disparity[i, j], atol=1e-9)
    sample = data[0]
    assert sample["cloud"]["color"].shape == (512, 3)
    assert len(sample["mean_color"]) == 3
    assert set(MotorcycleDataset(split="train", samples=4, color=False)[0]["cloud"]) == {"points"}
