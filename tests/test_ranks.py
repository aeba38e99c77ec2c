"""Two ranks under the `deepspeed` launcher: ranks that see different modalities, every ZeRO stage, equal losses."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
import torch

from metaformer.evaluate import restore
from metaformer.run import open_run
from tests.faulty import BIN, ROOT, deepspeed, torchrun

pytestmark = pytest.mark.ranks
QUICK = ["steps=6", "batch_size=8", "eval_every=6", "optimizer.lr=1e-2", "schedule.warmup=2"]
SMALL = ["encoders.shared.dim=16", "encoders.shared.depth=1", "tokenizers.text.max_length=32"]


def start(command: list[str], *words: str) -> None:
    """A launcher, to a good end."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PATH": f"{BIN}:{os.environ['PATH']}"}
    done = subprocess.run(
        [*command, *words], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def launch(launcher: list[str], output: Path, *sets: str) -> Path:
    """Train under a launcher and return the run directory."""
    options = [part for one in (*QUICK, *SMALL, f"output={output}", *sets) for part in ("--set", one)]
    start(launcher, "metaformer", "train", "recipes/many_modalities.yaml", *options)
    return only(output)


def only(output: Path) -> Path:
    (run,) = (output / "many_modalities").iterdir()
    return run


def records(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def losses(run: Path) -> list[float]:
    return [r["loss"] for r in records(run) if "loss_hex" in r]


@pytest.fixture(scope="module")
def stages(tmp_path_factory) -> list[Path]:
    """The run at ZeRO 0, 1, 2 and 3, one after the other in the same two ranks: a start takes longer than a run."""
    output = tmp_path_factory.mktemp("stages")
    start(deepspeed(2), "tests.ranks.stages", str(output), *QUICK, *SMALL)
    return [only(output / f"zero{zero}") for zero in range(4)]


@pytest.fixture(scope="module")
def zero_stage_0(stages) -> Path:
    return stages[0]


def test_ranks_see_different_modalities_in_one_step(zero_stage_0):
    steps = [r for r in records(zero_stage_0) if "loss_hex" in r]
    both = [r for r in steps if sum(key.startswith("loss/") for key in r) > 1]
    assert both, "with four tasks and two ranks some step must mix tasks"


@pytest.mark.parametrize("zero", [1, 2, 3])
def test_every_zero_stage_gives_the_losses_of_stage_0(stages, zero_stage_0, zero):
    run = stages[zero]
    assert losses(run) == pytest.approx(losses(zero_stage_0), rel=1e-5)
    theirs, ours = records(zero_stage_0)[-1]["metrics"], records(run)[-1]["metrics"]
    assert ours == pytest.approx(theirs, rel=1e-4)
    assert json.loads((run / "status.json").read_text())["state"] == "finished"
    weights, expected = (restore(open_run(path), "latest")[1].state_dict() for path in (run, zero_stage_0))
    for name, value in expected.items():
        ours, theirs = weights[name], value
        if name.endswith("attn.qkv.bias"):
            # A bias of the keys shifts all scores of a query alike: its gradient is rounding noise, scaled up by Adam.
            (q, _, v), (q0, _, v0) = ours.chunk(3), theirs.chunk(3)
            ours, theirs = torch.cat([q, v]), torch.cat([q0, v0])
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.thorough
def test_torchrun_and_the_plain_engine_give_the_same(zero_stage_0, tmp_path):
    run = launch(torchrun(2), tmp_path, "engine={use: torch, clip: 1.0}")
    assert losses(run) == pytest.approx(losses(zero_stage_0), rel=1e-5)


def test_one_process_gives_the_losses_of_two(zero_stage_0, tmp_path):
    run = launch(deepspeed(1), tmp_path, "engine={use: torch, clip: 1.0, micro_batch: 4}")
    assert losses(run) == pytest.approx(losses(zero_stage_0), rel=1e-5)
