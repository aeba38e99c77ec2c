"""What can be checked of an installed component that comes without samples, and the cases a distribution declares."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from metaformer.errors import MetaformerError
from metaformer.offline import unconnected
from metaformer.registry import Registered, registry
from metaformer.schema import construct, knobs_model, taken_knobs, wired_names
from metaformer.testing.check import Check, Use, checks_of, offline, require
from metaformer.testing.dataset import dataset_checks
from metaformer.testing.encoder import encoder_checks
from metaformer.testing.head import head_checks

WIRED: Mapping[str, frozenset[str]] = {
    "tokenizer": frozenset({"dim"}),
    "encoder": frozenset(),
    "bridge": frozenset({"widths"}),
    "head": frozenset({"dim"}),
    "objective": frozenset({"task", "heads", "widths", "contents"}),
    "metric": frozenset({"head", "target"}),
    "dataset": frozenset(),
}
"""Component kind → what the core can supply to its constructor."""

DEAR = 3.0
"""Seconds of CPU time after which the import of a component's module is called dear, torch and the core not counted."""

NEEDS: Mapping[str, str] = {
    "tokenizer": "samples",
    "bridge": "the roles that it reads",
    "objective": "the heads that it reads",
    "metric": "predictions and targets",
}
"""What cases of these kinds need that only an author can give."""


def home(target: str) -> str:
    """The module in which a plugin declares its cases, by what its entry point names."""
    return target.partition(":")[0].partition(".")[0] + ".conformance"


def subject(check: Check) -> tuple[str, str]:
    """Kind and name of the component that a check exercises; no name where it was not named."""
    return check.kind, check.use[0].rpartition(":")[2] if check.use else ""


def declared(module: str) -> Iterator[Check] | None:
    """The cases of a plugin: what `checks()` of the module gives. None where there is no such module.

    Raises whatever importing it raises, and AssertionError where it is not what CONTRIBUTING describes."""
    try:
        there = importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        there = False  # the plugin is a single file
    if not there:
        return None
    checks = getattr(importlib.import_module(module), "checks", None)
    if not callable(checks):
        raise AssertionError(f"{module} has no function `checks`")
    return _cases(module, iter(checks()))


def _cases(module: str, found: Iterator[object]) -> Iterator[Check]:
    for case in found:
        if not isinstance(case, Check):
            raise AssertionError(f"`checks` of {module} gives a {type(case).__name__} among its checks")
        yield case


def import_checks(entry: Registered) -> Iterator[Check]:
    """Checks of any component that is installed: its module, its class and its constructor's signature."""
    return checks_of(_Arrival(entry), entry.kind, (entry.component.name, {}))


def undeclared_checks(entry: Registered) -> tuple[Iterator[Check], str]:
    """Checks of a component for which its distribution has no case, and what they cannot do, if anything."""
    use: Use = (entry.pinned, {})
    fields = knobs_model(registry().load(*use_of(entry))).model_fields.items()
    required = [field.alias or name for name, field in fields if field.is_required()]
    if required:
        return iter(()), f"without a value for {', '.join(required)} it cannot be made"
    if entry.kind == "encoder":
        return encoder_checks(use), ""
    if entry.kind == "head":
        return head_checks(use), ""
    if entry.kind == "dataset":
        try:
            construct(registry().load(*use_of(entry)), {}, {})
        except MetaformerError as error:
            return iter(()), f"it does not open: {' '.join(str(error).split())}"
        return dataset_checks(use), ""
    if entry.kind == "tokenizer":
        return checks_of(_Made(entry), entry.kind, (entry.component.name, {})), f"its cases need {NEEDS[entry.kind]}"
    return iter(()), f"its cases need {NEEDS[entry.kind]}"


def use_of(entry: Registered) -> tuple[str, str]:
    """Kind and full name, as the registry finds a component by."""
    return entry.kind, entry.pinned


@dataclass(frozen=True)
class _Import:
    attempts: list[str]
    seconds: float
    fault: str


@functools.cache
def _imported(kind: str, name: str) -> _Import:
    """Import a component's class, once: the second time would be free, and silent."""
    start, fault = time.process_time(), ""
    with unconnected() as attempts:
        try:
            registry().load(kind, name)
        except MetaformerError as error:
            fault = error.found
    return _Import(attempts, time.process_time() - start, fault)


@dataclass(frozen=True)
class _Arrival:
    entry: Registered

    def importable(self) -> None:
        """Its class can be imported, and is of its kind."""
        fault = _imported(*use_of(self.entry)).fault
        require(not fault, fault)

    def import_offline(self) -> None:
        """Its import uses no network."""
        hosts = ", ".join(dict.fromkeys(_imported(*use_of(self.entry)).attempts))
        require(not hosts, f"its import uses the network ({hosts}): every rank would, before a recipe says so")

    def import_cost(self) -> None:
        """Its import is cheap: heavy libraries are imported where they are used."""
        seconds = _imported(*use_of(self.entry)).seconds
        do = "import heavy libraries inside the functions that need them"
        require(seconds <= DEAR, f"its import takes {seconds:.1f} s where {DEAR:g} s are allowed: {do}")

    def signature(self) -> None:
        """Its constructor asks for what the core wires, and its knobs are typed and can be set by a recipe."""
        kind = self.entry.kind
        cls = registry().load(*use_of(self.entry))
        knobs_model(cls)
        alien = [name for name in wired_names(cls) if name not in WIRED[kind]]
        known = ", ".join(sorted(WIRED[kind])) or "none"
        require(not alien, f"its positional arguments {', '.join(alien)} are not wired to a {kind}: {known} are")
        taken = taken_knobs(kind, cls)
        require(not taken, f"its knobs {', '.join(taken)} cannot be set: entries of a {kind} use the names")


@dataclass(frozen=True)
class _Made:
    entry: Registered

    def defaults(self) -> None:
        """It is made with its default knobs, without network."""
        with offline():
            construct(registry().load(*use_of(self.entry)), {}, {"dim": 32})
