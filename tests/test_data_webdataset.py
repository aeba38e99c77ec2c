"""Our samples are those of the webdataset library; damaged shards are refused by name. attacks/ has the hostile."""

from __future__ import annotations

import io
import json
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from metaformer_plugin_image.tokenizer import ImageTokenizer
from PIL import Image

from metaformer.data.webdataset import WebDataset, expand_braces, read_npy, split_name
from metaformer.errors import DataError


def npy(array: np.ndarray[Any, Any]) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def write(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def shard(start: int, count: int = 3) -> dict[str, bytes]:
    members: dict[str, bytes] = {"__meta__/index.json": b"{}", ".hidden": b"", "README": b"no ending"}
    for i in range(start, start + count):
        members[f"./{i:04d}.JPG" if i % 2 else f"./{i:04d}.png"] = bytes([i]) * (600 + i)
        members[f"./{i:04d}.cls"] = str(i % 3).encode()
        members[f"./{i:04d}.txt"] = f"caption {i} é".encode()
        members[f"./{i:04d}.json"] = json.dumps({"id": i}).encode()
        members[f"./{i:04d}.seg.npy"] = npy(np.arange(i, i + 6.0).reshape(2, 3))
    return members


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    for number in range(2):
        write(tmp_path / f"part-{number:03d}.tar", shard(3 * number))
    return tmp_path


def refused(**knobs: Any) -> str:
    with pytest.raises(DataError) as caught:
        WebDataset(**knobs)
    assert caught.value.found
    assert caught.value.do
    return str(caught.value)


# The library leaves the streams of its shards to the garbage collector.
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_samples_are_those_of_the_webdataset_library(shards: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    ours = WebDataset(shards=str(shards / "part-{000..001}.tar"))
    urls = str(shards / "part-{000..001}.tar")
    theirs = list(webdataset.WebDataset(urls, shardshuffle=False).decode())
    assert len(ours) == len(theirs) == 6
    for index, other in enumerate(theirs):
        assert ours.sample_id(index).endswith(other["__key__"])
        mine = {ending: value for ending, value in ours[index].items() if value is not None}
        assert mine.keys() == {ending for ending in other if not ending.startswith("__")}
        for ending, value in mine.items():
            np.testing.assert_array_equal(value, other[ending])


@pytest.mark.parametrize("pattern", ["part-{000..001}.tar", "part-{000,001}.tar", "part-*.tar", "."])
def test_columns_by_every_way_to_name_shards(shards: Path, pattern: str) -> None:
    columns = {"image": "jpg;png", "label": "cls", "signal": "seg.npy"}
    data = WebDataset(shards=pattern, root=shards, columns=columns, classes={"label": ("a", "b", "c")})
    assert len(data) == 6
    for index in (5, 0, 3):
        sample = data[index]
        assert sample["image"] == bytes([index]) * (600 + index)
        assert sample["label"] == index % 3
        np.testing.assert_array_equal(sample["signal"], np.arange(index, index + 6.0).reshape(2, 3))
    assert data.classes["label"] == ("a", "b", "c")
    with pytest.raises(IndexError):
        data[6]
    again = pickle.loads(pickle.dumps(data))
    assert again[4]["image"] == data[4]["image"]
    assert again.fingerprint() == data.fingerprint()


def test_a_member_may_be_missing(tmp_path: Path) -> None:
    write(tmp_path / "a.tar", {"0.txt": b"x", "0.cls": b"1", "1.cls": b"2"})
    data = WebDataset(shards=str(tmp_path), columns={"text": "txt", "label": "cls"})
    assert [data[0], data[1]] == [{"text": "x", "label": 1}, {"text": None, "label": 2}]


def test_fingerprint_follows_the_members(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tar", {"0.txt": b"x"})
    first = WebDataset(shards=str(path)).fingerprint()
    assert WebDataset(shards=str(path)).fingerprint() == first
    write(path, {"0.txt": b"xy"})
    assert WebDataset(shards=str(path)).fingerprint() != first


def test_brace_expansion() -> None:
    braceexpand = pytest.importorskip("braceexpand").braceexpand
    for pattern in ("a-{000..012}.tar", "{a,b}/{0..2}{x,y}", "plain", "{9..11}", "{03..1}.tar", "{x}.tar"):
        assert expand_braces(pattern) == list(braceexpand(pattern))


def test_names() -> None:
    assert split_name("a.b/c.seg.PNG") == ("a.b/c", "seg.png")
    assert [split_name(name)[0] for name in ("._x.jpg", "d/.x.jpg", "noending", "__m__/a.b")] == [""] * 4


def test_wrong_knobs(shards: Path) -> None:
    assert "part-002.tar" in refused(shards="part-{000..002}.tar", root=shards)
    assert "no file" in refused(shards="nothing-*.tar", root=shards)
    assert "only local files" in refused(shards="pipe:cat x.tar")
    wrong = refused(shards=".", root=shards, columns={"text": "tex"})
    assert "did you mean 'txt'?" in wrong
    data = WebDataset(shards=".", root=shards, columns={"text": "txt"}, max_bytes=3)
    with pytest.raises(DataError, match="max_bytes"):
        data[0]


def empty(name: str = "0.txt") -> bytes:
    return tarfile.TarInfo(name).tobuf() + bytes(1024)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "tar"),
        (b"not a tar" * 100, "tar"),
        (empty(name="readme"), "found: none"),
        (empty()[:512] + empty(), "two members"),
        (empty()[:512], "no end mark"),
        (empty()[:512] + b"x" * 512 + empty(), "damaged"),
    ],
)
def test_damaged_shards_are_refused(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "bad.tar"
    path.write_bytes(content)
    message = refused(shards=str(path))
    assert says in message
    assert "bad.tar" in message


def test_every_truncation_is_noticed(tmp_path: Path) -> None:
    whole = write(tmp_path / "whole.tar", {"0.txt": b"x" * 700, "1.txt": b"y"}).read_bytes()
    ends = 512 + 1024 + 512 + 512  # two headers, two contents in blocks
    path = tmp_path / "bad.tar"
    for size in [*range(0, ends, 100), 512, 1536, ends, ends + 511]:
        path.write_bytes(whole[:size])
        assert "bad.tar" in refused(shards=str(path))


def test_undecodable_members_are_data_errors(tmp_path: Path) -> None:
    objects = npy(np.array([{"a": 1}], dtype=object))
    lies = npy(np.zeros(3)).replace(b"(3,)", b"(9,)")
    bad = {"txt": b"\xff", "cls": b"one", "json": b"{", "npy": objects, "a.npy": lies, "b.npy": b"\x93NUMPY"}
    write(tmp_path / "a.tar", {f"0.{ending}": data for ending, data in bad.items()})
    for ending in bad:
        data = WebDataset(shards=str(tmp_path), columns={"x": ending})
        with pytest.raises(DataError) as caught:
            data[0]
        assert f"a.tar: 0.{ending}" in str(caught.value)


@pytest.mark.parametrize(
    "array", [np.zeros((2, 0)), np.asfortranarray(np.arange(6).reshape(2, 3)), np.array(5.0), np.array(["ab", "c"])]
)
def test_arrays_are_those_numpy_reads(array: np.ndarray[Any, Any]) -> None:
    again = read_npy(npy(array))
    np.testing.assert_array_equal(again, array)
    assert again.dtype == array.dtype
    assert again.flags.writeable


def test_flipped_bytes_never_do_more_than_a_data_error(tmp_path: Path) -> None:
    good = write(tmp_path / "good.tar", {"0.txt": b"x", "0.cls": b"1", "0.npy": npy(np.arange(4.0))}).read_bytes()
    path, rng = tmp_path / "bad.tar", np.random.default_rng(0)
    outcomes = set()
    for _ in range(400):
        data = bytearray(good)
        data[int(rng.integers(0, 3200))] ^= int(rng.integers(1, 256))
        path.write_bytes(data)
        try:
            samples = WebDataset(shards=str(path))
            outcomes.add(len([samples[i] for i in range(len(samples))]) > 0)
        except DataError:
            outcomes.add(False)
    assert outcomes == {True, False}


def test_shards_as_img2dataset_writes_them(tmp_path: Path) -> None:
    """As CC3M and LAION are downloaded: keys of nine digits, a table and statistics beside every shard, and nothing of
    the pictures that could not be had."""
    captions = {0: "a cat\non a mat", 1: "zwei Hühner", 4: "the sea"}
    for number, keys in enumerate(([0, 1], [4])):
        members = {}
        for key in keys:
            file = io.BytesIO()
            Image.new("RGB", (6, 4 + key), (40 * key, 90, 10)).save(file, "JPEG", quality=95)
            name = f"{number:05d}{key:04d}"
            told = {"url": "gone", "caption": captions[key], "key": name, "status": "success", "width": 6}
            members[f"{name}.jpg"] = file.getvalue()
            members[f"{name}.json"] = json.dumps(told).encode()
            members[f"{name}.txt"] = captions[key].encode()
        write(tmp_path / f"{number:05d}.tar", members)
        (tmp_path / f"{number:05d}.parquet").write_bytes(b"PAR1 of all that was asked for")
        (tmp_path / f"{number:05d}_stats.json").write_text('{"count": 3, "successes": 2}')
    data = WebDataset(shards=str(tmp_path), columns={"image": "jpg;png;webp", "caption": "txt"})
    assert [data.sample_id(i) for i in range(len(data))] == [
        "00000/000000000",
        "00000/000000001",
        "00001/000010004",
    ]
    assert [data[i]["caption"] for i in range(3)] == list(captions.values())
    preprocess = ImageTokenizer(8, image_size=4, patch_size=2, resize="exact").preprocess
    for index, key in enumerate(captions):
        pixels = preprocess(data[index]["image"], False)["pixels"]
        assert pixels.shape == (3, 4, 4)
        assert abs(int(pixels[0, 2, 2]) - 40 * key) < 6
