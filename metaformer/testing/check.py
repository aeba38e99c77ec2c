"""What every conformance check is made of: a name, something to run, and a sentence where it fails.

Source: the idea is scikit-learn's `parametrize_with_checks`.
Ours differs: checks are plain values, so that a command can run them as well as pytest.
"""

from __future__ import annotations

import inspect
import pickle
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from metaformer.data.loader import isolated_rng
from metaformer.offline import unconnected
from metaformer.registry import registry
from metaformer.schema import construct

T = TypeVar("T")

Use = tuple[str, Mapping[str, Any]]
"""A component as a recipe names it: what stands after `use:`, and its knobs."""

TOLERANCE = 1e-5
"""How far two computations of the same numbers may be apart in fp32, in units of the largest of them or of 1."""


class Check(NamedTuple):
    """One named promise of a component. `run` returns when it holds and raises AssertionError when it does not."""

    name: str
    run: Callable[[], None]
    promise: str = ""
    """What holds where it passes, as a sentence."""
    kind: str = ""
    """Kind of the component: `tokenizer`, `head`, ..."""
    use: Use | None = None
    """The component, where it was named as a recipe names it, and its knobs."""

    def __str__(self) -> str:
        return self.name


def checks_of(kit: object, kind: str, use: Any = None) -> Iterator[Check]:
    """A check per public method of a kit, under its name, those of its base class first.

    Each runs from the same seeds and leaves the global ones alone; whatever a component raises becomes the sentence
    of its check. `use` as the kits get it: what is no pair of name and knobs counts as unnamed."""
    named = use if isinstance(use, tuple) else None
    owners = reversed(type(kit).__mro__)
    methods = {name: value for owner in owners for name, value in vars(owner).items() if inspect.isfunction(value)}
    for name in methods:
        if not name.startswith("_"):
            promise = getattr(kit, name)
            text = " ".join((inspect.getdoc(promise) or "").partition("\n\n")[0].split())
            yield Check(name, _guarded(name, promise), text, kind, named)


def _guarded(name: str, promise: Callable[[], None]) -> Callable[[], None]:
    def run() -> None:
        with isolated_rng(0):
            try:
                promise()
            except AssertionError:
                raise
            except Exception as error:
                raise AssertionError(f"{name}: raises {type(error).__name__}: {error}") from error

    return run


def require(holds: bool, defect: str) -> None:
    """Raise AssertionError with a sentence that names the defect. Works under `python -O`, unlike `assert`."""
    if not holds:
        raise AssertionError(defect)


def require_close(found: Tensor, expected: Tensor, defect: str, tolerance: float = TOLERANCE) -> None:
    """Equal shapes, and numbers within `tolerance`. Numbers that are not finite are never close."""
    require(found.shape == expected.shape, f"{defect}: shape {list(found.shape)} against {list(expected.shape)}")
    if not found.numel():
        return
    found, expected = found.detach().double(), expected.detach().double()
    gap = float((found - expected).abs().max())
    limit = tolerance * max(1.0, float(expected.abs().max()))
    require(gap <= limit, f"{defect}: by {gap:.3g}, where {limit:.3g} is allowed")


def component(kind: str, use: Use, wired: Mapping[str, Any]) -> Any:
    """An installed component, made as a recipe makes it."""
    name, knobs = use
    made = construct(registry().load(kind, name), knobs, wired)
    if kind == "tokenizer":
        made.modality = name.rpartition(":")[2]
    return made


def same(left: Any, right: Any) -> bool:
    """Whether two values of a sample are equal: arrays and tensors by type, shape and content, NaN equal to NaN."""
    if type(left) is not type(right):
        return False
    if isinstance(left, Tensor):
        return left.dtype == right.dtype and same(left.detach().cpu().numpy(), right.detach().cpu().numpy())
    if isinstance(left, np.ndarray):
        if left.dtype != right.dtype or left.shape != right.shape:
            return False
        return bool(np.array_equal(left, right, equal_nan=left.dtype.kind in "fc"))
    if isinstance(left, Mapping):
        return list(left) == list(right) and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(same(a, b) for a, b in zip(left, right, strict=True))
    if isinstance(left, float) and left != left:
        return bool(right != right)
    return bool(left == right)


def round_trip(value: T) -> T:
    """Through pickle and back, as data workers get it. These bytes are our own: nothing from outside is read."""
    copy: T = pickle.loads(pickle.dumps(value))
    return copy


def moved_generators(act: Callable[[], object]) -> list[str]:
    """Which global random generators `act` draws from or seeds, when what it imports has been imported."""
    act()  # some libraries draw while they are imported, which is no fault of the component's
    with isolated_rng(1):
        before = random.getstate(), np.random.get_state(), torch.get_rng_state()
        act()
        after = random.getstate(), np.random.get_state(), torch.get_rng_state()
    names = ("python's `random`", "numpy", "torch")
    return [name for name, old, new in zip(names, before, after, strict=True) if not same(old, new)]


@contextmanager
def offline() -> Iterator[None]:
    """Whoever opens a connection or resolves a name inside fails the check, also one that goes on without."""
    with unconnected() as attempts:
        try:
            yield
        except Exception:
            if not attempts:
                raise
    hosts = ", ".join(dict.fromkeys(attempts))
    require(not attempts, f"offline: it uses the network ({hosts}); let users fetch files first, and read those")
