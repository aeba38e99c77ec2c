"""S6. A shard of a million members with nothing in them."""

from __future__ import annotations

import tarfile

import pytest

from metaformer.data.tar import MAX_MEMBERS
from metaformer.data.webdataset import WebDataset


@pytest.mark.parametrize(
    "kind", [tarfile.REGTYPE, tarfile.DIRTYPE, b"g", b"x"], ids=["files", "folders", "notes", "own notes"]
)
def test_it_is_refused_at_once(tmp_path, refuse, memory, kind):
    blocks = []
    for number in range(1000):
        info = tarfile.TarInfo(f"{number:03d}.txt")
        info.type = kind
        blocks.append(info.tobuf(tarfile.USTAR_FORMAT))
    path = tmp_path / "bad.tar"
    thousand = b"".join(blocks)
    with path.open("wb") as file:
        for _ in range(MAX_MEMBERS // 1000 + 1):  # the rest of a million is never looked at
            file.write(thousand)
        file.truncate(1_000_000 * 512)
    with memory(200):
        refuse(lambda: WebDataset(shards=str(path)), "write smaller shards|headers about one member")
    path.unlink()
