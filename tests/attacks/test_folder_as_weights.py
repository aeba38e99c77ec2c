"""S2. A folder of a distributed checkpoint or of DeepSpeed, whose files are pickles, given as weights."""

from __future__ import annotations

import pickle

import pytest
import torch

from metaformer.weights.files import read_tensors
from metaformer.weights.source import open_source
from metaformer.weights.uri import check_file


@pytest.fixture(params=["distributed", "DeepSpeed"])
def folder(request, tmp_path, trap):
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    if request.param == "distributed":
        (folder / ".metadata").write_bytes(pickle.dumps(trap))
        torch.save(trap, folder / "__0_0.distcp")
    else:
        (folder / "global_step1").mkdir()
        torch.save({"module": trap}, folder / "global_step1/mp_rank_00_model_states.pt")
        (folder / "latest").write_text("global_step1")
        torch.save(trap, folder / "pytorch_model.bin")
    return folder


def test_it_is_refused_and_never_run(folder, trap, refuse):
    pickles = [path for path in folder.rglob("*") if path.is_file() and path.name != "latest"]
    for path in pickles:
        load = pickle.loads if path.name == ".metadata" else None
        trap.would_spring(
            lambda path=path, load=load: load(path.read_bytes()) if load else torch.load(path, weights_only=False)
        )
    refuse(lambda: read_tensors(folder), "a folder")
    refuse(lambda: open_source(f"file:{folder}"), "a folder")
    refuse(lambda: open_source(f"run:{folder}"), "no run directory")
    assert check_file(f"file:{folder}")
    assert not trap.sprung


def test_a_pickle_in_the_place_of_a_runs_weights(tmp_path, trap, refuse):
    step = tmp_path / "run/checkpoints/step_00000001"
    step.mkdir(parents=True)
    torch.save({"encoders.shared.x": trap}, step / "model.safetensors")
    trap.would_spring(lambda: torch.load(step / "model.safetensors", weights_only=False))
    refuse(lambda: open_source(f"run:{tmp_path / 'run'}"), "was not run")
    assert not trap.sprung
