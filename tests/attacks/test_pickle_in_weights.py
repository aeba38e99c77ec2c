"""S2. Weights that are a pickle with a call in it, in every form torch reads and under every name."""

from __future__ import annotations

import pickle

import pytest
import torch

from metaformer.weights.files import read_tensors
from metaformer.weights.source import open_source


@pytest.mark.parametrize("form", ["zip", "legacy", "plain pickle"])
@pytest.mark.parametrize("name", ["evil.pt", "evil.bin", "evil.safetensors", "evil"])
def test_it_is_refused_and_never_run(tmp_path, trap, refuse, form, name):
    path = tmp_path / name
    content = {"0.norm1.weight": torch.ones(2), "x": trap}
    if form == "plain pickle":
        path.write_bytes(pickle.dumps(content))
        trap.would_spring(lambda: pickle.loads(path.read_bytes()))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
        trap.would_spring(lambda: torch.load(path, weights_only=False))
    for read in (lambda: read_tensors(path), lambda: open_source(f"file:{path}")):
        refusal = refuse(read, "was not run")
        assert "safetensors" in refusal.do
        assert not trap.sprung


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_no_pickle_protocol_gets_through(tmp_path, trap, refuse, protocol):
    path = tmp_path / "evil.bin"
    path.write_bytes(pickle.dumps({"x": trap}, protocol=protocol))
    trap.would_spring(lambda: pickle.loads(path.read_bytes()))
    refuse(lambda: read_tensors(path), "was not run|neither a safetensors nor a torch file")
    assert not trap.sprung
