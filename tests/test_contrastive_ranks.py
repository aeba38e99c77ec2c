"""Two ranks: the gradient of a contrast over both ranks' batches is that of one rank with the joined batch."""

from __future__ import annotations

import sys

import pytest
from safetensors.torch import load_file

from tests.faulty import launch, only_run, steps
from tests.ranks.joined import ZERO

pytestmark = [pytest.mark.ranks, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    folder = tmp_path_factory.mktemp("joined")
    launch([sys.executable, "-m", "tests.ranks.joined", str(folder)], 500)
    return folder


def assert_equal(weights, others, run):
    """To a millionth of the way that plain descent went, which is made of gradients."""
    way = sum(step["lr"] * step["grad_norm"] for step in steps(run))
    assert way > 1
    assert weights.keys() == others.keys()
    far = {name: float((weights[name] - others[name]).abs().max()) for name in weights}
    assert max(far.values()) < 1e-6 * way, {name: value for name, value in far.items() if value >= 1e-6 * way}


@pytest.mark.parametrize(("case", "zero"), [(case, zero) for case, stages in ZERO.items() for zero in stages])
def test_two_ranks_have_the_gradient_of_the_joined_batch(output, case, zero):
    alone, two = (only_run(output, name) for name in (f"alone_{case}", f"two_{case}_zero{zero}"))
    weights, others = (load_file(run / "checkpoints/step_00000003/model.safetensors") for run in (alone, two))
    assert_equal(weights, others, alone)
    for one, other in zip(steps(alone), steps(two), strict=True):
        assert one["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-5)
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-5)


def test_a_chunk_at_a_time_is_the_same_gradient(output):
    plain, chunk = (only_run(output, f"alone_{case}") for case in ("plain", "chunk"))
    weights, others = (load_file(run / "checkpoints/step_00000003/model.safetensors") for run in (plain, chunk))
    assert_equal(weights, others, plain)
