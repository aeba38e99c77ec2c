"""Any byte of any file may be wrong: what comes out is a value or a DataError, soon and in bounded memory (bar T2)."""

from __future__ import annotations

import io
import json
import random
import tarfile
import time
import warnings
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from metaformer.base import Dataset
from metaformer.data.folder import FolderDataset
from metaformer.data.manifest import ManifestDataset
from metaformer.data.webdataset import WebDataset
from metaformer.errors import DataError
from metaformer.registry import registry
from metaformer.schema import construct

TRIES = 150
SECONDS = 5.0
"""What one read may take, at the very most."""


def picture() -> Image.Image:
    values = np.random.default_rng(0).integers(0, 255, (24, 20, 3), dtype=np.uint8)
    return Image.fromarray(values)


def encoded(form: str) -> bytes:
    out = io.BytesIO()
    picture().save(out, form)
    return out.getvalue()


def table(form: str) -> bytes:
    rows = [{"text": f"line {i}", "label": "a" if i % 2 else "b", "number": i / 3} for i in range(20)]
    if form == "jsonl":
        return "".join(json.dumps(row) + "\n" for row in rows).encode()
    if form == "csv":
        return ("text,label,number\n" + "".join(",".join(map(str, row.values())) + "\n" for row in rows)).encode()
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), out)
    return out.getvalue()


def shard() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for i in range(6):
            for ending, data in (("json", b'{"a": 1}'), ("txt", b"some text"), ("cls", b"1"), ("npy", array())):
                member = tarfile.TarInfo(f"{i:04}.{ending}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    return out.getvalue()


def array() -> bytes:
    out = io.BytesIO()
    np.save(out, np.arange(12, dtype=np.float32).reshape(3, 4))
    return out.getvalue()


def flips(content: bytes, seed: int):
    """One to eight bytes changed, or the end cut off."""
    draw = random.Random(seed)
    for _ in range(TRIES):
        changed = bytearray(content)
        for _ in range(draw.choice((1, 1, 1, 2, 8))):
            changed[draw.randrange(len(changed))] = draw.randrange(256)
        yield bytes(changed[: draw.randrange(len(changed))] if draw.random() < 0.15 else changed)


def read_all(dataset: Dataset) -> None:
    for index in range(min(len(dataset), 30)):
        dataset.sample_id(index)
        dataset[index]


def survive(read) -> str:
    """`value` or `refused`; anything else is a failure."""
    began = time.monotonic()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            read()
        return "value"
    except DataError:
        return "refused"
    finally:
        assert time.monotonic() - began < SECONDS


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", "PPM"])
def test_pictures(form):
    knobs = {"image_size": 16, "patch_size": 8}
    preprocess = construct(registry().load("tokenizer", "image"), knobs, {"dim": 8}).preprocess

    def read(content: bytes):
        raw = preprocess(content, train=False)
        assert raw["pixels"].shape[-2:] == (16, 16)
        assert torch.isfinite(raw["pixels"].float()).all()

    outcomes = {survive(lambda content=content: read(content)) for content in flips(encoded(form), 1)}
    assert "refused" in outcomes
    assert survive(lambda: read(encoded(form))) == "value"


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_tables(tmp_path, form):
    path = tmp_path / f"rows.{form}"
    outcomes = set()
    for content in flips(table(form), 2):
        path.write_bytes(content)
        outcomes.add(survive(lambda: read_all(ManifestDataset(path=path))))
    assert outcomes == {"value", "refused"}


def test_shards(tmp_path):
    path = tmp_path / "shard.tar"
    outcomes = set()
    for content in flips(shard(), 3):
        path.write_bytes(content)
        outcomes.add(survive(lambda: read_all(WebDataset(shards=str(path)))))
    assert outcomes == {"value", "refused"}


def test_folders(tmp_path):
    (tmp_path / "cats").mkdir()
    for content in flips(encoded("PNG"), 4):
        (tmp_path / "cats/1.png").write_bytes(content)
        dataset = FolderDataset(root=Path(tmp_path))
        assert survive(lambda dataset=dataset: read_all(dataset)) == "value"  # a path, read by the tokenizer


TS = b"""@problemName Small
@timeStamps false
@missing false
@univariate true
@equalLength true
@seriesLength 4
@classLabel true a b
@data
1.0,2.0,3.0,4.0:a
2.0,3.0,4.0,5.0:b
"""


@pytest.mark.parametrize("form", ["npy", "csv"])
def test_series(tmp_path, form):
    knobs = {"channels": 4, "max_length": 8, "patch_length": 2}
    tokenizer = construct(registry().load("tokenizer", "timeseries"), knobs, {"dim": 8})
    preprocess = tokenizer.preprocess
    content = array() if form == "npy" else b"1,2,3,4\n2,3,4,5\n3,4,5,6\n"
    path = tmp_path / f"series.{form}"

    def read():
        # A value may be missing, which is NaN until it is a token.
        assert torch.isfinite(tokenizer(preprocess.collate([preprocess(path, train=False)])).x).all()

    outcomes = set()
    for changed in flips(content, 5):
        path.write_bytes(changed)
        outcomes.add(survive(read))
    assert outcomes == {"value", "refused"}


def test_ts_archives(tmp_path):
    from metaformer.files.ts import read_ts

    path = tmp_path / "series.ts"
    outcomes = set()
    for changed in flips(TS, 6):
        path.write_bytes(changed)
        outcomes.add(survive(lambda: read_ts(path)))
    assert outcomes == {"value", "refused"}


@pytest.mark.parametrize("text", ["\ud800", "a\0b", "\u202e" * 50, "x" * 100_000])
def test_texts(text):
    preprocess = construct(registry().load("tokenizer", "text"), {"max_length": 16}, {"dim": 8}).preprocess
    assert survive(lambda: preprocess(text, train=False)) in ("value", "refused")
