"""S7. An `.npy` whose header claims any shape, nests for ever, or is a program; and an `.npz`, which is a zip."""

from __future__ import annotations

import io
import struct
import tarfile

import numpy as np
import pytest

from metaformer.data.webdataset import WebDataset
from metaformer.files.numbers import read_numbers

HEAD = "{'descr': '<f8', 'fortran_order': False, 'shape': %s, }\n"
HEADERS = {
    "large": HEAD % "(1000000000000,)",
    "64 bits": HEAD % f"({2**63},)",
    "more than 64 bits": HEAD % f"({2**70},)",
    "endless": HEAD % f"(1{'0' * 4000},)",
    "product": HEAD % "(4294967296, 4294967296, 4294967296)",
    "negative": HEAD % "(-1,)",
    "negative pair": HEAD % "(-8, -1)",
    "nested": HEAD % ("(" * 4000 + ")" * 4000),
    "power": HEAD % "(9**9**9,)",
    "call": HEAD % "(__import__('os').system('true'),)",
    "large type": HEAD.replace("<f8", "|V2000000000") % "(1,)",
    "cut short": "{'descr': '<f8', ",
}


def npy(name: str) -> bytes:
    header = HEADERS[name].encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(64)


@pytest.mark.parametrize("name", HEADERS)
def test_it_is_refused_before_memory_is_taken(tmp_path, refuse, memory, name):
    path = tmp_path / "0.npy"
    path.write_bytes(npy(name))
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.add(path, "0.npy")
    data = WebDataset(shards=str(tmp_path / "a.tar"))
    with memory(50):
        refuse(lambda: data[0], "cannot be decoded")
        refuse(lambda: read_numbers(path, [], 100), "give a readable .npy file")


def test_an_npz_is_unpacked_by_no_reader(tmp_path, refuse, memory):
    packed = io.BytesIO()
    np.savez_compressed(packed, a=np.zeros(5_000_000))
    (tmp_path / "0.npz").write_bytes(packed.getvalue())
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.add(tmp_path / "0.npz", "0.npz")
    with memory(16):
        assert WebDataset(shards=str(tmp_path / "a.tar"))[0]["npz"] == packed.getvalue()
        refuse(lambda: read_numbers(tmp_path / "0.npz", [], 100), "suffix")
