"""Signals, and ranks that die: everything ends within half a minute, saved, and can go on (bars C4 to C7, C12)."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import psutil
import pytest
from torch._C._distributed_c10d import HashStore

from metaformer.engine.place import Place, lost_peer
from metaformer.stopping import StopSignal
from tests.faulty import (
    arguments,
    deepspeed,
    environment,
    finish,
    only_run,
    plugin,
    run_ranks,
    spawn,
    start,
    start_ranks,
    status,
    steps,
    torchrun,
    train_here,
    wait_until,
)
from tests.selected import thorough

ALL = list(range(64))
SOON = 30.0


def marks(log: Path, *names: object) -> bool:
    """Whether any of these samples has been asked for."""
    return any((log / str(name)).exists() for name in names)


@pytest.fixture
def log(tmp_path):
    folder = tmp_path / "log"
    folder.mkdir()
    return folder


def train_data(**knobs: object) -> str:
    return "tasks.signs.data.train={use: vectors, " + ", ".join(f"{k}: {v}" for k, v in knobs.items()) + "}"


def valid_data(**knobs: object) -> str:
    return train_data(**knobs).replace("data.train", "data.valid")


# A signal, wherever the run is.


def begun(output: Path, step: int):
    """Whether a run below `output` has made so many steps."""
    return lambda: list(output.glob("small/*/metrics.jsonl")) and len(steps(only_run(output))) >= step


@pytest.mark.parametrize(
    "where", thorough(["train", "eval", "data_wait", "first_batch", "prepare"], ["data_wait", "prepare"])
)
def test_a_signal_saves_and_exits_75_wherever_the_run_is(tmp_path, log, where):
    sets = {
        "train": ("steps=100000",),
        "eval": ("eval_every=3", valid_data(size=16, seed=1, slow=[9], log=log)),
        "data_wait": (train_data(slow=[9], log=log), "batch_size=4"),
        "first_batch": (train_data(slow=ALL, log=log),),
        "prepare": (train_data(opening=4.0, log=log),),
    }[where]
    there = {
        "train": begun(tmp_path, 5),
        "eval": lambda: marks(log, 9),
        "data_wait": lambda: marks(log, 9),
        "first_batch": lambda: marks(log, *ALL),
        "prepare": lambda: marks(log, "opening"),
    }[where]
    process = start(arguments(tmp_path, *sets))
    wait_until(there, process)
    process.send_signal(signal.SIGTERM)
    began = time.monotonic()
    out = finish(process, SOON)
    assert process.returncode == 75, out
    assert time.monotonic() - began < 15
    path = only_run(tmp_path)
    found = status(path)
    assert found["state"] == "stopped"
    assert found["exit_code"] == 75
    assert "SIGTERM" in found["reason"]
    assert f"metaformer train --resume {path}" in out
    assert "Traceback" not in out
    saved = sorted(p.name for p in path.glob("checkpoints/step_*"))
    done = found["step"]
    assert saved[-1:] == ([f"step_{done:08d}"] if done else [])
    assert done == len(steps(path)) if (path / "metrics.jsonl").exists() else done == 0


def test_a_second_signal_ends_at_once(tmp_path, log):
    process = start(arguments(tmp_path, train_data(opening=60.0, log=log)))
    wait_until(lambda: marks(log, "opening"), process)
    process.send_signal(signal.SIGINT)
    time.sleep(1.0)
    assert process.poll() is None
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    out = finish(process, SOON)
    assert process.returncode == 130
    assert time.monotonic() - began < 5
    assert "ending at once" in out


def test_a_signal_that_comes_twice_at_once_is_one_request():
    # From the terminal and from the launcher, both of which Ctrl-C reaches.
    with StopSignal() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        deadline = time.monotonic() + 5
        while not stop.requested and time.monotonic() < deadline:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.1)
        assert stop.name in ("SIGINT", "SIGTERM")
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_process_that_was_forked_in_the_meantime_does_not_keep_it_from_ending():
    with StopSignal():
        child = os.fork()
        if child == 0:
            time.sleep(30)
            os._exit(0)
        began = time.monotonic()
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert time.monotonic() - began < 5


def test_one_rank_is_told_of_the_others_signal_through_the_store():
    import torch

    store = HashStore()
    places = [Place(rank, 2, torch.device("cpu"), store) for rank in range(2)]
    first = StopSignal(places[0])
    second = StopSignal(places[1])
    second._key = first._key
    assert not second.seen()
    first.request("SIGTERM")
    assert second.seen()


def test_outside_the_main_thread_nothing_is_set():
    before = signal.getsignal(signal.SIGTERM)
    seen = []

    def inside():
        with StopSignal():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    assert seen == [before]


# Two ranks.


def pid_of(rank: int, log: Path) -> int:
    return int((log / f"pid{rank}").read_text())


@pytest.mark.ranks
@pytest.mark.parametrize("launcher", ["deepspeed", "torchrun", "none"])
def test_a_signal_to_one_rank_stops_both_at_the_same_step(tmp_path, log, launcher):
    """`deepspeed` tells its ranks one after another, `torchrun` all; without a launcher only rank 1 hears of it."""
    sets = ("steps=100000", "engine={use: deepspeed, zero: 2, threads: 1}")
    words = arguments(tmp_path, *sets)
    if launcher == "none":
        processes = start_ranks(words)
        wait_until(begun(tmp_path, 5), processes[0])
        processes[1].send_signal(signal.SIGTERM)
        began = time.monotonic()
        outs = [finish(process, SOON) for process in processes]
        assert [process.returncode for process in processes] == [75, 75], outs
    else:
        command = {"deepspeed": deepspeed, "torchrun": torchrun}[launcher](2)
        process = spawn([*command, "metaformer", *words])
        wait_until(begun(tmp_path, 5), process)
        # `deepspeed` starts a launcher on each machine, and that one starts the ranks and hands signals on.
        parent = psutil.Process(process.pid)
        (parent.children()[0] if launcher == "deepspeed" else parent).send_signal(signal.SIGTERM)
        began = time.monotonic()
        finish(process, SOON)
    assert time.monotonic() - began < SOON
    path = only_run(tmp_path)
    found = status(path)
    assert found["state"] == "stopped", found
    assert found["exit_code"] == 75
    assert found["step"] == len(steps(path))
    assert (path / f"checkpoints/step_{found['step']:08d}/rank_1.pt").exists()
    if launcher == "none":
        # And it goes on.
        rest = f"steps={found['step'] + 4}"
        run_ranks([*arguments(tmp_path, *sets[1:], rest), "--resume", str(path), "--allow-drift"])
        assert status(path)["state"] == "finished"
        assert [record["step"] for record in steps(path)] == list(range(1, found["step"] + 5))


@pytest.mark.ranks
def test_a_rank_that_waits_for_data_hears_of_the_others_signal(tmp_path, log):
    # Rank 1 waits a minute for a sample; the signal comes to rank 0, which waits for rank 1 inside a collective.
    sets = ("batch_size=4", train_data(slow=[9], rank=1, log=log))
    processes = start_ranks(arguments(tmp_path, *sets))
    try:
        wait_until(lambda: marks(log, 9), processes[1])
        time.sleep(1.0)
        processes[0].send_signal(signal.SIGTERM)
        began = time.monotonic()
        outs = [finish(process, SOON) for process in processes]
        # Which rank reads sample 9 is the order's business: where it is rank 0's, nobody waits.
        assert [process.returncode for process in processes] in ([75, 75], [0, 0]), outs
        assert time.monotonic() - began < SOON
    finally:
        for process in processes:
            process.kill()


@pytest.mark.ranks
def test_a_killed_rank_ends_the_other_with_a_reason_and_the_run_goes_on(tmp_path, monkeypatch):
    sets = ("engine={use: deepspeed, zero: 1, threads: 1}", "save_every=3")
    shm = set(Path("/dev/shm").iterdir())
    processes = start_ranks(arguments(tmp_path, *sets, "steps=100000"))
    wait_until(begun(tmp_path, 7), processes[0])
    processes[1].kill()
    began = time.monotonic()
    out = finish(processes[0], SOON)
    finish(processes[1])
    assert time.monotonic() - began < SOON
    assert processes[0].returncode == 1
    assert "another rank has died or does not answer" in out
    path = only_run(tmp_path)
    found = status(path)
    assert found["state"] == "failed"
    assert "another rank has died" in found["reason"]
    assert found["resume"] == f"metaformer train --resume {path}"
    assert {p for p in Path("/dev/shm").iterdir() if not p.name.startswith("sem.")} - shm == set()
    with plugin(monkeypatch):
        # On one rank, which is what there is when another has died.
        train_here(tmp_path, *sets, f"steps={found['step'] + 3}", resume=str(path), drift=True)
    assert status(path)["state"] == "finished"


@pytest.mark.ranks
def test_a_fault_of_rank_zero_alone_stops_both(tmp_path):
    outs = run_ranks(arguments(tmp_path), (4, 4), FAULTS_FAIL_AT="5")
    assert "the plugin's own fault" in outs[0]
    assert "metaformer-plugin-faults" in outs[0]
    assert "rank 1 of 2 stops with the others" in outs[1]
    assert "the plugin's own fault" in outs[1]
    assert status(only_run(tmp_path))["state"] == "failed"


def test_what_other_libraries_say_of_a_lost_peer_is_understood():
    import torch

    two, one = (Place(0, world, torch.device("cpu")) for world in (2, 1))
    said = "[enforce fail at pair.cc:446] Connection closed by peer [127.0.0.1]:4711"
    assert "has died" in str(lost_peer(RuntimeError(said), two))
    assert lost_peer(RuntimeError(said), one) is None
    assert lost_peer(RuntimeError("shape mismatch"), two) is None
    assert lost_peer(ValueError(said), two) is None


def test_the_environment_of_the_tests_knows_the_plugin():
    assert "faults" in environment()["PYTHONPATH"]
