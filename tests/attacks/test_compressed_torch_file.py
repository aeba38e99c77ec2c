"""S6, S7. A torch file whose members are compressed, and unpack to any size."""

from __future__ import annotations

import zipfile

import pytest

from metaformer.weights.files import read_tensors


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
@pytest.mark.parametrize("member", ["archive/data.pkl", "archive/data/0"])
def test_it_is_refused_before_it_is_unpacked(tmp_path, refuse, memory, method, member):
    path = tmp_path / "bomb.pth"
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr(member, b"\0" * 20_000_000)
    assert path.stat().st_size < 100_000
    with memory(10):
        refuse(lambda: read_tensors(path), "compressed members")
