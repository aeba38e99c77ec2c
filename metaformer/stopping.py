"""Being asked to stop: the first signal asks, the loop answers at the next step, a second signal ends at once."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any


class StopSignal:
    """While entered, SIGINT and SIGTERM set `requested` instead of ending the process."""

    def __init__(self) -> None:
        self.requested = False
        self.name = ""
        self._old: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopSignal:
        # Python delivers signals to the main thread only; elsewhere (a notebook's worker) there is nothing to set.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._old[number] = signal.signal(number, self._ask)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, old in self._old.items():
            signal.signal(number, old)
        self._old.clear()

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            self.__exit__(None, None, None)
            signal.raise_signal(number)
        self.requested, self.name = True, signal.Signals(number).name
