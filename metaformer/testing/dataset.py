"""Conformance of data sets: the same samples in every worker, every time, under names of their own."""

from __future__ import annotations

import atexit
import functools
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metaformer.base import Dataset
from metaformer.data.loader import isolated_rng
from metaformer.errors import MetaformerError
from metaformer.testing.check import (
    Check,
    Use,
    checks_of,
    component,
    moved_generators,
    offline,
    require,
    round_trip,
    same,
)
from metaformer.types import IGNORE


def dataset_checks(
    make: Callable[[], Dataset] | Use, *, limit: int = 16, files: Callable[[Path], Mapping[str, Any]] | None = None
) -> Iterator[Check]:
    """Named checks of a data set: of `(name, knobs)` as a recipe has them, or of a function that opens one.

    At most `limit` samples, spread over all, are read. `files` writes what a named data set reads into the empty
    folder that it is given, and returns the knobs that say where: once, when the first check runs. The folder goes
    with the process.
    """
    if callable(make):
        if files is not None:
            found = "`files` beside a function that opens one"
            raise MetaformerError("conformance checks of a data set", found, "write the files in the function")
        return checks_of(_Kit(make, limit), "dataset", make)
    return checks_of(_Kit(_opening(make, files), limit), "dataset", make)


def _opening(use: Use, files: Callable[[Path], Mapping[str, Any]] | None) -> Callable[[], Dataset]:
    name, knobs = use

    @functools.cache
    def places() -> Mapping[str, Any]:
        return {} if files is None else files(_folder())

    def make() -> Dataset:
        dataset: Dataset = component("dataset", (name, {**knobs, **places()}), {"open_data": _open})
        return dataset

    return make


def _open(entry: Mapping[str, Any]) -> Dataset:
    """The data set inside another one."""
    knobs = {key: value for key, value in entry.items() if key != "use"}
    dataset: Dataset = component("dataset", (entry["use"], knobs), {"open_data": _open})
    return dataset


def _folder() -> Path:
    held = tempfile.TemporaryDirectory(prefix="metaformer-")
    atexit.register(held.cleanup)
    return Path(held.name)


@dataclass(frozen=True)
class _Kit:
    make: Callable[[], Dataset]
    limit: int

    def _spread(self, dataset: Dataset) -> list[int]:
        """Indices over the whole set, the first and the last among them."""
        last, count = len(dataset) - 1, min(self.limit, len(dataset))
        return sorted({round(i * last / max(count - 1, 1)) for i in range(count)})

    def length(self) -> None:
        """There are samples."""
        size = len(self.make())
        require(size > 0, "it has no samples")

    def samples(self) -> None:
        """Samples are mappings from names to values, and bring something."""
        dataset = self.make()
        for i in self._spread(dataset):
            sample = dataset[i]
            named = isinstance(sample, dict) and all(isinstance(key, str) for key in sample)
            require(named, f"sample {i} is a {type(sample).__name__}, not a dict by names of streams and targets")
            require(any(value is not None for value in sample.values()), f"sample {i} holds no value at all")

    def stable_samples(self) -> None:
        """A sample is the same every time, in any order, in any instance, whatever the random state."""
        first, second = self.make(), self.make()
        places = self._spread(first)
        with isolated_rng(1):
            forth = {i: first[i] for i in places}
        with isolated_rng(2):
            back = {i: first[i] for i in reversed(places)}
            other = {i: second[i] for i in places}
        for i in places:
            require(same(forth[i], back[i]), f"sample {i} is another when it is read again in another order")
            require(same(forth[i], other[i]), f"sample {i} is another in a second instance")

    def random_state(self) -> None:
        """Opening and reading draw from no global random generator."""
        places = self._spread(self.make())

        def read() -> None:
            dataset = self.make()
            for i in places:
                dataset[i]

        moved = moved_generators(read)
        require(not moved, f"it moves the global random state of {', '.join(moved)}: use a generator of its own")

    def pickle(self) -> None:
        """It goes to data workers and gives the same samples there."""
        dataset = self.make()
        places = self._spread(dataset)
        dataset[places[0]]  # files that are opened at the first sample must not travel
        try:
            copy = round_trip(dataset)
        except Exception as error:
            raise AssertionError(f"it cannot be pickled, as data workers need: {error}") from error
        require(len(copy) == len(dataset), f"a pickled copy has {len(copy)} samples instead of {len(dataset)}")
        for i in places:
            require(same(copy[i], dataset[i]), f"sample {i} is another in a pickled copy")

    def fingerprint(self) -> None:
        """The fingerprint says the same of the same data every time."""
        first, second = self.make(), self.make()
        before = first.fingerprint()
        require(isinstance(before, str) and bool(before), f"`fingerprint` gives {before!r}, not a text")
        for i in self._spread(first):
            first[i]
        require(first.fingerprint() == before, "`fingerprint` changes when samples are read")
        require(second.fingerprint() == before, "`fingerprint` is another in a second instance: addresses? times?")

    def sample_ids(self) -> None:
        """Every sample has a name of its own, which stays."""
        first, second = self.make(), self.make()
        names = [first.sample_id(i) for i in range(len(first))]
        require(all(isinstance(name, str) and name for name in names), "some `sample_id` is not a text, or empty")
        seen: dict[str, int] = {}
        for i, name in enumerate(names):
            require(name not in seen, f"samples {seen.get(name)} and {i} have the same id {name!r}")
            seen[name] = i
        stay = all(second.sample_id(i) == names[i] for i in self._spread(first))
        require(stay, "`sample_id` gives other names in a second instance")

    def classes(self) -> None:
        """Where it knows the classes of a target, each sample's is one of them, by name or index."""
        dataset = self.make()
        places = self._spread(dataset)
        for target, names in dataset.classes.items():
            require(len(set(names)) == len(names), f"a class of {target!r} is listed twice")
            for i in places:
                value = dataset[i].get(target)
                for one in value if isinstance(value, list | tuple) else [value]:
                    number = None if one is None or isinstance(one, str) else int(one)
                    known = (
                        one is None
                        or one in names
                        or (number is not None and (number == IGNORE or 0 <= number < len(names)))
                    )
                    require(known, f"sample {i} has {target} {one!r}, which is none of its classes")

    def root(self) -> None:
        """`root`, where file names are looked up, is a folder or None."""
        root = self.make().root
        require(root is None or (isinstance(root, Path) and root.is_dir()), f"`root` is {root!r}, which is no folder")

    def offline(self) -> None:
        """Once the files are there, neither opening nor reading uses the network."""
        with offline():
            dataset = self.make()
            for i in self._spread(dataset):
                dataset[i]
