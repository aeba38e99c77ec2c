"""One writer per run directory: a lock that the kernel gives back when its process dies."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from metaformer.errors import CheckpointError

FILE = "writer"


class Writer:
    """While entered, no other process may write the run directory. `warn` is told where a dead one left its mark."""

    def __init__(self, folder: Path, warn: Callable[[str], None]) -> None:
        self._path, self._warn = folder / FILE, warn
        self._descriptor: int | None = None

    def __enter__(self) -> Writer:
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        there = os.read(descriptor, 4096).decode(errors="replace")
        try:
            # A record lock: unlike `flock`'s, it does not live on in data workers that outlive a killed process.
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            os.close(descriptor)
            raise self._taken(there) from None
        except OSError:
            # A file system without locks: the mark itself has to do.
            if there and _lives(there):
                os.close(descriptor)
                raise self._taken(there) from None
        if there:
            self._warn(f"{self._path}: {_said(there)} died without a word; this process takes over")
        mark = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(mark).encode(), 0)
        self._descriptor = descriptor
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._descriptor is not None:
            # Emptied, not deleted: another process may have opened it already and wait for the lock of this very file.
            os.ftruncate(self._descriptor, 0)
            os.close(self._descriptor)
            self._descriptor = None

    def _taken(self, there: str) -> CheckpointError:
        return CheckpointError(
            f"write the run directory {self._path.parent}",
            f"{_said(there)} is writing it",
            "wait until it has ended, or train into another run directory",
        )


def _said(mark: str) -> str:
    try:
        about = json.loads(mark)
        return f"process {about['pid']} on {about['host']} (since {about['since']})"
    except (ValueError, KeyError, TypeError):
        return "another process"


def _lives(mark: str) -> bool:
    """Whether the process of a mark may still be there; on another host nobody here can know."""
    try:
        about = json.loads(mark)
        if about["host"] != socket.gethostname():
            return True
        os.kill(int(about["pid"]), 0)
    except ProcessLookupError:
        return False
    except (ValueError, KeyError, TypeError, PermissionError):
        return True
    return True
