"""S6. A shard with links, which lead the next member elsewhere when extracted."""

from __future__ import annotations

import tarfile

import pytest

from metaformer.data.webdataset import WebDataset


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
@pytest.mark.parametrize("target", ["/etc/passwd", "../x", "0.cls", "a" * 300])
def test_it_is_refused(tmp_path, refuse, kind, target):
    with tarfile.open(tmp_path / "bad.tar", "w", format=tarfile.GNU_FORMAT) as tar:
        info = tarfile.TarInfo("0.txt")
        info.type, info.linkname = kind, target
        tar.addfile(info)
    refuse(lambda: WebDataset(shards=str(tmp_path / "bad.tar")), "a link to")
    assert [p.name for p in tmp_path.iterdir()] == ["bad.tar"]
