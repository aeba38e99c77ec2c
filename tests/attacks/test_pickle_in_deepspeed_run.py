"""S2: a run directory of a stranger's, whole by its own manifest, whose DeepSpeed state is a program."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from metaformer.checkpoint import file_sha256
from metaformer.engine.screen import screened
from metaformer.errors import CheckpointError
from metaformer.session import Options
from metaformer.train import train_command
from tests.faulty import SMALL, plugin

KINDS = ("model_states", "optim_states")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run under ZeRO 1 that has ended, to be made into one that has not."""
    output = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch, plugin(patch):
        train_command([SMALL], [f"output={output}", "steps=4", "engine={use: deepspeed, zero: 1, threads: 1}"])
    (run,) = (output / "small").iterdir()
    (run / "status.json").write_text(json.dumps({"state": "failed", "step": 4}))
    return run


def poisoned(trained, folder, kind, payload):
    """A copy with a payload in one of DeepSpeed's files, and a manifest that vouches for it."""
    run = folder / "run"
    shutil.copytree(trained, run)
    (checkpoint,) = run.glob("checkpoints/step_*")
    (path,) = (checkpoint / "engine").rglob(f"*{kind}.pt")
    torch.save({"optimizer_state_dict": payload, "module": payload}, path)
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    name = path.relative_to(checkpoint).as_posix()
    manifest["files"][name] = {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
    (checkpoint / "manifest.json").write_text(json.dumps(manifest))
    return run


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_refused_unread(trained, tmp_path, trap, refuse, monkeypatch, kind):
    run = poisoned(trained, tmp_path, kind, trap)
    (path,) = run.rglob(f"*{kind}.pt")
    refuse(lambda: screened(path), "--trust-checkpoint")
    with plugin(monkeypatch), pytest.raises(CheckpointError, match="--trust-checkpoint") as caught:
        train_command([], [], str(run))
    assert "which is code, and was not run" in str(caught.value)
    assert caught.value.exit_code == 7
    assert not trap.sprung


def test_what_is_trusted_is_read(trained, tmp_path, trap, monkeypatch):
    """The proof that it is a payload: with consent it does run."""
    run = poisoned(trained, tmp_path, "model_states", trap)
    with plugin(monkeypatch), pytest.raises(Exception):  # noqa: B017, PT011 - it holds nothing else
        train_command([], [], str(run), Options(trust=True))
    assert trap.sprung
