"""S2. A run directory from a stranger: a pickle in its checkpoint, and a manifest that is right about it."""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil

import pytest
import torch

from metaformer.evaluate import eval_command
from metaformer.predict import load
from metaformer.train import train_command


@pytest.fixture
def run(trained, tmp_path):
    """A copy of a run that looks stopped after its first step."""
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    newest = max((run / "checkpoints").glob("step_*"))
    shutil.rmtree(newest)
    for name in ("latest", "best"):
        (run / "checkpoints" / name).write_text(max((run / "checkpoints").glob("step_*")).name)
    status = json.loads((run / "status.json").read_text())
    (run / "status.json").write_text(json.dumps(status | {"state": "stopped", "step": 1}))
    return run


def checkpoint(run):
    return max((run / "checkpoints").glob("step_*"))


def forge(folder, name, trap, form):
    """Puts a pickle in the place of a file, and its size and digest into the manifest."""
    path = folder / name
    if form == "plain pickle":
        path.write_bytes(pickle.dumps(trap, protocol=2))
        trap.would_spring(lambda: pickle.loads(path.read_bytes()))
    else:
        torch.save({"x": trap}, path, _use_new_zipfile_serialization=form == "zip")
        trap.would_spring(lambda: torch.load(path, weights_only=False))
    manifest = json.loads((folder / "manifest.json").read_text())
    entry = manifest["files"][name]
    entry["bytes"], entry["sha256"] = path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_the_copy_itself_goes_on(run):
    train_command([], [], str(run))
    assert json.loads((run / "status.json").read_text())["state"] == "finished"


FORMS = ["zip", "legacy", "plain pickle"]


@pytest.mark.parametrize("form", FORMS)
def test_going_on_from_it_is_refused_and_runs_nothing(run, trap, refuse_run, form):
    folder = checkpoint(run)
    names = [path.name for path in folder.glob("*.pt")]
    assert names  # the random generators' state at least
    for name in names:
        keep = {path: path.read_bytes() for path in (folder / name, folder / "manifest.json")}
        forge(folder, name, trap, form)
        refuse_run(lambda: train_command([], [], str(run)))
        assert not trap.sprung, name
        for path, content in keep.items():
            path.write_bytes(content)


@pytest.mark.parametrize("form", FORMS)
def test_the_torch_engines_state_runs_nothing(run, trap, form):
    forge(checkpoint(run), "engine/optimizer.pt", trap, form)
    with pytest.raises(Exception):  # noqa: B017, PT011 - which one is for the test below
        train_command([], [], str(run))
    assert not trap.sprung


def test_the_torch_engines_state_is_refused_in_our_words(run, trap, refuse_run):
    forge(checkpoint(run), "engine/optimizer.pt", trap, "zip")
    refuse_run(lambda: train_command([], [], str(run)))


@pytest.mark.parametrize("form", ["zip", "plain pickle"])
def test_weights_that_are_a_pickle(run, trap, refuse_run, form):
    forge(checkpoint(run), "model.safetensors", trap, form)
    for use in (lambda: eval_command(run, []), lambda: load(run), lambda: train_command([], [], str(run))):
        refuse_run(use)
        assert not trap.sprung


def test_frozen_weights_that_are_a_pickle(run, trap, refuse_run):
    torch.save({"x": trap}, run / "frozen.safetensors")
    trap.would_spring(lambda: torch.load(run / "frozen.safetensors", weights_only=False))
    for use in (lambda: eval_command(run, []), lambda: load(run), lambda: train_command([], [], str(run))):
        refuse_run(use)
        assert not trap.sprung


def test_a_checkpoint_named_outside_of_the_run(run, refuse_run, tmp_path):
    """`best` and `latest` name a folder beside them, and no other."""
    shutil.copytree(checkpoint(run), tmp_path / "elsewhere")
    for path in ("../../elsewhere", str(tmp_path / "elsewhere")):
        for name in ("best", "latest"):
            (run / "checkpoints" / name).write_text(path)
        refuse_run(lambda: load(run))


@pytest.fixture
def refuse_run():
    """As `refuse`, without the clock: what comes before, building the model and reading data, is not the refusal."""
    from metaformer.errors import MetaformerError

    def check(call):
        with pytest.raises(MetaformerError) as caught:
            call()
        assert caught.value.do

    return check
