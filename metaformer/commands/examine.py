"""Every check of one installed distribution: `python -m metaformer.commands.examine DIST FILE`.

In a process of its own, because what a plugin imports at discovery, and what that costs, can be seen only where nothing
has been imported yet; and because a check may crash. Results go to FILE as they come, a line of JSON each.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from metaformer.discovery import Loaded, Plugin, canonical, installed, load_plugin
from metaformer.errors import PluginError
from metaformer.offline import unconnected

if TYPE_CHECKING:
    from metaformer.registry import Registered
    from metaformer.testing import Check

LIGHT = 0.5
"""Seconds of CPU time that the module of the hooks may take: every command waits for it."""

OWN = ("metaformer", "pluggy")
"""What hook modules may import beside the standard library and themselves."""


@dataclass(frozen=True)
class Result:
    """One check of one component, and how it went."""

    kind: str
    """Kind of the component; `plugin` for the distribution itself."""
    name: str
    check: str
    passed: bool
    sentence: str
    """What holds, or what is wrong."""
    knobs: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0


@dataclass(frozen=True)
class Idle:
    """A component that no case exercises, and why."""

    kind: str
    name: str
    why: str


@dataclass(frozen=True)
class Begun:
    """A check that is about to run: the last one, where the process ends without a word."""

    check: str


Line = Result | Idle | Begun


def main() -> None:
    """Write the lines of a distribution."""
    distribution, file = sys.argv[1:]
    sys.argv = ["metaformer"]
    with Path(file).open("w", encoding="utf-8") as out:
        for line in lines(distribution):
            _write(out, line)


def _write(out: TextIO, line: Line) -> None:
    record = {"line": type(line).__name__, **asdict(line)}
    # Knobs are whatever an author's case gives: what JSON cannot hold is written as text.
    out.write(json.dumps(record, default=repr) + "\n")
    out.flush()


def lines(distribution: str) -> Iterator[Line]:
    """Everything there is to say: the hooks first, then each component's import, then the cases."""
    plugins = [p for p in installed()[0] if canonical(p.distribution) == canonical(distribution)]
    for plugin in plugins:
        yield from _hooks(plugin)
    from metaformer.registry import registry
    from metaformer.testing.installed import declared, home, import_checks, subject

    mine = [e for e in registry().components() if canonical(e.distribution) == canonical(distribution)]
    sound: dict[tuple[str, str], Registered] = {}
    for entry in mine:
        results = [result for check in import_checks(entry) for result in _run(check)]
        yield from results
        if all(r.passed for r in results if isinstance(r, Result) and r.check in ("importable", "signature")):
            sound[entry.kind, entry.component.name] = entry
    exercised: set[tuple[str, str]] = set()
    homes = dict.fromkeys(home(plugin.target) for plugin in plugins)
    for module in homes:
        try:
            for check in declared(module) or ():
                part = subject(check)
                if check.use and part not in sound and part in {(e.kind, e.component.name) for e in mine}:
                    continue  # its class cannot be used, which has been said
                exercised.add(part)
                yield from _run(check)
        except (Exception, SystemExit) as error:
            sentence = f"{module}: {error}" if isinstance(error, AssertionError) else f"{module}: {_one_line(error)}"
            yield Result("plugin", distribution, "conformance", False, sentence)
    for entry in mine:
        part = entry.kind, entry.component.name
        if part not in sound:
            yield Idle(*part, "its class cannot be used")
        elif part not in exercised:
            yield from _undeclared(entry, homes)


def _undeclared(entry: Registered, homes: Iterable[str]) -> Iterator[Line]:
    from metaformer.testing.installed import undeclared_checks

    checks, why = undeclared_checks(entry)
    for check in checks:
        yield from _run(check)
    if why:
        yield Idle(entry.kind, entry.component.name, f"no case in {' or '.join(homes)}; {why}")


def _run(check: Check) -> Iterator[Line]:
    full, knobs = check.use or ("", {})
    name = full.rpartition(":")[2]
    yield Begun(f"{check.kind} {name} {check.name}".replace("  ", " "))
    start, fault = time.perf_counter(), ""
    try:
        check.run()
    except AssertionError as error:
        fault = str(error) or "fails without a word"
    except SystemExit as error:
        fault = f"tries to end the program (SystemExit: {error.code})"
    seconds = round(time.perf_counter() - start, 3)
    yield Result(check.kind, name, check.name, not fault, fault or check.promise, dict(knobs), seconds)


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _hooks(plugin: Plugin) -> Iterator[Line]:
    """What holds for the module behind an entry point, which every command imports."""

    def result(check: str, promise: str, fault: str) -> Result:
        return Result("plugin", plugin.distribution, check, not fault, fault or promise)

    yield Begun(f"import of {plugin.target}")
    before, start = set(sys.modules), time.process_time()
    with unconnected() as attempts:
        loaded, fault = _attempt(lambda: load_plugin(plugin))
    seconds = time.process_time() - start
    offered = [f"{kind} {c.name}" for kind, found in (loaded.components if loaded else {}).items() for c in found]
    promise = f"Its hooks and its interface version are known, and it registers {', '.join(offered) or 'nothing'}."
    yield result("hooks", promise, fault)
    own = plugin.target.partition(":")[0].partition(".")[0]
    tops = {name.partition(".")[0] for name in set(sys.modules) - before}
    foreign = sorted(top for top in tops - sys.stdlib_module_names - {*OWN, own} if not top.startswith("__"))
    # One that imports the contracts of the core has imported torch with them, and is found by that.
    heavy = f"the module of its hooks imports {', '.join(foreign)}: every command would wait for it"
    light = "The module of its hooks imports nothing but metaformer's hooks."
    yield result("hooks_light", light, heavy if foreign else "")
    slow = f"the module of its hooks takes {seconds:.2f} s to import where {LIGHT:g} s are allowed"
    yield result("hooks_cost", "The module of its hooks is imported in no time.", slow if seconds > LIGHT else "")
    network = f"the module of its hooks uses the network ({', '.join(dict.fromkeys(attempts))})"
    yield result("hooks_offline", "Discovery uses no network.", network if attempts else "")


def _attempt(act: Callable[[], Loaded]) -> tuple[Loaded | None, str]:
    try:
        return act(), ""
    except PluginError as error:
        return None, error.found


if __name__ == "__main__":
    main()
