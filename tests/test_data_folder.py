"""Folder-per-class data: torchvision's order, and a clear word about everything that is not there."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from metaformer.data.folder import FolderDataset
from metaformer.errors import DataError


def fill(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return root


FILES = ("dog/b.JPEG", "dog/a.png", "dog/deep/z.jpg", "dog/deep/er/0.jpg", "cat/10.jpg", "cat/9.jpg", "Ant/x.webp")


def test_samples_classes_and_names(tmp_path):
    data = FolderDataset(root=fill(tmp_path, *FILES, "cat/notes.txt", "readme.md"))
    assert data.classes == {"label": ["Ant", "cat", "dog"]}
    assert len(data) == len(FILES)
    assert data[0] == {"image": tmp_path / "Ant/x.webp", "label": "Ant"}
    ids = ["Ant/x.webp", "cat/10.jpg", "cat/9.jpg", "dog/a.png", "dog/b.JPEG", "dog/deep/z.jpg", "dog/deep/er/0.jpg"]
    assert [data.sample_id(index) for index in range(len(data))] == ids
    assert all(data[index]["image"].is_file() for index in range(len(data)))
    for index in (-1, len(data)):
        with pytest.raises(IndexError):
            data[index]


def test_order_is_that_of_torchvision(tmp_path):
    from torchvision.datasets import ImageFolder

    fill(tmp_path, *FILES, "dog/d-x/1.jpg", "dog/d/1.jpg", "dog/d/a/2.jpg")
    theirs = ImageFolder(tmp_path)
    ours = FolderDataset(root=tmp_path)
    assert [str(ours[index]["image"]) for index in range(len(ours))] == [path for path, _ in theirs.samples]
    assert [ours[index]["label"] for index in range(len(ours))] == [theirs.classes[c] for _, c in theirs.samples]


def test_knobs(tmp_path):
    fill(tmp_path, "a/1.wav", "a/2.jpg", "b/3.WAV")
    data = FolderDataset(root=tmp_path, stream="sound", target="word", extensions=("wav",))
    assert [data[index] for index in range(len(data))] == [
        {"sound": tmp_path / "a/1.wav", "word": "a"},
        {"sound": tmp_path / "b/3.WAV", "word": "b"},
    ]


def test_hidden_files_are_skipped_and_links_followed(tmp_path):
    root = fill(tmp_path / "root", "a/1.jpg", "a/.2.jpg", "a/.thumbs/3.jpg", ".git/x/4.jpg")
    fill(tmp_path / "elsewhere", "5.jpg")
    (root / "b").symlink_to(tmp_path / "elsewhere")
    (root / "a" / "6.jpg").symlink_to(tmp_path / "elsewhere" / "5.jpg")
    (root / "a" / "loop").symlink_to(root / "a")
    data = FolderDataset(root=root)
    assert [data.sample_id(index) for index in range(len(data))] == ["a/1.jpg", "a/6.jpg", "b/5.jpg"]


def test_names_that_are_not_ascii(tmp_path):
    data = FolderDataset(root=fill(tmp_path, "été/naïve ☃.jpg"))
    assert data[0] == {"image": tmp_path / "été/naïve ☃.jpg", "label": "été"}


def test_fingerprint_sees_names_and_sizes(tmp_path):
    fill(tmp_path, *FILES)
    before = FolderDataset(root=tmp_path).fingerprint()
    assert FolderDataset(root=tmp_path).fingerprint() == before
    (tmp_path / FILES[0]).write_bytes(b"longer than it was before")
    resized = FolderDataset(root=tmp_path).fingerprint()
    (tmp_path / FILES[0]).rename(tmp_path / "dog/c.jpeg")
    renamed = FolderDataset(root=tmp_path).fingerprint()
    assert len({before, resized, renamed}) == 3


def test_pickles_small(tmp_path):
    data = FolderDataset(root=fill(tmp_path, *(f"a/{index:06d}.jpg" for index in range(500))))
    pickled = pickle.dumps(data)
    assert len(pickled) < 500 * 40
    assert pickle.loads(pickled)[499] == data[499]


@pytest.mark.parametrize(
    ("files", "says"),
    [
        (None, "no such folder"),
        ((), "an empty folder"),
        (("1.jpg", "2.jpg"), "2 files and no folder"),
        (("a/1.jpg", "b/1.txt", "b/2.txt"), "1 of 2 class folders have none: b; they hold 2 x .txt"),
        (("a/.1.jpg",), "1 of 1 class folders have none: a"),
    ],
)
def test_what_is_not_there_is_said(tmp_path, files, says):
    root = tmp_path / "root"
    if files is not None:
        root.mkdir()
        fill(root, *files)
    with pytest.raises(DataError) as error:
        FolderDataset(root=root)
    assert says in error.value.found
    assert str(root) in error.value.asked
    assert error.value.do


def test_a_missing_imagenet_says_what_is_expected_and_how_to_get_it(tmp_path):
    with pytest.raises(DataError) as error:
        FolderDataset(root=tmp_path / "imagenet" / "train")
    assert "ROOT/CLASS/FILE" in error.value.do
    assert "train/n01440764" in error.value.do
    assert "register at the ImageNet site" in error.value.do


def test_a_file_as_root(tmp_path):
    fill(tmp_path, "x.jpg")
    with pytest.raises(DataError, match="a file, not a folder"):
        FolderDataset(root=tmp_path / "x.jpg")
