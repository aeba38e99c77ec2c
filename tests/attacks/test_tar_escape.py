"""S6. A shard whose members are named to land elsewhere when extracted."""

from __future__ import annotations

import io
import tarfile

import pytest

from metaformer.data.webdataset import WebDataset


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("name", ["../0.txt", "/0.txt", "a/../../0.txt", "..", "long/" * 12 + "../" * 14 + "0.txt"])
def test_it_is_refused_and_nothing_is_written(tmp_path, refuse, form, name):
    path = tmp_path / "in" / "bad.tar"
    path.parent.mkdir()
    with tarfile.open(path, "w", format=form) as tar:
        info = tarfile.TarInfo(name)
        info.size = 4
        tar.addfile(info, io.BytesIO(b"evil"))
    refusal = refuse(lambda: WebDataset(shards=str(path)), "leaves the archive")
    assert "bad.tar" in refusal.asked
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["bad.tar", "in"]
