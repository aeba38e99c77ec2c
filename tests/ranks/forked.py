"""Ranks that are forked from this process, which has imported everything: a start takes a second instead of ten."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable

# Imported before any fork, heavy as they are.
import torch.utils.tensorboard  # noqa: F401
import torchmetrics.classification  # noqa: F401

import metaformer.train  # noqa: F401
from metaformer.engine.settings import load_deepspeed
from tests.faulty import free_port


def in_ranks(world: int, work: Callable[[], None]) -> None:
    """Work in so many new processes, which are the ranks of one run. Raises RuntimeError where one of them does not
    end well, and ends the others."""
    load_deepspeed()
    port = str(free_port())
    waiting = {_fork(rank, world, port, work) for rank in range(world)}
    while waiting:
        pid, status = os.wait()
        waiting.discard(pid)
        if status != 0:
            for other in waiting:
                os.kill(other, signal.SIGKILL)
            raise RuntimeError(f"one of {world} ranks ended with {os.waitstatus_to_exitcode(status)}")


def _fork(rank: int, world: int, port: str, work: Callable[[], None]) -> int:
    pid = os.fork()
    if pid:
        return pid
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world))
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    code = 1
    try:
        work()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
