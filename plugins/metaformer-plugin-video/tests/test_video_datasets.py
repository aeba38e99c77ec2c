"""Data sets: official layouts as they are, bundled films without a frame in both parts."""

from __future__ import annotations

import numpy as np
import pytest
from metaformer_plugin_video import clips
from metaformer_plugin_video.baseline import features
from metaformer_plugin_video.clips import FILMS, TestClipsDataset, film_path
from metaformer_plugin_video.datasets import KineticsCsvDataset, Ucf101Dataset

from metaformer.errors import DataError
from metaformer.testing import dataset_checks

CLASSES = ("ApplyEyeMakeup", "Archery", "YoYo")


@pytest.fixture
def ucf101(tmp_path):
    """The layout, with files that are no films: data sets open none."""
    lists = tmp_path / "ucfTrainTestlist"
    lists.mkdir()
    lists.joinpath("classInd.txt").write_text("".join(f"{i} {name}\r\n" for i, name in enumerate(CLASSES, 1)))
    for name in CLASSES:
        (tmp_path / "UCF-101" / name).mkdir(parents=True)
        for group in (1, 8):
            (tmp_path / "UCF-101" / name / f"v_{name}_g{group:02d}_c01.avi").write_bytes(b"film")
    train = [f"{name}/v_{name}_g08_c01.avi {i}\r\n" for i, name in enumerate(CLASSES, 1)]
    test = [f"{name}/v_{name}_g01_c01.avi\r\n" for name in CLASSES]
    lists.joinpath("trainlist01.txt").write_text("".join(train))
    lists.joinpath("testlist01.txt").write_text("".join(test))
    return tmp_path


def test_ucf101_is_read_in_its_official_layout(ucf101):
    train, valid = (Ucf101Dataset(root=ucf101, split=split) for split in ("train", "valid"))
    assert train.classes == {"label": list(CLASSES)}
    assert train[1] == {"video": ucf101 / "UCF-101/Archery/v_Archery_g08_c01.avi", "label": "Archery"}
    assert valid[2]["label"] == "YoYo"
    assert {valid.sample_id(i) for i in range(3)}.isdisjoint(train.sample_id(i) for i in range(3))
    before = train.fingerprint()
    (ucf101 / "UCF-101/Archery/v_Archery_g08_c01.avi").write_bytes(b"another")
    assert train.fingerprint() != before


