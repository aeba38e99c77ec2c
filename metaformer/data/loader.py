"""From addresses to batches: read, preprocess, collate, in worker processes or here, always the same batches.

A sample is read and augmented under generators seeded from (seed, epoch, sample) and restored afterwards, so
neither the number of workers nor the number of ranks changes anything, and no global random state moves.
"""

from __future__ import annotations

import random
import signal
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from metaformer.base import Dataset, Preprocess
from metaformer.data.order import PADDING, Address, sample_seed, substitutes
from metaformer.data.target import encode_target, missing, stack_targets
from metaformer.errors import DataError
from metaformer.types import BadSample, Batch, Raw, Sample, Target


@dataclass
class Item:
    """One sample, ready to be collated. A stream that is None is missing."""

    streams: dict[str, Raw | None]
    targets: dict[str, Tensor]
    id: str
    bad: BadSample | None = None


@contextmanager
def isolated_rng(seed: int) -> Iterator[None]:
    """Seed python's, numpy's and torch's global generators inside, restore them after."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


@dataclass
class Reader:
    """Reads samples of one task: data set, preprocessing of the streams, encoding of the targets. Picklable."""

    task: str
    dataset: Dataset
    preprocess: Mapping[str, Preprocess]
    """Stream → preprocessing, for the streams the task uses."""
    targets: Mapping[str, Target]
    classes: Mapping[str, Sequence[str]]
    """Target → class names, those of the training set."""
    train: bool
    seed: int = 0
    substitute: bool = False
    """Read another sample in the place of an unreadable one."""

    def __len__(self) -> int:
        return len(self.dataset)

    def read(self, address: Address) -> Item:
        """The sample at an address; an unreadable one says why, and is empty or another one in its place."""
        if address.index == PADDING:
            return self.empty("")
        item = self._try(address)
        if item.bad is None or not self.substitute:
            return item
        for other in substitutes(self.seed, address, len(self)):
            found = self._try(other)
            if found.bad is None:
                found.bad = item.bad
                return found
        return item

    def _try(self, address: Address) -> Item:
        with isolated_rng(sample_seed(self.seed, address)):
            try:
                return self.item(self.dataset[address.index], self.dataset.sample_id(address.index))
            except DataError as error:
                name = self.dataset.sample_id(address.index)
                item = self.empty(name)
                item.bad = BadSample(self.task, name, address.index, address.epoch, str(error))
                return item
            except Exception as error:
                error.add_note(f"while reading sample {address.index} of task {self.task!r}")
                raise

    def item(self, sample: Sample, name: str) -> Item:
        """A raw sample, preprocessed. Raises DataError with the stream's name in it."""
        streams: dict[str, Raw | None] = {}
        for stream, preprocess in self.preprocess.items():
            value = resolve(sample.get(stream), preprocess, self.dataset.root)
            try:
                streams[stream] = None if value is None else preprocess(value, self.train)
            except DataError as error:
                raise DataError(f"sample {name}, stream {stream!r}: {error.asked}", error.found, error.do) from error
        targets = {
            key: encode_target(key, target, sample.get(key), self.classes.get(key))
            for key, target in self.targets.items()
        }
        return Item(streams, targets, name)

    def empty(self, name: str) -> Item:
        """A sample that lacks everything."""
        return Item(
            dict.fromkeys(self.preprocess), {key: missing(target) for key, target in self.targets.items()}, name
        )

    def collate(self, items: Sequence[Item]) -> Batch:
        """Items of this task → a batch; missing streams are blanks that are marked absent."""
        streams, present = {}, {}
        for stream, preprocess in self.preprocess.items():
            raws = [item.streams[stream] for item in items]
            present[stream] = torch.tensor([raw is not None for raw in raws])
            streams[stream] = preprocess.collate([preprocess.blank() if raw is None else raw for raw in raws])
        targets = {
            key: stack_targets(target, [item.targets[key] for item in items]) for key, target in self.targets.items()
        }
        bad = [item.bad for item in items if item.bad is not None]
        return Batch(self.task, streams, present, targets, [item.id for item in items], bad)

    def blank_batch(self) -> Batch:
        """One sample that lacks everything: what other ranks' tasks run on (see `metaformer.model.Step`)."""
        return self.collate([self.empty("")])

    def values(self, stream: str) -> Iterator[Any]:
        """Raw values of a stream in data order, where present: what tokenizers fit their statistics on."""
        for index in range(len(self.dataset)):
            value = resolve(self.dataset[index].get(stream), self.preprocess[stream], self.dataset.root)
            if value is not None:
                yield value


def resolve(value: Any, preprocess: Preprocess, root: Path | None) -> Any:
    """File names become paths where the preprocessing reads files; everything else stays as it is."""
    if preprocess.reads_files and isinstance(value, str):
        path = Path(value)
        return path if root is None or path.is_absolute() else root / path
    return value


class _Mux(TorchDataset[Item]):
    """All tasks' readers behind one index, as the torch loader wants it."""

    def __init__(self, readers: Mapping[str, Reader]) -> None:
        self.readers = dict(readers)

    def __getitem__(self, address: Address) -> tuple[str, Item]:  # type: ignore[override]
        return address.task, self.readers[address.task].read(address)

    def collate(self, items: Sequence[tuple[str, Item]]) -> Batch:
        return self.readers[items[0][0]].collate([item for _, item in items])


def load_batches(
    readers: Mapping[str, Reader],
    addresses: Iterable[Sequence[Address]],
    *,
    workers: int = 0,
    prefetch: int = 2,
) -> Iterator[Batch]:
    """Batches in the order of `addresses`, one per micro-batch, read ahead by `workers` processes."""
    mux = _Mux(readers)
    loader = DataLoader(
        mux,
        batch_sampler=addresses,  # type: ignore[arg-type]
        collate_fn=mux.collate,
        num_workers=workers,
        prefetch_factor=prefetch if workers else None,
        worker_init_fn=_deafen if workers else None,
        # Its own generator: by default every iterator draws a seed from the global one.
        generator=torch.Generator().manual_seed(0),
    )
    return iter(loader)


def _deafen(worker: int) -> None:
    """Signals are the main process's business: Ctrl-C in a terminal reaches data workers as well, and what they
    inherited of its handlers would report it there once more."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def eval_addresses(task: str, size: int, batch: int, rank: int, world: int) -> list[list[Address]]:
    """A rank's share of an evaluation: every sample once over all ranks, all ranks the same number of batches."""
    mine = [Address(task, 0, i) for i in range(rank, size, world)]
    mine += [Address(task, 0, PADDING)] * (-(-size // world) - len(mine))
    return [mine[i : i + batch] for i in range(0, len(mine), batch)]
