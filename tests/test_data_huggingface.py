"""Saved folders, data folders and hub names give the same samples; nothing decodes media, nothing runs code."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from metaformer.data.huggingface import HuggingFaceDataset
from metaformer.errors import DataError

datasets = pytest.importorskip("datasets")


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Any:
    file = tmp_path_factory.mktemp("pictures") / "c.png"
    file.write_bytes(b"nor this")
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "label": datasets.ClassLabel(names=["cat", "dog"]),
            "name": datasets.Value("string"),
            "signal": datasets.List(datasets.Value("float32")),
            "score": datasets.Value("float64"),
        }
    )
    columns = {
        "image": [{"bytes": b"not even a picture", "path": None}, None, {"bytes": None, "path": str(file)}],
        "label": [1, 0, 1],
        "name": ["b", "a", "b"],
        "signal": [[1.0, 2.0], [], None],
        "score": [0.5, None, float("nan")],
    }
    return datasets.Dataset.from_dict(columns, features=features)


@pytest.fixture
def saved(tmp_path: Path, table: Any) -> str:
    datasets.DatasetDict(train=table, test=table.select([0])).save_to_disk(tmp_path / "saved")
    return str(tmp_path / "saved")


def refused(**knobs: Any) -> str:
    with pytest.raises(DataError) as caught:
        HuggingFaceDataset(**knobs)
    assert caught.value.found
    assert caught.value.do
    return str(caught.value)


def check(data: HuggingFaceDataset) -> None:
    images = [data[i]["image"] for i in range(3)]
    assert images[:2] == [b"not even a picture", None]
    # A folder that `save_to_disk` wrote holds the picture itself, Parquet may hold the name of its file.
    assert (Path(images[2]).read_bytes() if isinstance(images[2], str) else images[2]) == b"nor this"
    assert [data[i]["label"] for i in range(3)] == [1, 0, 1]
    assert [data[i]["score"] for i in range(3)] == [0.5, None, None]
    np.testing.assert_array_equal(data[0]["signal"], [1.0, 2.0])
    assert data[2]["signal"] is None
    assert data.classes["label"] == ("cat", "dog")
    assert data.classes["name"] == ("a", "b")
    assert "signal" not in data.classes


def test_saved_folder(saved: str) -> None:
    data = HuggingFaceDataset(path=saved, split="train")
    check(data)
    check(pickle.loads(pickle.dumps(data)))
    with pytest.raises(IndexError):
        data[3]
    assert len(HuggingFaceDataset(path=saved, split="test")) == 1


def test_folder_of_parquet(tmp_path: Path, table: Any) -> None:
    (tmp_path / "data").mkdir()
    table.to_parquet(tmp_path / "data" / "train-00000.parquet")
    knobs: dict[str, Any] = {"path": str(tmp_path / "data"), "cache": tmp_path / "cache"}
    check(HuggingFaceDataset(split="train", **knobs))
    first, second = (HuggingFaceDataset(split=f"train[{part}]", **knobs) for part in (":1", "1:2"))
    assert [first[0]["name"], second[0]["name"]] == ["b", "a"]
    assert first.fingerprint() != second.fingerprint()


def test_folder_of_pictures_gives_file_names(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / "data" / "train" / name).mkdir(parents=True)
        (tmp_path / "data" / "train" / name / "1.png").write_bytes(b"not decoded")
    data = HuggingFaceDataset(path=str(tmp_path / "data"), split="train", cache=tmp_path / "cache")
    names = [data.classes["label"][data[i]["label"]] for i in range(2)]
    assert names == ["cat", "dog"]
    assert [Path(data[i]["image"]).parent.name for i in range(2)] == names


def test_columns_id_and_row_stream(saved: str) -> None:
    columns = {"picture": "image", "row": "*"}
    data = HuggingFaceDataset(path=saved, split="train", columns=columns, id="name")
    sample = data[1]
    assert sample.keys() == {"picture", "row"}
    assert sample["row"].keys() == {"label", "signal", "score"}
    assert data.sample_id(1) == "a"
    listed = HuggingFaceDataset(path=saved, split="train", columns={"y": "label"}, classes={"y": ("c", "d")})
    assert listed.classes["y"] == ("c", "d")


def test_fingerprint_follows_the_data(tmp_path: Path) -> None:
    found = []
    for number, label in enumerate(("cat", "cat", "cow")):
        folder = tmp_path / str(number)
        datasets.Dataset.from_dict({"label": [label, "dog"]}).save_to_disk(folder)
        found.append(HuggingFaceDataset(path=str(folder), split="train").fingerprint())
    assert found[0] == found[1] != found[2]


def test_wrong_knobs(tmp_path: Path, saved: str) -> None:
    assert "did you mean 'test'?" in refused(path=saved, split="tset")
    assert "did you mean 'label'?" in refused(path=saved, split="train", columns={"y": "lable"})
    assert "`id`" in refused(path=saved, split="train", id="nmae")
    assert "`name`" in refused(path=saved, split="train", name="x")
    assert "nothing at" in refused(path=str(tmp_path / "absent"), split="train")
    assert "empty `path`" in refused(path="", split="train")
    (tmp_path / "saved" / "train" / "state.json").write_text("x")
    assert "save it again" in refused(path=str(Path(saved) / "train"), split="train")


def test_code_beside_data_is_never_run(tmp_path: Path) -> None:
    folder = tmp_path / "script"
    folder.mkdir()
    (folder / "script.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    assert "script" in refused(path=str(folder), split="train", cache=tmp_path / "cache")
    assert not (tmp_path / "ran").exists()


def test_a_hub_name_without_network_says_how_to_get_the_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    message = refused(path="nobody/nothing", split="train", cache=tmp_path)
    assert "'nobody/nothing'" in message
    assert "save_to_disk" in message
