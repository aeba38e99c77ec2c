"""S2. An `.npy` of Python objects, which numpy keeps as a pickle, for every reader that takes `.npy`."""

from __future__ import annotations

import io
import tarfile

import numpy as np

from metaformer.data.webdataset import WebDataset
from metaformer.files.numbers import read_numbers


def test_it_is_refused_and_never_run(tmp_path, trap, refuse):
    path = tmp_path / "0.npy"
    np.save(path, np.array([trap, trap], dtype=object), allow_pickle=True)
    trap.would_spring(lambda: np.load(path, allow_pickle=True))
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        info = tarfile.TarInfo("0.npy")
        info.size = path.stat().st_size
        tar.addfile(info, io.BytesIO(path.read_bytes()))
    data = WebDataset(shards=str(tmp_path / "a.tar"))
    refuse(lambda: data[0], "can run code")
    refuse(lambda: read_numbers(path, [], 100), "Python objects")
    assert not trap.sprung
