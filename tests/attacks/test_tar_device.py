"""S6. A shard with devices, pipes, sparse files, or kinds that no one knows."""

from __future__ import annotations

import tarfile

import pytest

from metaformer.data.webdataset import WebDataset

KINDS = [
    tarfile.CHRTYPE,
    tarfile.BLKTYPE,
    tarfile.FIFOTYPE,
    tarfile.GNUTYPE_SPARSE,
    tarfile.CONTTYPE,
    b"V",
    b"M",
    b"\xff",
]


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_refused(tmp_path, refuse, kind):
    info = tarfile.TarInfo("0.txt")
    info.type = kind
    (tmp_path / "bad.tar").write_bytes(info.tobuf() + bytes(1024))
    refuse(lambda: WebDataset(shards=str(tmp_path / "bad.tar")), "a device")
