"""Runs of `tests/faults/small.yaml`: in this process, in one of their own, or in two that are ranks of one run."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
FAULTS = ROOT / "tests/faults"
SMALL = FAULTS / "small.yaml"
PAIRS = FAULTS / "pairs.yaml"
BIN = Path(sys.executable).parent


def arguments(output: Path, *sets: str) -> list[str]:
    """The command line of a small run that writes below `output`."""
    given = [part for one in (f"output={output}", *sets) for part in ("--set", one)]
    return ["train", str(SMALL), *given]


def environment(**more: str) -> dict[str, str]:
    """The variables of a process that knows the plugin of faults."""
    path = os.pathsep.join(filter(None, [str(FAULTS), os.environ.get("PYTHONPATH", "")]))
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path, "PATH": f"{BIN}:{os.environ['PATH']}", **more}


def spawn(command: list[str], **more: str) -> subprocess.Popen[str]:
    """A command in a process of its own; what it says goes to one pipe."""
    return subprocess.Popen(
        command, cwd=ROOT, env=environment(**more), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def start(words: list[str], **more: str) -> subprocess.Popen[str]:
    """`metaformer WORDS` in a process of its own."""
    return spawn([sys.executable, "-m", "metaformer", *words], **more)


def deepspeed(ranks: int) -> list[str]:
    """DeepSpeed's launcher, to be followed by a module."""
    options = ["--num_accelerators", str(ranks), "--master_port", str(free_port()), "--module"]
    return [str(BIN / "deepspeed"), *options]


def torchrun(ranks: int) -> list[str]:
    """torch's launcher, to be followed by a module."""
    return [str(BIN / "torchrun"), "--nproc-per-node", str(ranks), "--master-port", str(free_port()), "-m"]


def start_ranks(words: list[str], world: int = 2, **more: str) -> list[subprocess.Popen[str]]:
    """The same in `world` processes that are the ranks of one run, without a launcher between them and us."""
    port = str(free_port())
    return [
        start(
            words,
            RANK=str(r),
            LOCAL_RANK=str(r),
            WORLD_SIZE=str(world),
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=port,
            **more,
        )
        for r in range(world)
    ]


def finish(process: subprocess.Popen[str], timeout: float = 120) -> str:
    """Wait for a process; what it said."""
    try:
        out, _ = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        out, _ = process.communicate()
        raise AssertionError(f"not ended within {timeout} seconds\n{out}") from None
    return out


def run(words: list[str], code: int = 0, timeout: float = 120, **more: str) -> str:
    """`metaformer WORDS` to its end, which must have this exit code; what it said."""
    process = start(words, **more)
    out = finish(process, timeout)
    assert process.returncode == code, f"{process.returncode} instead of {code}\n{out}"
    return out


def run_ranks(words: list[str], codes: tuple[int, ...] = (0, 0), timeout: float = 150, **more: str) -> list[str]:
    """The same as two ranks; what each said."""
    processes = start_ranks(words, len(codes), **more)
    outs = [finish(process, timeout) for process in processes]
    found = tuple(process.returncode for process in processes)
    assert found == codes, f"{found} instead of {codes}\n" + "\n----\n".join(outs)
    return outs


def launch(command: list[str], timeout: float = 300) -> str:
    """A program that forks ranks (tests/ranks/forked.py), to a good end; what it said. Nothing of it is left."""
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    )  # fmt: skip
    try:
        out, _ = process.communicate(timeout=timeout)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, out[-6000:]
    return out


def free_port() -> int:
    """A port that nobody listens on, below those that the system gives to whoever asks: between now and the moment at
    which a rank listens on it lie seconds, in which another test's connection could get one of those."""
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                return port


def only_run(output: Path, name: str = "small") -> Path:
    """The run directory below `output`."""
    (path,) = (p.parent for p in (output / name).glob("*/resolved.yaml"))
    return path


def steps(path: Path) -> list[dict[str, Any]]:
    """The records of a run's steps."""
    lines = (path / "metrics.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if "loss_hex" in record]


TIMED = ("samples_per_s", "data_wait")


def curve(path: Path) -> list[Mapping[str, Any]]:
    """Everything on record about a run's steps but how long they took."""
    return [{key: value for key, value in record.items() if key not in TIMED} for record in steps(path)]


def status(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((path / "status.json").read_text())
    return found


def wait_until(what: Callable[[], Any], process: subprocess.Popen[str] | None = None, timeout: float = 90) -> Any:
    """Look until something is true, and return it; a process that ends before that is a failure."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if found := what():
            return found
        if process is not None and process.poll() is not None:
            raise AssertionError(f"the process ended with {process.returncode}\n{process.stdout.read()}")
        time.sleep(0.02)
    raise AssertionError(f"not within {timeout} seconds")


@contextmanager
def plugin(monkeypatch: Any) -> Iterator[None]:
    """Inside, this process knows the plugin of faults."""
    from metaformer.registry import registry

    monkeypatch.syspath_prepend(str(FAULTS))
    registry.cache_clear()
    try:
        yield
    finally:
        registry.cache_clear()


def train_here(output: Path, *sets: str, resume: str = "never", **options: bool) -> Path:
    """A small run in this process, inside `plugin`; its directory. A tenth of the time of a process of its own."""
    from metaformer.session import Options
    from metaformer.train import train_command

    train_command([SMALL], [*sets, f"output={output}"], resume, Options(**options))
    return only_run(output)
