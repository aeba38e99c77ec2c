"""A step's micro-batches: waited for, agreed upon by all ranks, weighed, and checked for samples that are bad."""

from __future__ import annotations

import time
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import cast

from metaformer.base import Objective
from metaformer.data.order import pass_seed
from metaformer.errors import DataError, NoSpaceError
from metaformer.recipe import Recipe
from metaformer.session import Session, seed_generators
from metaformer.types import Batch


@dataclass(frozen=True)
class Window:
    """A step's micro-batches of this rank, and what all ranks know about those of all."""

    batches: list[Batch]
    data: str
    """Digest of the samples of the whole step, with their targets and places: the same on any number of ranks."""
    waited: float
    """Seconds that this rank waited for them."""


def take_window(session: Session) -> Window | None:
    """Wait for a step's micro-batches, then agree with all ranks that the step is made: from here to its end no rank
    waits for anything but the others. None, on all ranks, where any of them was asked to stop."""
    accumulate, stop = session.engine.batching.accumulate, session.stop
    batches: list[Batch] = []
    error = session.failed or session.saver.error()
    # A disk that was full for a save beside training: there may be room once older checkpoints have gone.
    full = isinstance(error, NoSpaceError) and error is session.saver.error()
    if full:
        error = None
    numbers, began, waited = _Numbers(session), time.perf_counter(), 0.0
    assert session.batches is not None
    try:
        while error is None and len(batches) < accumulate:
            batch = session.batches.next(stop.seen)
            if batch is None:
                break  # asked to stop: the stream itself has no end
            batches.append(batch)
        waited = time.perf_counter() - began
        _refuse_bad(session.recipe, batches)
        for index, batch in enumerate(batches):
            numbers.add(batch, micro_place(session, index))
    except Exception as caught:
        error = caught
    stopped = stop.requested or len(batches) < accumulate
    flag, some_full, *sums = session.place.together(error, [float(stopped), float(full), *numbers.values()])
    if some_full:
        session.saver.make_room_and_save(session.progress.done, session.state())
    if flag:
        return None
    numbers.weigh(batches, sums)
    session.progress.seen += session.engine.batching.total
    _count_bad(session, batches, int(numbers.bad(sums)))
    return Window(batches, f"{int(numbers.data(sums)):x}", waited)


def micro_place(session: Session, index: int) -> int:
    """Which of the step's micro-batches over all ranks a rank's micro-batch `index` is."""
    return session.place.rank + index * session.place.world


class _Numbers:
    """What ranks tell each other about a step before it is made."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._tasks = list(session.data)
        self._passes = dict.fromkeys(self._tasks, 0.0)
        self._counts = dict.fromkeys(session.losses, 0.0)
        self._data = self._bad = 0.0

    def add(self, batch: Batch, place: int) -> None:
        """One of this rank's micro-batches, at its place in the step."""
        self._passes[batch.task] += 1
        model = self._session.engine.model
        for objective in cast(Sequence[Objective], model.objectives[batch.task]):
            for name, count in objective.count(model, batch).items():
                self._counts[batch.task, name] += count
        self._data += sample_digest(batch, place * self._session.engine.batching.micro)
        self._bad += len(batch.bad)

    def values(self) -> list[float]:
        """To be summed over all ranks."""
        return [self._bad, self._data, *self._passes.values(), *self._counts.values()]

    def bad(self, sums: Sequence[float]) -> float:
        """Unreadable samples of the step."""
        return sums[0]

    def data(self, sums: Sequence[float]) -> float:
        """Digest of the step's samples."""
        return sums[1]

    def weigh(self, batches: Sequence[Batch], sums: Sequence[float]) -> None:
        """Make the mean of the micro-batches' losses the mean over all that counts in the step."""
        model = self._session.engine.model
        passes = dict(zip(self._passes, sums[2:], strict=False))
        counts = dict(zip(self._counts, sums[2 + len(passes) :], strict=True))
        for batch in batches:
            for objective in cast(Sequence[Objective], model.objectives[batch.task]):
                for name, count in objective.count(model, batch).items():
                    total = counts[batch.task, name]
                    batch.weights[name] = passes[batch.task] * count / total if total else 1.0


def sample_digest(batch: Batch, first: int) -> int:
    """Sum over a micro-batch's samples of a checksum of place, task, name and targets; `first`: the place of its first
    sample in the step. Sums of up to two million of them are exact in a double."""
    targets = [(key, value.cpu().numpy()) for key, value in sorted(batch.targets.items())]
    total = 0
    for row, name in enumerate(batch.ids):
        check = zlib.crc32(f"{first + row}|{batch.task}|{name}".encode())
        for key, values in targets:
            check = zlib.crc32(values[row].tobytes(), zlib.crc32(key.encode(), check))
        total += check
    return total


def reseed(session: Session, index: int) -> None:
    """What a pass draws (dropout) depends on its place in the run only, not on rank or number of ranks."""
    seed_generators(pass_seed(session.recipe.seed, session.progress.position, micro_place(session, index)))


def _refuse_bad(recipe: Recipe, batches: Sequence[Batch]) -> None:
    if recipe.loader.bad_samples != "raise":
        return
    for bad in (bad for batch in batches for bad in batch.bad):
        raise DataError(
            f"task {bad.task!r}: sample {bad.id} cannot be used",
            bad.error,
            "mend or remove it, or set loader.bad_samples: skip (or substitute) to count and pass over such samples",
        )


def _count_bad(session: Session, batches: Sequence[Batch], found: int) -> None:
    """Write down the step's unreadable samples of all ranks, and end the run where there are too many."""
    if not found:
        return
    progress, run, loader = session.progress, session.run, session.recipe.loader
    progress.bad += found
    parts = session.place.gather([bad for batch in batches for bad in batch.bad])
    with session.alone():
        for bad in (bad for part in parts for bad in part):
            run.append("bad_samples.jsonl", {"step": progress.done + 1, **asdict(bad)})
    if progress.bad > 10 and progress.bad / progress.seen > loader.max_bad_fraction:
        raise DataError(
            f"at most {loader.max_bad_fraction:.1%} of the samples may be bad",
            f"{progress.bad} of {progress.seen}: see {run.path / 'bad_samples.jsonl'}",
            "mend the data, or raise loader.max_bad_fraction",
        )
