"""Data sets: small ones in the official layouts, and what the bundled ones promise."""

import numpy as np
import pytest
from metaformer_plugin_pointcloud.conformance import annotations, meshes, parts, resampled, rooms, scans
from metaformer_plugin_pointcloud.modelnet import ModelNetDataset
from metaformer_plugin_pointcloud.s3dis import S3disDataset
from metaformer_plugin_pointcloud.scanobjectnn import ScanObjectDataset
from metaformer_plugin_pointcloud.scenes import MotorcycleDataset, TerrainDataset, stripes
from metaformer_plugin_pointcloud.shapenetpart import ShapeNetPartDataset

from metaformer.errors import DataError


def test_modelnet(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    data = ModelNetDataset(**meshes(tmp_path / "a"), split="train")
    assert len(data) == 4
    assert data.classes["label"] == ["chair", "night_stand"]
    assert data[3] == {"cloud": tmp_path / "a/night_stand/train/night_stand_0001.off", "label": "night_stand"}
    data = ModelNetDataset(**resampled(tmp_path / "b"), split="train")
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
    knobs = {**rooms(tmp_path / "a"), "split": "valid", "points": 16, "crops": 3}
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
    labels = S3disDataset(**annotations(tmp_path / "b"), split="train", points=1000, crops=3)[0]["classes"]
    assert set(labels) == {2, 7, 12}  # wall, chair, and stairs as clutter
    np.save(tmp_path / "a/Area_5_hallway_1.npy", np.full((5, 7), 13.0))
    with pytest.raises(DataError, match="class"):
        S3disDataset(**knobs)[0]


def test_shapenetpart(tmp_path):
    data = ShapeNetPartDataset(**parts(tmp_path), split="train")
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
