"""Saving: whatever moment a process, a disk or a power supply chooses to die, a checkpoint that is whole is there."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from metaformer import durable, saver
from metaformer.checkpoint import MANIFEST, newest_valid, pointer, verify
from metaformer.engine import find_place
from metaformer.errors import CheckpointError, NoSpaceError
from metaformer.loop import run_steps, train_step
from metaformer.prepare import prepare
from metaformer.recipe_file import read_recipe
from metaformer.report.console import Console
from metaformer.run import Run
from metaformer.saver import copied, estimate, is_full, warning
from metaformer.session import Session
from metaformer.stopping import StopSignal
from metaformer.window import take_window
from tests.faulty import SMALL, curve, plugin


@pytest.fixture
def make_session(tmp_path, monkeypatch):
    """A prepared run; `steps` says how many it has made."""
    with plugin(monkeypatch), StopSignal() as stop:

        def make(*sets: str, steps: int = 0, name: str = "run") -> Session:
            file = read_recipe(SMALL, (f"output={tmp_path}", *sets))
            session = prepare(Run(tmp_path / name, file, SMALL.parent), find_place(), Console(quiet=True), stop)
            session.engine.model.train()
            session.open_stream()
            advance(session, steps)
            return session

        yield make


def advance(session: Session, steps: int) -> None:
    for _ in range(steps):
        train_step(session, take_window(session))


def save(session: Session, best: float | None = None, wait: bool = True) -> None:
    session.saver.save(session.progress.done, session.state(), best, wait)


def names(session: Session) -> list[str]:
    return sorted(path.name for path in session.run.checkpoints.iterdir())


class Died(BaseException):
    """The moment at which a process would have been killed."""


class Shim:
    """Counts the calls by which saving changes the disk, and dies before or after one of them."""

    CALLS = ((io, "open"), *((os, name) for name in ("open", "fsync", "replace", "rename", "unlink", "rmdir", "mkdir")))

    def __init__(self, monkeypatch, at: int | None = None, after: bool = False) -> None:
        self.seen: list[str] = []
        self.at, self.after = at, after
        for owner, name in self.CALLS:
            monkeypatch.setattr(owner, name, self.wrapped(getattr(owner, name), name))

    def wrapped(self, original, name):
        def call(*arguments, **keywords):
            if name == "open" and not any("w" in str(a) for a in (*arguments[1:2], keywords.get("mode", ""))):
                return original(*arguments, **keywords)
            self.seen.append(f"{name} {Path(str(arguments[0])).name}")
            now = len(self.seen) - 1 == self.at
            if now and not self.after:
                raise Died
            result = None
            try:
                result = original(*arguments, **keywords)
                return result
            finally:
                if now:
                    if isinstance(result, io.IOBase):
                        result.close()
                    raise Died

        return call


def test_killed_at_every_call_of_a_save_a_whole_checkpoint_is_there(make_session, monkeypatch):
    session = make_session("keep_last=1", steps=1)
    save(session)
    advance(session, 1)
    with monkeypatch.context() as patch:
        shim = Shim(patch)
        save(session)
        calls = shim.seen
    # Every kind of call is among them: what was written, synced, moved, and the old checkpoint's files that went.
    assert {call.split()[0] for call in calls} >= {"open", "fsync", "mkdir"}
    assert sum(call.startswith("fsync") for call in calls) >= 8
    tried = 0
    for after in (False, True):
        for at in range(len(calls)):
            advance(session, 1)
            before = newest_valid(session.run)[0]
            with monkeypatch.context() as patch:
                shim = Shim(patch, at, after)
                try:
                    save(session)
                except Died:
                    tried += 1
                else:
                    assert at >= len(shim.seen), f"nothing died at call {at}: {shim.seen}"
            found, wrong = newest_valid(session.run)
            assert found is not None, f"{calls[at]}: {names(session)}"
            assert found == before or found.name == f"step_{session.progress.done:08d}"
            assert not wrong, f"{calls[at]}: {wrong}"
            session.saver._failed = None
            save(session)
            assert newest_valid(session.run)[0].name == f"step_{session.progress.done:08d}"
    assert tried >= 2 * len(calls) - 6


def test_whatever_was_not_synced_is_lost_in_a_power_cut_and_nothing_is(make_session, monkeypatch):
    session = make_session(steps=1)
    synced: set[str] = set()
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (synced.add(Path(f"/proc/self/fd/{fd}").resolve().name), fsync(fd))[1])
    save(session)
    monkeypatch.undo()
    folder = newest_valid(session.run)[0]
    files = [path for path in folder.rglob("*") if path.is_file()]
    # The manifest was synced under the name it was written by.
    lost = [path for path in files if path.name not in synced and not any(MANIFEST in name for name in synced)]
    assert lost == []
    assert {path.name for path in files} - {MANIFEST} <= synced
    assert "checkpoints" in synced
    assert any(name.startswith(".tmp-step_00000001") for name in synced)


def test_a_file_lost_in_a_power_cut_is_noticed_and_the_checkpoint_before_is_used(make_session):
    session = make_session(steps=1)
    save(session)
    advance(session, 1)
    save(session)
    folder = newest_valid(session.run)[0]
    for path in [path for path in folder.rglob("*") if path.is_file()]:
        contents = path.read_bytes()
        path.write_bytes(b"")
        found, wrong = newest_valid(session.run)
        assert found.name == "step_00000001", path
        assert len(wrong) == 1
        path.write_bytes(contents)
    assert newest_valid(session.run)[0] == folder


def test_saving_in_the_background_gives_the_same_bytes(make_session):
    here, beside = make_session(name="here", steps=2), make_session(name="beside", steps=2)
    save(here)
    save(beside, wait=False)
    # Training goes on, and must not change what is being written.
    advance(beside, 3)
    beside.saver.finish()
    ours, theirs = newest_valid(beside.run)[0], newest_valid(here.run)[0]
    assert ours.name == theirs.name == "step_00000002"
    first, second = load_file(ours / "model.safetensors"), load_file(theirs / "model.safetensors")
    assert all(torch.equal(first[name], second[name]) for name in second)
    assert (ours / "engine/optimizer.pt").read_bytes() == (theirs / "engine/optimizer.pt").read_bytes()


def test_a_run_that_saves_in_the_background_is_the_same_run(make_session):
    runs = [make_session(f"save_async={flag}", "save_every=2", name=flag) for flag in ("false", "true")]
    for session in runs:
        run_steps(session)
    assert curve(runs[0].run.path) == curve(runs[1].run.path)
    kept = [sorted(p.name for p in s.run.checkpoints.glob("step_*")) for s in runs]
    assert kept[0] == kept[1]


def test_an_error_in_the_background_comes_at_the_next_step(make_session, monkeypatch):
    session = make_session(steps=1)

    def fail(*arguments, **keywords):
        raise OSError(errno.EIO, "the disk has gone")

    monkeypatch.setattr(saver, "save_file", fail)
    save(session, wait=False)
    session.saver._thread.join()
    with pytest.raises(OSError, match="the disk has gone"):
        take_window(session)
    assert newest_valid(session.run)[0] is None


@pytest.mark.parametrize("wait", [True, False])
def test_a_full_disk_ends_the_run_with_the_last_checkpoint_whole(make_session, monkeypatch, wait):
    session = make_session("keep_last=3", steps=1)
    for _ in range(3):
        save(session)
        advance(session, 1)
    original = saver.save_file

    def full(tensors, path):
        original(tensors, path)
        Path(path).write_bytes(Path(path).read_bytes()[:100])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(saver, "save_file", full)
    with pytest.raises(NoSpaceError, match="bytes are free") as caught:
        (save(session, wait=wait), session.saver.finish())
    assert caught.value.exit_code == 8
    # It has let go of all but the newest before it gave up, and has left nothing half-written.
    left = names(session)
    assert left == ["latest", "step_00000003"] if wait else "step_00000003" in left
    assert not any(name.startswith(".tmp") for name in left)
    assert newest_valid(session.run) == (session.run.checkpoints / "step_00000003", [])


def test_room_made_by_letting_old_checkpoints_go_is_used(make_session, monkeypatch):
    session = make_session("keep_last=3", steps=1)
    for _ in range(3):
        save(session)
        advance(session, 1)
    original, calls = saver.save_file, []

    def full_at_first(tensors, path):
        calls.append(path)
        if len(calls) == 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        original(tensors, path)

    monkeypatch.setattr(saver, "save_file", full_at_first)
    save(session)
    assert [name for name in names(session) if name.startswith("step")] == ["step_00000003", "step_00000004"]


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 256 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", folder], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"no file system can be mounted here: {made.stderr.strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize("free", [0, 1024, 30_000, 60_000])
def test_a_really_full_disk(make_session, small_disk, free):
    session = make_session("save_every=4", steps=1)
    save(session)
    moved = small_disk / "checkpoints"
    shutil.move(session.run.checkpoints, moved)
    session.run.checkpoints.symlink_to(moved)
    filler = small_disk / "filler"
    with filler.open("wb") as file:
        space = shutil.disk_usage(small_disk).free - free
        file.write(b"x" * max(space, 0))
    advance(session, 1)
    with pytest.raises(NoSpaceError, match=r"full|space"):
        save(session)
    assert newest_valid(session.run)[0].name == "step_00000001"
    assert not any(name.startswith(".tmp") for name in names(session))
    filler.unlink()
    session.saver._failed = None
    save(session)
    assert newest_valid(session.run)[0].name == "step_00000002"


def test_torch_says_in_words_that_the_disk_is_full(small_disk):
    with pytest.raises((RuntimeError, OSError)) as caught, (small_disk / "big.pt").open("wb") as file:
        torch.save(torch.zeros(1_000_000), file)
    assert is_full(caught.value)


def test_a_disk_that_was_full_for_a_save_in_the_background_is_tried_again(make_session, monkeypatch):
    session = make_session("keep_last=3", steps=1)
    for _ in range(3):
        save(session)
        advance(session, 1)
    original, calls = saver.save_file, []

    def full_at_first(tensors, path):
        calls.append(path)
        if len(calls) == 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        original(tensors, path)

    monkeypatch.setattr(saver, "save_file", full_at_first)
    save(session, wait=False)
    session.saver._thread.join()
    assert isinstance(session.saver.error(), NoSpaceError)
    advance(session, 1)
    assert [name for name in names(session) if name.startswith("step")] == ["step_00000003", "step_00000004"]
    monkeypatch.setattr(saver, "save_file", lambda tensors, path: full_at_first(calls.clear(), path))
    save(session, wait=False)
    session.saver._thread.join()
    monkeypatch.setattr(saver, "save_file", lambda tensors, path: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
    with pytest.raises(NoSpaceError):
        take_window(session)
    assert newest_valid(session.run)[0].name == "step_00000004"


def test_retention_keeps_the_newest_and_the_best(make_session):
    session = make_session("keep_last=2", "keep_best=2")
    for step, best in enumerate([0.1, 0.5, None, 0.6, None, None], start=1):
        advance(session, 1)
        save(session, best)
        assert session.progress.done == step
    kept = [f"step_0000000{n}" for n in (2, 4, 5, 6)]
    assert [name for name in names(session) if name.startswith("step")] == kept
    assert pointer(session.run, "best").name == "step_00000004"
    assert pointer(session.run, "latest").name == "step_00000006"
    assert json.loads((session.run.path / "best.json").read_text())["kept"] == ["step_00000002", "step_00000004"]


def test_nothing_older_goes_before_the_new_one_has_been_looked_at(make_session, monkeypatch):
    session = make_session("keep_last=1", steps=1)
    save(session)
    advance(session, 1)
    original = saver.write_manifest

    def wrong(folder, files):
        name = next(iter(files))
        original(folder, {**files, name: {**files[name], "bytes": 1}})

    monkeypatch.setattr(saver, "write_manifest", wrong)
    with pytest.raises(CheckpointError):
        save(session)
    verify(session.run.checkpoints / "step_00000001")


def test_leftovers_of_a_killed_run_are_swept_away(make_session, tmp_path):
    session = make_session(steps=1)
    save(session)
    for name in (".tmp-step_00000002", ".old-step_00000000"):
        (session.run.checkpoints / name / "engine").mkdir(parents=True)
    again = make_session(steps=0)
    assert again.progress.done == 1
    assert not any(name.startswith(".") for name in names(again))


def test_the_estimate_is_within_a_tenth_and_warns_before_the_first_step(make_session, monkeypatch):
    for engine in ("{use: torch}", "{use: deepspeed}", *(f"{{use: deepspeed, zero: {zero}}}" for zero in (1, 2, 3))):
        sets = ("encoders.shared.dim=128", "encoders.shared.depth=2", f"engine={engine}")
        session = make_session(*sets, steps=1, name=f"run{abs(hash(engine))}")
        expected = estimate(session.engine)
        save(session)
        folder = newest_valid(session.run)[0]
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        assert expected == pytest.approx(size, rel=0.1), engine
    assert warning(session.run, session.engine) == ""
    monkeypatch.setattr(saver, "free_bytes", lambda folder: expected)
    assert f"a checkpoint takes about {expected:,}" in warning(session.run, session.engine)


def test_copies_share_nothing_with_what_training_changes():
    tensor = torch.zeros(3)
    value = {"a": [tensor, (tensor, 1)], "b": {"c": tensor}}
    taken = copied(value)
    tensor += 1
    assert torch.equal(taken["a"][0], torch.zeros(3))
    assert torch.equal(taken["a"][1][0], torch.zeros(3))
    assert torch.equal(taken["b"]["c"], torch.zeros(3))


def test_text_is_written_beside_and_moved(tmp_path, monkeypatch):
    target = tmp_path / "a.json"
    durable.write_atomic(target, "old")

    def fail(fd):
        raise OSError(errno.EIO, "gone")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="gone"):
        durable.write_atomic(target, "new")
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
