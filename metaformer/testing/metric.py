"""Conformance of metrics: the same number however the predictions are ordered and cut into batches."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from metaformer.base import Head, Metric
from metaformer.errors import MetaformerError
from metaformer.testing.check import Check, Use, checks_of, component, moved_generators, require, same
from metaformer.types import Target

SURE = 20.0
"""Logit of a prediction without doubt."""


def metric_checks(
    make: Callable[[], Metric] | Use,
    prediction: Tensor,
    target: Tensor,
    form: Target,
    *,
    head: Callable[[], Head] | None = None,
) -> Iterator[Check]:
    """Named checks of a metric: of `(name, knobs)` as a recipe has them, or of a function that makes one.

    `prediction` and `target`: at least four rows, as `Metric.update` gets them, with some mistakes; `form`: the
    form of the target; for a metric of pairs they are embeddings, and the form is that of `values`. A metric given
    by name may ask for a `head` as well.
    """
    if len(prediction) < 4:
        raise MetaformerError("conformance checks of a metric", f"{len(prediction)} rows", "give at least four")
    wired = {"target": form} if head is None else {"target": form, "head": head()}
    factory = make if callable(make) else lambda: component("metric", make, wired)
    return checks_of(_Kit(factory, prediction, target, form), "metric", make)


@dataclass(frozen=True)
class _Kit:
    make: Callable[[], Metric]
    prediction: Tensor
    target: Tensor
    form: Target

    def _score(self, *parts: tuple[Tensor, Tensor]) -> float:
        metric = self.make()
        for prediction, target in parts:
            metric.update(prediction.clone(), target.clone())
        return metric.compute()

    @property
    def _whole(self) -> float:
        return self._score((self.prediction, self.target))

    def number(self) -> None:
        """A finite float, and the same when asked again."""
        metric = self.make()
        metric.update(self.prediction, self.target)
        value = metric.compute()
        require(type(value) is float and math.isfinite(value), f"`compute` gives {value!r}, not a finite float")
        require(metric.compute() == value, "`compute` gives another number when it is asked again")

    def row_order(self) -> None:
        """The order of the rows does not matter."""
        count = len(self.target)
        for order in (torch.arange(count).flip(0), torch.randperm(count, generator=torch.Generator().manual_seed(2))):
            found = self._score((self.prediction[order], self.target[order]))
            require(_near(found, self._whole), f"rows in another order give {found} instead of {self._whole}")

    def split_updates(self) -> None:
        """Several updates count like one, batches of any size."""
        for cut in (1, len(self.target) // 2):
            first = (self.prediction[:cut], self.target[:cut])
            found = self._score(first, (self.prediction[cut:], self.target[cut:]))
            text = f"updates with {cut} rows and the rest give {found}, one update {self._whole}"
            require(_near(found, self._whole), f"{text}: is it a mean over batches?")

    def empty_update(self) -> None:
        """A batch in which no row counts changes nothing."""
        found = self._score((self.prediction[:0], self.target[:0]), (self.prediction, self.target))
        require(_near(found, self._whole), f"after an update without rows it gives {found} instead of {self._whole}")

    def fresh_start(self) -> None:
        """A new one has seen nothing of what others saw."""
        expected = self._whole
        self._score((self.prediction.flip(0), self.target))
        require(_near(self._whole, expected), "what one instance saw counts in the next: its state is not its own")

    def input_unchanged(self) -> None:
        """Several metrics read the same rows: `update` leaves them as they are."""
        prediction, target = self.prediction.clone(), self.target.clone()
        self.make().update(prediction, target)
        kept = same(prediction, self.prediction) and same(target, self.target)
        require(kept, "`update` writes into the rows that it reads")

    def random_state(self) -> None:
        """A number is no matter of luck: no global random generator is drawn from or seeded."""
        moved = moved_generators(lambda: self._whole)
        require(not moved, f"it moves the global random state of {', '.join(moved)}")

    def direction(self) -> None:
        """`higher_is_better` tells the truth: perfect predictions are no worse than those given."""
        metric = self.make()
        larger = getattr(metric, "higher_is_better", None)
        require(isinstance(larger, bool), f"`higher_is_better` is {larger!r}, neither True nor False")
        perfect = self._score((self._perfect(), self.target))
        better = perfect >= self._whole if larger else perfect <= self._whole
        text = f"perfect predictions score {perfect}, those given {self._whole}"
        require(better, f"higher_is_better is {larger}, but {text}")

    def _perfect(self) -> Tensor:
        if self.form.kind in ("class", "classes"):
            return SURE * F.one_hot(self.target.clamp(min=0), self.form.size).to(self.prediction.dtype)
        if self.form.kind == "multilabel":
            return SURE * (2 * self.target.nan_to_num() - 1).to(self.prediction.dtype)
        return self.target.nan_to_num().to(self.prediction.dtype)


def _near(found: float, expected: float) -> bool:
    return math.isclose(found, expected, rel_tol=1e-5, abs_tol=1e-6)