def test_what_is_missing_of_ucf101_is_said(ucf101):
    with pytest.raises(DataError, match="unpack"):
        Ucf101Dataset(root=ucf101, split="train", fold=2)
    lists = ucf101 / "ucfTrainTestlist"
    lists.joinpath("trainlist02.txt").write_text("Juggling/v_Juggling_g08_c01.avi 1\n")
    with pytest.raises(DataError, match="line 1"):
        Ucf101Dataset(root=ucf101, split="train", fold=2)
    lists.joinpath("trainlist03.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="UTF-8"):
        Ucf101Dataset(root=ucf101, split="train", fold=3)
    (ucf101 / "UCF-101").rename(ucf101 / "elsewhere")
    with pytest.raises(DataError, match="no such folder"):
        Ucf101Dataset(root=ucf101, split="train")


@pytest.mark.parametrize("text", ["a b/one.mp4 1\ntwo.mp4 0\n", "path,label\na b/one.mp4,1\ntwo.mp4,0"])
def test_lists_of_files_and_labels(tmp_path, text):
    (tmp_path / "list.csv").write_text(text)
    data = KineticsCsvDataset(path=tmp_path / "list.csv")
    assert [data[i] for i in range(len(data))] == [
        {"video": tmp_path / "a b/one.mp4", "label": 1},
        {"video": tmp_path / "two.mp4", "label": 0},
    ]
    (tmp_path / "names.txt").write_text("no\nyes\n")
    named = KineticsCsvDataset(path=tmp_path / "list.csv", names=tmp_path / "names.txt", root=tmp_path / "films")
    assert named.classes == {"label": ["no", "yes"]}
    assert named[0]["video"] == tmp_path / "films" / "a b/one.mp4"


def test_lists_with_names_of_classes(tmp_path):
    (tmp_path / "list.csv").write_text("one.mp4,juggling balls\ntwo.mp4,archery\n")
    data = KineticsCsvDataset(path=tmp_path / "list.csv")
    assert data.classes == {"label": ["archery", "juggling balls"]}
    assert data[0]["label"] == "juggling balls"


@pytest.mark.parametrize("text", ["", "one.mp4\n", "one.mp4 1\ntwo.mp4 x\n", "one.mp4,\n"])
def test_lists_that_cannot_be_used(tmp_path, text):
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(DataError):
        KineticsCsvDataset(path=tmp_path / "list.csv")
    with pytest.raises(DataError):
        KineticsCsvDataset(path=tmp_path / "absent.csv")


def test_labels_beyond_the_names_are_refused(tmp_path):
    (tmp_path / "list.csv").write_text("one.mp4 1\n")
    (tmp_path / "names.txt").write_text("only\n")
    with pytest.raises(DataError, match="below 1"):
        KineticsCsvDataset(path=tmp_path / "list.csv", names=tmp_path / "names.txt")


@pytest.mark.parametrize("name", [c.name for c in dataset_checks(("any", {})) if c.name != "random_state"])
def test_conformance_of_layouts(ucf101, tmp_path, name):
    (tmp_path / "list.csv").write_text("UCF-101/Archery/v_Archery_g08_c01.avi 1\nUCF-101/YoYo/none.avi 0\n")
    for use in (
        ("ucf101", {"root": str(ucf101), "split": "train"}),
        ("kinetics_csv", {"path": str(tmp_path / "list.csv")}),
    ):
        {check.name: check for check in dataset_checks(use)}[name].run()


def test_no_frame_of_a_film_is_in_both_parts():
    train, valid = (TestClipsDataset(split=split, samples=2) for split in ("train", "valid"))
    for name in FILMS:
        (start, stop), (later, end) = train.parts[name], valid.parts[name]
        assert start == 0 < stop < later < end == len(clips._film(film_path(name)))
        assert later - stop >= 5


def test_a_pair_has_the_same_frames_in_two_orders():
    for task in ("order", "direction"):
        data = TestClipsDataset(split="train", task=task, samples=20)
        for index in range(0, 20, 2):
            one, other = data[index]["video"], data[index + 1]["video"]
            assert one.shape == (8, 32, 32)
            assert sorted(frame.tobytes() for frame in one) == sorted(frame.tobytes() for frame in other)
            if task == "direction":
                np.testing.assert_array_equal(one[::-1], other)


def test_answers_are_balanced_and_knobs_change_the_fingerprint():
    data = TestClipsDataset(split="valid", task="speed", samples=10)
    assert [data[i]["speed"] for i in range(10)] == ["once", "twice"] * 5
    prints = {TestClipsDataset(split="valid", samples=count).fingerprint() for count in (4, 6)}
    assert len(prints) == 2
    assert {TestClipsDataset(split="train", task="film", samples=30)[i]["film"] for i in range(30)} == set(FILMS)


def test_windows_that_do_not_fit_are_refused():
    with pytest.raises(DataError, match="36 frames"):
        TestClipsDataset(split="valid", frames=16, step=4, samples=2)


def test_without_the_package_the_line_to_install_it_is_given(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"pip install 'metaformer-plugin-video\[samples\]'"):
        TestClipsDataset(split="train", samples=2)


def test_the_baseline_sees_no_order_in_a_still_film():
    still = np.repeat(np.random.default_rng(0).integers(0, 256, (1, 32, 32), dtype=np.uint8), 8, axis=0)
    assert (features(still) == 0).all()
