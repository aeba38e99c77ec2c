"""Write constraints.txt anew: the installed versions of everything the core, the plugins and the tests need.

Run it as `make pins`, in an environment that has just passed `make test`.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
HEADER = """\
# The tested set: the versions that `make test` passes with, complete with what they bring along.
# Installed with `-c constraints.txt`; the ranges that work are in the pyproject.toml files. Made by `make pins`.
"""
OPTIONS = ("--no-header", "--no-annotate", "--no-emit-index-url", "--no-emit-find-links", "--python-version", "3.11")
ALSO = (
    "uv",
    # What later modalities need, pinned now because an unpinned one replaces torch.
    "torchaudio==2.11.0",
    "torchcodec==0.11.1",
    'open3d-cpu==0.20.0; platform_machine == "x86_64"',
)


def requirements() -> list[str]:
    """What the distributions of this repository ask for, with all extras and groups, without one another."""
    found: list[str] = list(ALSO)
    for file in [ROOT / "pyproject.toml", *sorted(ROOT.glob("plugins/*/pyproject.toml"))]:
        with file.open("rb") as stream:
            table: dict[str, Any] = tomllib.load(stream)
        project = table["project"]
        found += project.get("dependencies", [])
        for extra in project.get("optional-dependencies", {}).values():
            found += extra
        for group in table.get("dependency-groups", {}).values():
            found += [entry for entry in group if isinstance(entry, str)]
        found += table["build-system"]["requires"]
        found.append("editables")  # what hatchling needs for an editable install
    return [line for line in found if not re.match(r"metaformer\b", line)]


def main() -> None:
    """Resolve the requirements under the installed versions and write the outcome."""
    uv = [str(Path(sys.executable).parent / "uv"), "pip"]
    frozen = subprocess.run([*uv, "freeze"], check=True, capture_output=True, text=True).stdout
    # Without setuptools: what a new environment begins with says nothing about what is needed.
    pattern = r"(?!setuptools=)[\w.-]+==[\w.]+"
    installed = "\n".join(line for line in frozen.splitlines() if re.fullmatch(pattern, line))
    known = ROOT / ".venv" / "installed.txt"
    known.write_text(installed + "\n", encoding="utf-8")
    compiled = subprocess.run(
        [*uv, "compile", *OPTIONS, "--constraints", str(known), "-"],
        input="\n".join(requirements()),
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout
    pins = [line for line in compiled.splitlines() if re.match(r"[\w.-]+==", line)]
    (ROOT / "constraints.txt").write_text(HEADER + "\n".join(pins) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
