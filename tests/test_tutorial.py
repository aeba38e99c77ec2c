"""The tutorial of CONTRIBUTING.md works as it is written: its commands are run, and its files written, one by one."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.stranger import Environment

TEXT = (Path(__file__).parent.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
TITLE = "### A modality in thirty minutes"
STEPS = re.findall(
    r"^```(shell|python)\n(.*?)^```$", TEXT.partition(TITLE)[2].partition("\n### ")[0], re.DOTALL | re.MULTILINE
)


def script() -> str:
    """The steps as one program of the shell. A file's name stands in its first line."""
    lines = ["set -eu"]
    for language, block in STEPS:
        if language == "shell":
            lines.append(block)
        else:
            name = re.match(r"# (\S+)\n", block)[1]
            lines.append(f"cat > {name} <<'END_OF_FILE'\n{block}END_OF_FILE")
    return "\n".join(lines)


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> tuple[Path, str]:
    """The folder in which the tutorial was followed, and what was printed."""
    environment = Environment(tmp_path_factory.mktemp("tutorial"))
    binaries = environment.python.parent
    for name in ("metaformer", "pip"):
        command = binaries / name
        command.write_text(f'#!/bin/sh\nexec "{environment.python}" -m {name} "$@"\n')
        command.chmod(0o755)
    # Everything that the plugin needs is there, and there is no network: pip shall not look for it.
    pip = {"PIP_NO_DEPS": "1", "PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "0", "PIP_QUIET": "1"}
    env = {**os.environ, **pip, "PATH": f"{binaries}:{os.environ['PATH']}"}
    env.pop("PYTHONPATH", None)
    done = subprocess.run(
        ["bash", "-c", script()], cwd=environment.work, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return environment.work / "metaformer-plugin-melody", done.stdout


def test_it_begins_checks_and_trains(done):
    project, said = done
    assert re.search(r"^\d+ checks: \d+ passed, 0 failed; 0 not exercised$", said, re.MULTILINE)
    assert re.search(r"^\d+ passed", said, re.MULTILINE)
    (run,) = (project / "runs" / "melody").iterdir()
    assert json.loads((run / "status.json").read_text())["state"] == "finished"
    assert len((project / "samples.jsonl").read_text().splitlines()) == 48


def test_every_block_is_a_step():
    section = TEXT.partition(TITLE)[2].partition("\n### ")[0]
    assert section.count("\n```") == 2 * len(STEPS)
    assert {language for language, _ in STEPS} == {"shell", "python"}
