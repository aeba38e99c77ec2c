"""S6. A torch file whose archive has members that lie elsewhere: nothing is ever extracted."""

from __future__ import annotations

import zipfile

import torch

from metaformer.weights.files import read_tensors


def test_it_is_refused_and_nothing_is_written(tmp_path, refuse):
    path = tmp_path / "in" / "evil.pt"
    path.parent.mkdir()
    torch.save({"a": torch.ones(2)}, path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("../escaped", b"x")
        archive.writestr(f"{tmp_path}/absolute", b"x")
    with zipfile.ZipFile(path) as archive:
        assert "../escaped" in archive.namelist()
    refuse(lambda: read_tensors(path))
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["evil.pt", "in"]
