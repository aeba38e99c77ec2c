"""`metaformer plugins check`: the conformance of installed distributions, and a receipt of what was checked."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from itertools import groupby
from pathlib import Path

from metaformer import __version__
from metaformer.commands.examine import Begun, Idle, Line, Result
from metaformer.discovery import CORE, DISABLE, canonical
from metaformer.errors import PluginError
from metaformer.hookspecs import API
from metaformer.plaintext import printable
from metaformer.registry import Registry

FAILED = PluginError.exit_code
"""What the command returns where a check fails."""


@dataclass(frozen=True)
class Receipt:
    """What was checked of one distribution, with what, and how it went."""

    distribution: str
    version: str
    checks: list[Result]
    not_exercised: list[Idle]

    @property
    def failed(self) -> int:
        return sum(not result.passed for result in self.checks)


def check_command(registry: Registry, distributions: Sequence[str], as_json: bool) -> int:
    """Print a receipt per distribution; the exit code is 0, or 4 where any check of any of them fails."""
    found = [_find(registry, name) for name in distributions]
    receipts = []
    for name, version in found:
        receipt = _check(registry, name, version)
        receipts.append(receipt)
        if not as_json:
            _print(receipt)
    if as_json:
        print(json.dumps([_record(receipt) for receipt in receipts], indent=1))
    return FAILED if any(receipt.failed for receipt in receipts) else 0


def _find(registry: Registry, name: str) -> tuple[str, str]:
    """Name and version of an installed distribution, sound enough to be checked."""
    asked = f"check the plugin '{name}'"
    for plugin in registry.plugins:
        if canonical(plugin.distribution) == canonical(name):
            return plugin.distribution, plugin.version
    for other in (*registry.broken, *registry.disabled):
        if canonical(other.distribution) == canonical(name):
            raise PluginError(asked, other.reason, other.do)
    names = ", ".join(sorted({plugin.distribution for plugin in registry.plugins}))
    raise PluginError(asked, f"no such distribution is installed, or it is no plugin; there are {names}", "install it")


def _check(registry: Registry, name: str, version: str) -> Receipt:
    """Everything about one distribution, found out by a process that knows it and the core alone."""
    others = {plugin.distribution for plugin in registry.plugins} - {name, CORE}
    environment = {**os.environ, DISABLE: ",".join(sorted(canonical(other) for other in others))}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "results"
        # -P: the plugin as it is installed, not as it may lie in the working directory.
        command = [sys.executable, "-P", "-m", "metaformer.commands.examine", name, str(file)]
        done = subprocess.run(command, env=environment, stdout=2, check=False)
        lines = list(_read(file)) if file.exists() else []
    checks = [line for line in lines if isinstance(line, Result)]
    if done.returncode:
        last = [line.check for line in lines if isinstance(line, Begun)]
        during = f" during: {last[-1]}" if last else ""
        sentence = f"the process that checks it ended with code {done.returncode}{during}"
        checks.append(Result("plugin", name, "process", False, sentence))
    return Receipt(name, version, checks, [line for line in lines if isinstance(line, Idle)])


def _read(file: Path) -> Iterator[Line]:
    kinds: dict[str, type[Result | Idle | Begun]] = {kind.__name__: kind for kind in (Result, Idle, Begun)}
    for text in file.read_text(encoding="utf-8").splitlines():
        record = json.loads(text)
        yield kinds[record.pop("line")](**record)


def _subject(result: Result) -> tuple[str, str, str]:
    knobs = ", ".join(f"{name}: {value}" for name, value in result.knobs.items())
    return result.kind, result.name, f" ({knobs})" if knobs else ""


def _print(receipt: Receipt) -> None:
    made_of = f"metaformer {__version__}, python {platform.python_version()}, torch {metadata.version('torch')}"
    print(f"{receipt.distribution} {receipt.version}, checked with {made_of}")
    width = max((len(result.check) for result in receipt.checks), default=0)
    for (kind, name, knobs), results in groupby(receipt.checks, key=_subject):
        print(printable(f"{kind} {name}{knobs}", lines=False))
        for result in results:
            state = "pass" if result.passed else "FAIL"
            print(f"  {state}  {result.check.ljust(width)}  {printable(result.sentence, lines=False)}")
    for idle in receipt.not_exercised:
        print(printable(f"NOT exercised: {idle.kind} {idle.name}: {idle.why}", lines=False))
    total, failed = len(receipt.checks), receipt.failed
    print(f"{total} checks: {total - failed} passed, {failed} failed; {len(receipt.not_exercised)} not exercised\n")


def _record(receipt: Receipt) -> dict[str, object]:
    return {
        "distribution": receipt.distribution,
        "version": receipt.version,
        "metaformer": __version__,
        "interface": API,
        "python": platform.python_version(),
        "torch": metadata.version("torch"),
        "passed": len(receipt.checks) - receipt.failed,
        "failed": receipt.failed,
        "not_exercised": [asdict(idle) for idle in receipt.not_exercised],
        "checks": [asdict(result) for result in receipt.checks],
    }
