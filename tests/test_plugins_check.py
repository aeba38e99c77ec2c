"""`metaformer plugins check`: what it says of plugins that cannot be checked to the end, or at all."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from metaformer.commands.check import check_command
from metaformer.errors import PluginError
from metaformer.registry import registry

HOOKS = """\
import numpy
from metaformer import Component, hookimpl

METAFORMER_API = "1.0"


@hookimpl
def register_heads():
    return [Component("h1_fatal", "h1_fatal_head:Fatal"), Component("h1_absent", "h1_fatal_head:Absent")]


@hookimpl
def register_metrics():
    return [Component("h1_misfit", "h1_fatal_head:Misfit")]
"""
PARTS = """\
import os
from metaformer.base import Head, Metric


class Misfit(Metric):
    higher_is_better = True

    def __init__(self, luck):
        pass

    def update(self, prediction, target):
        pass

    def compute(self):
        return 0.0


class Fatal(Head):
    predicts = "class"

    def __init__(self, dim: int):
        super().__init__()
        self.size = 2

    def forward(self, tokens):
        os._exit(3)
"""


@pytest.fixture(scope="module")
def receipt(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fatal")
    (folder / "h1_fatal.py").write_text(HOOKS)
    (folder / "h1_fatal_head.py").write_text(PARTS)
    info = folder / "h1_fatal-0.3.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: h1-fatal\nVersion: 0.3\n")
    (info / "entry_points.txt").write_text("[metaformer]\nh1_fatal = h1_fatal\n")
    env = {**os.environ, "PYTHONPATH": str(folder)}
    command = [sys.executable, "-m", "metaformer", "plugins", "check", "h1_fatal", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert done.returncode == 4, done.stdout + done.stderr
    (receipt,) = json.loads(done.stdout)
    return receipt


def sentences(receipt, name):
    return {c["check"]: c["sentence"] for c in receipt["checks"] if c["name"] == name and not c["passed"]}


def test_a_crash_ends_the_checks_and_is_said_with_the_check_that_ran(receipt):
    said = sentences(receipt, "h1-fatal")
    assert said["process"] == "the process that checks it ended with code 3 during: head h1_fatal eval_mode"


def test_hooks_that_import_more_than_hooks_are_named(receipt):
    assert "the module of its hooks imports" in sentences(receipt, "h1-fatal")["hooks_light"]
    assert "numpy" in sentences(receipt, "h1-fatal")["hooks_light"]


def test_what_is_not_there_and_what_the_core_cannot_make_are_named(receipt):
    assert "Absent" in sentences(receipt, "h1_absent")["importable"]
    misfit = sentences(receipt, "h1_misfit")["signature"]
    assert misfit == "its positional arguments luck are not wired to a metric: head, target are"


def test_what_is_not_installed_cannot_be_checked():
    with pytest.raises(PluginError, match="no such distribution is installed") as caught:
        check_command(registry(), ["metaformer-plugin-nowhere"], False)
    assert caught.value.exit_code == 4
