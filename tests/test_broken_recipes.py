"""Broken recipes: each fault is reported with line, path, cause and fix, all at once, and without a traceback.

Every file in `broken_recipes/` names the faults it must be found to have: line | path | cause | fix.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent / "broken_recipes"
FILES = sorted(FOLDER.glob("*.yaml"))


@pytest.fixture(scope="module")
def report():
    """What one call says about all of them: every file is looked at, whatever the others hold."""
    command = [sys.executable, "-m", "metaformer", "recipe", "check", *(file.name for file in FILES)]
    done = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, env=os.environ | {"COLUMNS": "80"})
    assert done.returncode == 2
    assert "Traceback" not in done.stderr + done.stdout
    assert done.stdout == ""
    return done.stderr


def test_there_is_one_for_each_way_to_fail():
    assert len(FILES) == 11


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_fault_is_named_with_line_path_cause_and_fix(report, file):
    expected = re.findall(r"^# fault: line (\d+) \| (.+?) \| (.+?) \| (.+)$", file.read_text(), re.MULTILINE)
    assert expected
    found = re.findall(rf"^  {file.name}: line (\d+): ([^:\s]+): (.*)\n      do: (.*)$", report, re.MULTILINE)
    assert [fault[:2] for fault in found] == [fault[:2] for fault in expected]
    for (_, _, cause, fix), (_, _, said, told) in zip(expected, found, strict=True):
        assert cause in said
        assert fix in told
    number = len(expected)
    assert f"{file.name}: {number} problem{'s' if number > 1 else ''}\n" in report


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_line_is_the_one_that_holds_the_fault(file):
    """The goldens themselves: a wrong line number in a file's header would make the test above worthless."""
    lines = file.read_text().splitlines()
    for line, path in re.findall(r"^# fault: line (\d+) \| (.+?) \|", file.read_text(), re.MULTILINE):
        names = [part for part in path.split(".") if not part.isdigit()]
        assert any(name in lines[int(line) - 1] for name in names)
