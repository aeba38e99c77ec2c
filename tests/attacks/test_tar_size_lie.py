"""S6. A shard whose headers claim sizes that are not there: of members, of long names, of attributes."""

from __future__ import annotations

import tarfile

import pytest

from metaformer.data.tar import MAX_NOTE
from metaformer.data.webdataset import WebDataset


def header(kind: bytes, size: int, name: str = "0.txt") -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, size
    return info.tobuf(tarfile.GNU_FORMAT)


def field(kind: bytes, size: bytes) -> bytes:
    """A header with these bytes for its size, and the right sum."""
    block = bytearray(header(kind, 0))
    block[124:136] = size
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.DIRTYPE, b"L", b"K", b"x", b"g"])
@pytest.mark.parametrize("size", [513, 8**11 - 1, 2**62, 2**80])
def test_more_than_the_file_has(tmp_path, refuse, memory, kind, size):
    path = tmp_path / "bad.tar"
    path.write_bytes(header(kind, size) + bytes(1024))
    with memory(50):
        refuse(lambda: WebDataset(shards=str(path)), "cut short|attributes")


@pytest.mark.parametrize(
    "size", [b"-0000001000\0", b"+0000001000\0", b"0000_001000\0", b"\xff" * 12, b"999\0" * 3, b"0x10\0" + bytes(7)]
)
def test_what_is_no_size(tmp_path, refuse, size):
    path = tmp_path / "bad.tar"
    path.write_bytes(field(tarfile.REGTYPE, size) + bytes(2048))
    refuse(lambda: WebDataset(shards=str(path)), "damaged")


@pytest.mark.parametrize("kind", [b"L", b"K", b"x", b"g"])
def test_a_gigabyte_of_name(tmp_path, refuse, memory, kind):
    """The bytes are there, as a hole in the file, and are not read."""
    path = tmp_path / "bad.tar"
    path.write_bytes(header(kind, 1 << 30))
    with path.open("r+b") as file:
        file.truncate((1 << 30) + 4096)
    assert MAX_NOTE < (1 << 30)
    with memory(50):
        refuse(lambda: WebDataset(shards=str(path)), "attributes")


@pytest.mark.parametrize("record", ["size=0", "size=99999999", "GNU.sparse.major=1", "GNU.sparse.realsize=99999999999"])
def test_attributes_that_give_another_size(tmp_path, refuse, record):
    path = tmp_path / "bad.tar"
    text = f"{len(record) + 4} {record}\n".encode()
    note = header(b"x", len(text)) + text.ljust(512, b"\0")
    path.write_bytes(note + header(tarfile.REGTYPE, 512) + bytes(512 + 1024))
    refuse(lambda: WebDataset(shards=str(path)), "change what follows")


def test_attributes_without_end(tmp_path, refuse):
    path = tmp_path / "bad.tar"
    for text in (b"9999 path=x\n", b"0 path=x\n", b"-5 path=x\n", b"path", b"3 =\n" * 10, b"5 a=b"):
        note = header(b"x", len(text)) + text.ljust(512, b"\0")
        path.write_bytes(note + header(tarfile.REGTYPE, 0) + bytes(1024))
        refuse(lambda: WebDataset(shards=str(path)), "attributes")


def test_a_member_that_is_too_large_to_read(tmp_path, refuse, memory):
    path = tmp_path / "big.tar"
    path.write_bytes(header(tarfile.REGTYPE, 2 << 30))
    with path.open("r+b") as file:
        file.truncate((2 << 30) + 2048)
    data = WebDataset(shards=str(path))
    with memory(50):
        refuse(lambda: data[0], "max_bytes")
