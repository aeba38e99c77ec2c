"""The core's components against the conformance kit, each check a test of its own; and of every distribution of the
house, that it has a case for all it offers, and that none of these moves a global random generator."""

import subprocess
import sys
from pathlib import Path

import pytest

from metaformer.conformance import checks
from metaformer.encoders.control import NoEncoder, shuffle_contents
from metaformer.encoders.transformer import TransformerEncoder
from metaformer.registry import registry
from metaformer.testing import encoder_checks
from metaformer.testing.installed import declared, home, subject

DRAWS = ("random_state", "preprocess_random_state")
"""Checks that need a process without the run-time type checks of the root's conftest.py: beartype itself draws from
python's `random`."""
HOUSE = ("metaformer", *sorted(path.name for path in Path(__file__).parents[1].glob("plugins/metaformer-plugin-*")))


@pytest.mark.parametrize("check", [pytest.param(c, id=f"{subject(c)[1]}-{c}") for c in checks() if c.name not in DRAWS])
def test_core(check):
    check.run()


# The controls, which nobody names in a recipe.


def shuffled():
    encoder = TransformerEncoder(dim=16, depth=1, num_heads=2)
    shuffle_contents(encoder)
    return encoder


@pytest.mark.parametrize(
    "check",
    # They change what an encoder does to positions and prefix; what workers and engines need stays.
    [
        pytest.param(check, id=f"{case}-{check}")
        for case, make in {"none": lambda: NoEncoder(16), "shuffled": shuffled}.items()
        for check in encoder_checks(make)
        if check.name not in ("padding_invariance", "batch_order", *DRAWS)
    ],
)
def test_control(check):
    check.run()


def cases(distribution):
    """What `metaformer plugins check` runs of it."""
    (plugin,) = (plugin for plugin in registry().plugins if plugin.distribution == distribution)
    return list(declared(home(plugin.target)))


@pytest.mark.parametrize("distribution", HOUSE)
def test_no_component_is_forgotten(distribution):
    offered = {(r.kind, r.component.name) for r in registry().components() if r.distribution == distribution}
    assert offered
    assert offered == {subject(check) for check in cases(distribution)}


def run_draws():
    """Run the checks that the tests leave out, and say what fails."""
    for distribution in HOUSE:
        for check in cases(distribution):
            if check.name in DRAWS:
                try:
                    check.run()
                except AssertionError as error:
                    print(f"{distribution}: {check.use}: {error}")
    print("all run")


def test_nothing_moves_the_global_random_state():
    code = "import runpy, sys; runpy.run_path(sys.argv[1])['run_draws']()"
    done = subprocess.run([sys.executable, "-c", code, __file__], capture_output=True, text=True, check=False)
    assert done.stdout == "all run\n", done.stdout + done.stderr
