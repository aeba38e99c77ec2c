"""Which sample stands where in a run: a pure function of (seed, step), whatever the ranks and workers.

A step consists of a fixed number of micro-batches over all ranks. Each belongs to one task, drawn by the tasks'
weights, and takes that task's next samples; every epoch of a task is a fresh permutation of all its samples.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

PADDING = -1
"""Index of a place that holds no sample."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a sample comes from. (seed, epoch, index) also seeds its augmentation."""

    task: str
    epoch: int
    index: int


class Order:
    """The order of a run: `micro_batches(step)` for any step, cheapest when asked in sequence."""

    def __init__(
        self,
        seed: int,
        sizes: Mapping[str, int],
        weights: Mapping[str, float],
        micro_batch: int,
        per_step: int,
    ) -> None:
        """`sizes`: samples per task; `per_step`: micro-batches per step over all ranks."""
        self.seed, self.sizes = seed, dict(sizes)
        self.micro_batch, self.per_step = micro_batch, per_step
        self._tasks = list(sizes)
        shares = np.array([weights[task] for task in self._tasks], dtype=np.float64)
        self._edges = np.cumsum(shares / shares.sum())[:-1]
        self._next_step = 0
        self._taken = dict.fromkeys(self._tasks, 0)
        self._permutations: dict[tuple[str, int], np.ndarray] = {}

    def micro_batches(self, step: int) -> list[list[Address]]:
        """Addresses of each micro-batch of a step, `per_step` of them."""
        if step < self._next_step:
            self._next_step, self._taken = 0, dict.fromkeys(self._tasks, 0)
        while self._next_step < step:
            for task in self._choose(self._next_step):
                self._taken[task] += self.micro_batch
            self._next_step += 1
        out = []
        for task in self._choose(step):
            out.append([self._address(task, self._taken[task] + i) for i in range(self.micro_batch)])
            self._taken[task] += self.micro_batch
        self._next_step = step + 1
        return out

    def rank_stream(self, start: int, rank: int, world: int) -> Iterator[list[Address]]:
        """The micro-batches of one rank, from the first of step `start` on, for ever. Rank r has those at the places
        r, r + world, ... of a step."""
        step = start
        while True:
            yield from self.micro_batches(step)[rank::world]
            step += 1

    def _choose(self, step: int) -> list[str]:
        if len(self._tasks) == 1:
            return self._tasks * self.per_step
        draws = np.random.default_rng([self.seed, 1, step]).random(self.per_step)
        return [self._tasks[int(i)] for i in np.searchsorted(self._edges, draws, side="right")]

    def _address(self, task: str, position: int) -> Address:
        epoch, place = divmod(position, self.sizes[task])
        key = (task, epoch)
        if key not in self._permutations:
            for old in [k for k in self._permutations if k[0] == task and k[1] < epoch - 1]:
                del self._permutations[old]
            generator = np.random.default_rng([self.seed, 2, name_number(task), epoch])
            self._permutations[key] = generator.permutation(self.sizes[task])
        return Address(task, epoch, int(self._permutations[key][place]))


def name_number(name: str) -> int:
    """A stable number for a name (python's own hash changes from process to process)."""
    return zlib.crc32(name.encode())


def sample_seed(seed: int, address: Address) -> int:
    """The seed of a sample's augmentation."""
    entropy = [seed, 3, name_number(address.task), address.epoch, address.index]
    return int(np.random.SeedSequence(entropy).generate_state(1)[0])


def substitutes(seed: int, address: Address, size: int, tries: int = 8) -> list[Address]:
    """Which samples stand in for an unreadable one, in order of preference: as random as any, and always the same."""
    entropy = [seed, 5, name_number(address.task), address.epoch, address.index]
    draws = np.random.default_rng(entropy).integers(size, size=tries)
    return [Address(address.task, address.epoch, int(index)) for index in draws if index != address.index]


def pass_seed(seed: int, position: int, micro_batch: int) -> int:
    """The seed of what is drawn during the pass over a micro-batch (dropout): by its place in the run, not by rank."""
    return int(np.random.SeedSequence([seed, 6, position, micro_batch]).generate_state(1)[0])
