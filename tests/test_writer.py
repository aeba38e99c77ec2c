"""One writer per run directory (bar C10)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from metaformer.errors import CheckpointError
from metaformer.writer import FILE, Writer
from tests.faulty import arguments, environment, finish, only_run, run, start, steps, wait_until

HOLD = """
import sys, time
from pathlib import Path
from metaformer.writer import Writer
with Writer(Path(sys.argv[1]), print):
    print("held", flush=True)
    time.sleep(60)
"""


def hold(folder):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True, env=environment()
    )
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_writer_is_refused_and_a_dead_one_is_taken_over_with_a_warning(tmp_path):
    said = []
    process = hold(tmp_path)
    try:
        with pytest.raises(CheckpointError, match=f"process {process.pid} on ") as caught:
            Writer(tmp_path, said.append).__enter__()
        assert caught.value.exit_code == 7
        assert not said
    finally:
        process.kill()
        process.communicate()
    with Writer(tmp_path, said.append):
        assert json.loads((tmp_path / FILE).read_text())["pid"] == os.getpid()
    (warning,) = said
    assert f"process {process.pid}" in warning
    assert "takes over" in warning


def test_one_that_ended_well_leaves_no_mark(tmp_path):
    said = []
    for _ in range(2):
        with Writer(tmp_path, said.append):
            assert (tmp_path / FILE).stat().st_size
        assert (tmp_path / FILE).read_text() == ""
    assert not said


def test_children_that_outlive_a_killed_writer_do_not_hold_the_lock(tmp_path):
    # Data workers are forked and notice a dead parent only after seconds.
    ready, told = os.pipe()
    writer = os.fork()
    if writer == 0:
        Writer(tmp_path, print).__enter__()
        child = os.fork()
        if child == 0:
            time.sleep(20)
            os._exit(0)
        os.write(told, str(child).encode())
        signal.pause()
    child = int(os.read(ready, 32))
    os.kill(writer, signal.SIGKILL)
    os.waitpid(writer, 0)
    said = []
    with Writer(tmp_path, said.append):
        assert said
    # It was still there.
    os.kill(child, signal.SIGKILL)


def test_two_processes_do_not_train_one_run(tmp_path):
    first = start(arguments(tmp_path, "steps=100000", "save_every=5"))
    try:
        wait_until(lambda: list(tmp_path.glob("small/*/checkpoints/step_*")), first)
        path = only_run(tmp_path)
        before = len(steps(path))
        out = run(["train", "--resume", str(path)], 7)
        assert f"process {first.pid}" in out
        wait_until(lambda: len(steps(path)) > before + 5, first)
    finally:
        first.send_signal(signal.SIGTERM)
        finish(first, 30)
    assert [record["step"] for record in steps(path)] == list(range(1, len(steps(path)) + 1))
