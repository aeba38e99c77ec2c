"""Being asked to stop: the first signal asks, all ranks answer at the next step, a second one ends at once.

Python runs signal handlers between two of its instructions on the main thread, which may be inside a collective for
minutes. So a thread of its own listens on the wake-up descriptor that the C level writes to at once, and tells the
other ranks through the store: launchers may signal one rank only, or one after another.
"""

from __future__ import annotations

import itertools
import os
import signal
import socket
import threading
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from metaformer.engine.place import Place

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_AGAIN = 0.5
"""Seconds between two signals of one kind that make the second one a demand to end at once. Ctrl-C reaches a rank from
the terminal and from its launcher as well, almost at the same time: that is one request."""
_END = b"\0"
"""No signal has this number."""
_numbers = itertools.count()


class StopSignal:
    """While entered, SIGINT and SIGTERM to any rank set `requested` on all of them instead of ending the process."""

    def __init__(self, place: Place | None = None) -> None:
        """Made on all ranks alike, so that they mean the same key of the store."""
        self.requested = False
        self.name = ""
        self._place, self._key = place, f"stop/{next(_numbers)}"
        self._old: dict[signal.Signals, Any] = {}
        self._ends: tuple[socket.socket, socket.socket] | None = None
        self._asked: dict[int, float] = {}

    def __enter__(self) -> StopSignal:
        # Python delivers signals to the main thread only; elsewhere (a notebook's worker) there is nothing to set.
        if threading.current_thread() is not threading.main_thread():
            return self
        self._ends = socket.socketpair()
        for end in self._ends:
            end.setblocking(False)
        self._fd = signal.set_wakeup_fd(self._ends[1].fileno(), warn_on_full_buffer=False)
        for number in _SIGNALS:
            # Some handler has to be there for the wake-up to be written.
            self._old[number] = signal.signal(number, lambda number, frame: None)
        self._thread = threading.Thread(target=self._listen, name="stop-signal", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._ends is None:
            return
        for number, old in self._old.items():
            signal.signal(number, old)
        signal.set_wakeup_fd(self._fd)
        # A word, not only the end of the line: a data worker that was forked in the meantime holds the line open.
        self._ends[1].send(_END)
        self._thread.join()
        self._ends[1].close()
        self._ends[0].close()
        self._ends = None

    def seen(self) -> bool:
        """Whether this rank or any other was asked to stop: a look, not an agreement."""
        if not self.requested and self._place is not None and self._place.world > 1:
            self.requested = self._place.store.check([self._key])
        return self.requested

    def request(self, name: str) -> None:
        """Ask, as a signal would."""
        self.requested, self.name = True, name
        if self._place is None or self._place.world == 1:
            return
        try:
            self._place.store.set(self._key, name)
        except RuntimeError:
            # The store lives on rank zero: where that has gone, the next collective says so.
            return

    def _listen(self) -> None:
        assert self._ends is not None
        listening = self._ends[0]
        listening.setblocking(True)
        while data := listening.recv(64):
            for number in data:
                if number == _END[0]:
                    return
                if number in _SIGNALS:
                    self._count(number)

    def _count(self, number: int) -> None:
        name, now = signal.Signals(number).name, time.monotonic()
        if now - self._asked.get(number, now) >= _AGAIN:
            os.write(2, f"{name} again: ending at once; the last checkpoint stays as it is\n".encode())
            os._exit(128 + number)
        self._asked.setdefault(number, now)
        self.request(name)
