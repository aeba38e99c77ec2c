"""`metaformer doctor`: what this machine lacks, with the command that mends it. Imports nothing heavy."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import Literal

from metaformer.commands.output import print_table
from metaformer.registry import Registry

TESTED: Mapping[str, str] = {
    "torch": "2.11.0",
    "torchvision": "0.26.0",
    "torchaudio": "2.11.0",
    "torchcodec": "0.11.1",
    "deepspeed": "0.19.8",
    "timm": "1.0.31",
    "transformers": "5.23",
    "pydantic": "2.14",
    "pluggy": "1.7",
    "ruamel.yaml": "0.19",
    "typer": "0.29",
}
"""Distribution → version, or its first parts, in the set that the project is tested with."""

OPEN3D_LIBRARIES: Mapping[str, str] = {
    "libusb-1.0.so.0": "libusb-1.0-0",
    "libGL.so.1": "libgl1",
    "libEGL.so.1": "libegl1",
    "libX11.so.6": "libx11-6",
}
"""Shared library that open3d loads → Debian package."""


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    state: Literal["ok", "note", "fault"]
    subject: str
    found: str
    do: str = ""


def doctor_command(registry: Registry) -> int:
    """Print what was found; 1 where something that metaformer needs is missing or broken."""
    findings = list(examine(registry))
    rows = [(f.state, f.subject, f.found, f"do: {f.do}" if f.do else "") for f in findings]
    print_table("metaformer doctor", ("", "subject", "found", "what to do"), rows)
    return int(any(finding.state == "fault" for finding in findings))


def examine(registry: Registry) -> Iterator[Finding]:
    """Everything looked at, in the order of the report."""
    yield Finding("ok", "python", f"{platform.python_version()} ({sys.platform}, {platform.machine()})")
    yield from _requirements()
    yield from _tested_set()
    yield from _libraries()
    yield from _tools()
    yield _threads()
    yield from _plugins(registry)


def version_of(distribution: str) -> str | None:
    """Installed version, or None."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _requirements() -> Iterator[Finding]:
    """What metaformer itself declares and cannot do without."""
    try:
        declared = metadata.requires("metaformer") or []
    except metadata.PackageNotFoundError:
        yield Finding("fault", "metaformer", "runs from a folder, not installed", "pip install -e .")
        return
    for line in declared:
        name = re.split(r"[\s;<>=!~\[(]", line, maxsplit=1)[0]
        if "extra ==" not in line and version_of(name) is None:
            yield Finding("fault", name, "not installed", f"pip install '{line.partition(';')[0].strip()}'")


def _tested_set() -> Iterator[Finding]:
    for name, tested in TESTED.items():
        version = version_of(name)
        if version is None:
            continue
        same = (version.partition("+")[0] + ".").startswith(tested + ".")
        do = "if something fails, install with the project's constraints file"
        yield Finding("ok" if same else "note", name, version, "" if same else f"tested with {tested}; {do}")


def _libraries() -> Iterator[Finding]:
    if version_of("open3d") is None and version_of("open3d-cpu") is None:
        return
    missing = [package for library, package in OPEN3D_LIBRARIES.items() if not _loads(library)]
    if missing:
        do = f"apt-get install -y {' '.join(missing)}"
        yield Finding("note", "open3d", f"point clouds need system libraries: {', '.join(missing)}", do)
    else:
        yield Finding("ok", "open3d", "its system libraries load")


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def _tools() -> Iterator[Finding]:
    # DeepSpeed compiles a small communication op at its first start in several CPU processes.
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler:
        yield Finding("ok", "C++ compiler", compiler)
    else:
        found = "none: DeepSpeed cannot build its operations for several CPU processes"
        yield Finding("note", "C++ compiler", found, "apt-get install -y g++")
    ninja = shutil.which("ninja") or version_of("ninja")
    yield (
        Finding("ok", "ninja", ninja)
        if ninja
        else Finding("note", "ninja", "none: DeepSpeed builds with it", "pip install ninja")
    )
    if version_of("torchcodec") and not shutil.which("ffmpeg"):
        yield Finding("note", "ffmpeg", "none: torchcodec reads video with it", "apt-get install -y ffmpeg")


def _threads() -> Finding:
    cores, chosen = len(os.sched_getaffinity(0)), os.environ.get("OMP_NUM_THREADS")
    found = f"{cores} cores for this process; OMP_NUM_THREADS={chosen or 'not set'}"
    if chosen and chosen.isdecimal() and int(chosen) > cores:
        return Finding("note", "threads", found, "more threads than cores are slow: unset OMP_NUM_THREADS")
    return Finding("ok", "threads", found)


def _plugins(registry: Registry) -> Iterator[Finding]:
    for name, seconds in registry.slow.items():
        do = "its authors should import what is heavy in the modules of its components only"
        yield Finding("note", name, f"takes {seconds:.1f} s to import, at every command", do)
    for plugin in registry.plugins:
        yield Finding("ok", plugin.distribution, f"{plugin.version}, plugin '{plugin.entry_point}'")
    for other in registry.broken:
        yield Finding("fault", other.distribution, f"{other.version} is broken: {other.reason}", other.do)
    for other in registry.disabled:
        yield Finding("note", other.distribution, f"{other.version} is blocked", other.do)
