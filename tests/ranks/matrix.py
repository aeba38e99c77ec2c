"""What tests/test_resume_ranks.py runs: many small runs, one after the other, in the same two ranks.

    python -m tests.ranks.matrix OUTPUT CASE,...

Every case is trained to its end under OUTPUT/straight and, under OUTPUT/parts, up to a signal in the middle; new
processes go on with those. OUTPUT/stopped.json says how the runs were left by the signal.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import sys
from pathlib import Path

from metaformer.errors import StoppedError
from metaformer.hookspecs import hookimpl
from metaformer.registry import registry
from metaformer.train import train_command
from tests.faulty import PAIRS, SMALL, only_run, status

HALF = 10
CASES = {
    f"zero{zero}_{trainable.replace('-', '')}_x{accumulate}": (
        f"engine={{use: deepspeed, zero: {zero}, clip: 1.0, threads: 1, micro_batch: 2, accumulate: {accumulate}}}",
        "batch_size=null",
        f"trainable={trainable}",
    )
    for zero, trainable, accumulate in itertools.product(range(4), ("frozen", "lora", "tuned"), (1, 3))
}
"""Every ZeRO stage with what is trained and with how many passes a step has: bar R1."""
TEACHERS = {
    f"teacher_zero{zero}": (
        f"engine={{use: deepspeed, zero: {zero}, threads: 1}}",
        "batch_size=8",
    )
    for zero in (0, 2, 3)
}
PRECISION = {
    f"fp16_zero{zero}": (f"engine={{use: deepspeed, zero: {zero}, precision: fp16, clip: 1.0, threads: 1}}",)
    for zero in (0, 1, 3)
}


class StopHalfway:
    """A plugin that sends rank zero the signal that a cluster would send."""

    @hookimpl
    def step_finished(self, run, record):
        if record["step"] == HALF:
            os.kill(os.getpid(), signal.SIGTERM)


def train(folder: Path, case: str, sets: tuple[str, ...], resume: str = "never") -> None:
    common = ("steps=20", "encoders.shared.dim=64", "encoders.shared.depth=2", "eval_every=5", f"name={case}")
    os.environ["WITNESS"] = str(folder / f"{case}.pt")
    train_command([PAIRS if case in TEACHERS else SMALL], [*common, *sets, f"output={folder}"], resume)


def begin(output: Path, cases: dict[str, tuple[str, ...]]) -> None:
    for case, sets in cases.items():
        train(output / "straight", case, sets)
        if os.environ["RANK"] == "0":
            registry().register_observer(StopHalfway(), "halfway")
        try:
            train(output / "parts", case, sets)
        except StoppedError:
            registry().unregister_observer("halfway")
        else:
            raise AssertionError(f"{case} was not stopped")


def go_on(output: Path, cases: dict[str, tuple[str, ...]]) -> None:
    for case, sets in cases.items():
        train(output / "parts", case, sets, "auto")


def main() -> None:
    from tests.ranks.forked import in_ranks  # heavy, and tests import this module for its cases

    output, wanted = Path(sys.argv[1]), sys.argv[2].split(",")
    cases = {case: sets for case, sets in {**CASES, **TEACHERS, **PRECISION}.items() if case in wanted}
    in_ranks(2, lambda: begin(output, cases))
    stopped = {case: status(only_run(output / "parts", case)) for case in cases}
    (output / "stopped.json").write_text(json.dumps(stopped))
    in_ranks(2, lambda: go_on(output, cases))


if __name__ == "__main__":
    main()
