"""S6, S7. A shard that is compressed, and could unpack to any size."""

from __future__ import annotations

import io
import tarfile

import pytest

from metaformer.data.webdataset import WebDataset


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz"])
def test_it_is_refused_before_it_is_unpacked(tmp_path, refuse, memory, mode):
    path = tmp_path / "a.tar"
    with tarfile.open(path, mode) as tar:
        info = tarfile.TarInfo("0.txt")
        info.size = 20_000_000
        tar.addfile(info, io.BytesIO(bytes(info.size)))
    assert path.stat().st_size < 100_000
    with memory(10):
        refuse(lambda: WebDataset(shards=str(path)), "decompress it")
