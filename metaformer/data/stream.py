"""The stream of a run's batches, waited for in such a way that the wait can be interrupted.

Reading happens on a thread of its own (or in worker processes behind it), and only while somebody waits: it seeds the
global random generators for each sample and restores them, which must not run beside a forward pass.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from metaformer.data.loader import Reader, load_batches
from metaformer.data.order import PADDING, Address
from metaformer.errors import DataError
from metaformer.types import Batch

_LOOK = 0.05
"""Seconds between two looks at whether to stop."""


class BatchStream:
    """Batches in the order of their addresses; `next` gives up when it is told to, or after `timeout` seconds."""

    def __init__(
        self,
        readers: Mapping[str, Reader],
        addresses: Iterable[Sequence[Address]],
        *,
        workers: int = 0,
        prefetch: int = 2,
        timeout: float = 0.0,
    ) -> None:
        """`timeout` 0 waits for ever. Reading begins with the first `next`."""
        self.timeout = timeout
        self._readers = readers
        self._ahead: deque[Sequence[Address]] = deque()
        self._settings = {"workers": workers, "prefetch": prefetch}
        self._asked: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        # A daemon: a read that never comes back must not keep the process from ending.
        self._thread = threading.Thread(target=self._read, args=(addresses,), name="batches", daemon=True)
        self._started = False

    def next(self, interrupted: Callable[[], bool] = lambda: False) -> Batch | None:
        """The next batch; None at the end, or as soon as `interrupted` says so. Raises DataError where reading
        takes too long or a worker process has died."""
        if not self._started:
            self._thread.start()
            self._started = True
        self._asked.put(True)
        began = time.monotonic()
        while True:
            try:
                kind, value = self._answers.get(timeout=_LOOK)
                break
            except queue.Empty:
                if interrupted():
                    return None
                if self.timeout and time.monotonic() - began > self.timeout:
                    raise self._late() from None
        if kind == "error":
            raise self._translated(value)
        if kind == "batch":
            self._ahead.popleft()
            batch: Batch = value
            return batch
        return None

    def close(self) -> None:
        """End the reading, with its worker processes."""
        self._asked.put(False)
        if self._started:
            # Bounded: a stuck read is left behind, see above.
            self._thread.join(timeout=10.0)

    def __enter__(self) -> BatchStream:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _read(self, addresses: Iterable[Sequence[Address]]) -> None:
        batches: Iterator[Batch] | None = None
        while self._asked.get():
            try:
                if batches is None:
                    batches = load_batches(self._readers, self._noted(addresses), **self._settings)
                batch = next(batches, None)
            except BaseException as error:  # handed to whoever waits, whatever it is
                self._answers.put(("error", error))
                return
            self._answers.put(("batch", batch) if batch is not None else ("end", None))

    def _noted(self, addresses: Iterable[Sequence[Address]]) -> Iterator[Sequence[Address]]:
        """The addresses as they pass, kept until their batch is delivered."""
        for batch in addresses:
            self._ahead.append(batch)
            yield batch

    def _awaited(self) -> str:
        if not self._ahead:
            return "the first batch"
        batch = self._ahead[0]
        reader = self._readers[batch[0].task]
        names = [reader.dataset.sample_id(a.index) for a in batch if a.index != PADDING]
        return f"samples {', '.join(names[:8])}{' ...' if len(names) > 8 else ''} of task {batch[0].task!r}"

    def _late(self) -> DataError:
        return DataError(
            f"read {self._awaited()}",
            f"nothing came within loader.timeout: {self.timeout:g} seconds",
            "look at those samples and at the disk or network they come from, or raise loader.timeout",
        )

    def _translated(self, error: BaseException) -> BaseException:
        if isinstance(error, RuntimeError) and "DataLoader worker" in str(error):
            return DataError(
                f"read {self._awaited()}",
                f"a worker process has died: {str(error).splitlines()[0]}",
                "look for what killed it (the system, for its memory?), or set loader.workers lower",
            )
        return error
