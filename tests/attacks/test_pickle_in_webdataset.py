"""S2. Members of a WebDataset shard that its own library would unpickle."""

from __future__ import annotations

import io
import pickle
import tarfile

import pytest

from metaformer.data.webdataset import PICKLES, WebDataset


@pytest.mark.parametrize("ending", [*sorted(PICKLES), "seg.pkl", "PKL"])
def test_they_are_never_read(tmp_path, trap, refuse, ending):
    content = pickle.dumps(trap)
    trap.would_spring(lambda: pickle.loads(content))
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        info = tarfile.TarInfo(f"0.{ending}")
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))
    for columns in ({}, {"x": ending}):
        refuse(lambda columns=columns: WebDataset(shards=str(tmp_path), columns=columns), "can run code")
    assert not trap.sprung
