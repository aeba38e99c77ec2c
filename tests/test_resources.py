"""Memory, disks and directories that run out (bars D3, D4, D6)."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from metaformer.errors import MetaformerError, OutOfMemoryError
from metaformer.run import Run
from metaformer.train import out_of_memory
from tests.faulty import ROOT, SMALL, arguments, environment, finish, only_run, run, start, status, steps, wait_until

LIMITED = """
import resource, sys
from pathlib import Path
import torch, deepspeed, torch.utils.tensorboard, torchmetrics.classification  # what a run maps before it allocates
from metaformer.cli import main
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + int(sys.argv[1]), resource.RLIM_INFINITY))
sys.argv = ["metaformer", *sys.argv[2:]]
main()
"""


def test_memory_that_runs_out_is_reported_with_what_to_do(tmp_path):
    sets = (
        "encoders.shared.dim=512", "encoders.shared.depth=8", "batch_size=4096", "trainable=frozen",
        "tasks.signs.data.train.size=4096", "engine={use: torch, threads: 1}",
    )  # fmt: skip
    command = [sys.executable, "-c", LIMITED, str(700 * 2**20), *arguments(tmp_path, *sets)]
    done = subprocess.run(
        command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=200, check=False
    )
    out = done.stdout + done.stderr
    assert done.returncode == 6, out[-3000:]
    assert "step 1: a pass over 4096 samples per rank (vector: 5 tokens)" in out
    assert "--set engine.micro_batch=2048 --set engine.accumulate=2" in out
    assert "engine.activation_checkpointing" in out
    found = status(only_run(tmp_path))
    assert found["exit_code"] == 6
    assert found["state"] == "failed"


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"),
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried"),
    ],
)
def test_every_allocator_is_understood(error):
    assert isinstance(out_of_memory(error, None), OutOfMemoryError)


def test_other_errors_are_left_alone():
    assert out_of_memory(RuntimeError("shapes do not match"), None) is None


@pytest.mark.thorough
def test_an_output_directory_that_cannot_be_written_is_named(tmp_path):
    target = tmp_path / "file"
    target.write_text("in the way")
    out = run(arguments(target), 1)
    assert f"write the run directory {target}" in out
    assert "--set output=FOLDER" in out
    assert "Traceback" not in out


def test_an_output_directory_that_vanishes_ends_the_run_with_a_clear_error(tmp_path):
    process = start(arguments(tmp_path, "steps=100000"))
    wait_until(lambda: list(tmp_path.glob("small/*/metrics.jsonl")) and len(steps(only_run(tmp_path))) > 3, process)
    shutil.rmtree(only_run(tmp_path), ignore_errors=True)
    shutil.rmtree(tmp_path / "small", ignore_errors=True)
    out = finish(process, 60)
    assert process.returncode == 1, out
    assert "write the run directory" in out
    assert "--set output=FOLDER" in out


def test_a_read_only_directory_is_an_error_with_the_way_out(tmp_path, monkeypatch):
    from metaformer.recipe_file import read_recipe
    from tests.faulty import plugin

    with plugin(monkeypatch):
        made = Run(tmp_path / "run", read_recipe(SMALL), SMALL.parent)
        made.begin()

        def refuse(*arguments, **keywords):
            raise PermissionError(13, "Read-only file system")

        monkeypatch.setattr(Path, "open", refuse)
        for work in (lambda: made.append("metrics.jsonl", {}), lambda: made.write_json("status.json", {})):
            with pytest.raises(MetaformerError, match="Read-only file system") as caught:
                work()
            assert "--set output=FOLDER" in str(caught.value)


LONG = {
    "text": ("text", {"max_length": 16}, "word " * 20_000),
    "timeseries": ("timeseries", {"channels": 1, "max_length": 32, "patch_length": 8}, [[0.5]] * 100_000),
    "image": ("image", {"image_size": 32, "patch_size": 8}, torch.zeros(2000, 2000, dtype=torch.uint8).numpy()),
}
"""Modality → tokenizer, knobs, and one pathologically long sample."""


@pytest.mark.parametrize("modality", LONG)
def test_no_sample_makes_more_tokens_than_the_knobs_allow(modality):
    """A batch is at most micro_batch samples of full size: longer ones are cut or refused."""
    from metaformer.errors import DataError
    from metaformer.registry import registry
    from metaformer.schema import construct

    name, knobs, value = LONG[modality]
    tokenizer = construct(registry().load("tokenizer", name), knobs, {"dim": 16})
    preprocess = tokenizer.preprocess
    budget = tokenizer(preprocess.collate([preprocess.example()])).x.shape[1]
    try:
        raw = preprocess(value, train=False)
    except DataError:
        return
    assert tokenizer(preprocess.collate([raw])).x.shape[1] <= budget
