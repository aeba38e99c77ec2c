"""What tests/test_contrastive_ranks.py runs: paired objectives on one rank and on two, for the same batch.

    python -m tests.ranks.joined OUTPUT

Leaves OUTPUT/{alone,joined}_{CASE}/... runs, whose steps have the same samples.
"""

from __future__ import annotations

import sys
from pathlib import Path

from metaformer.train import train_command
from tests.faulty import PAIRS

CONTRAST = "{use: contrastive, between: [vector, words]"
CASES = {
    "plain": f"{CONTRAST}}}",
    "sigmoid": f"{CONTRAST}, loss: sigmoid, temperature: 0.1}}",
    "same": f"{CONTRAST}, same: sign, label_smoothing: 0.1, temperature_as: plain, min_temperature: 0.001}}",
    "chunk": f"{CONTRAST}, chunk: 2}}",
}
ZERO = {"plain": (0, 3), "sigmoid": (0,), "same": (2,), "chunk": (3,)}
"""Case -> stages on two ranks."""


def train(output: Path, name: str, case: str, *sets: str) -> None:
    # Plain descent: differences of weights are differences of gradients.
    common = ("steps=3", "optimizer={use: sgd, lr: 0.1, momentum: 0.0}", f"tasks.pairs.objective={CASES[case]}")
    train_command([PAIRS], [*common, f"name={name}", f"output={output}", *sets], "never")


def alone(output: Path) -> None:
    for case in CASES:
        train(output, f"alone_{case}", case, "engine={use: torch, threads: 1}")


def two(output: Path) -> None:
    for case, stages in ZERO.items():
        for zero in stages:
            train(output, f"two_{case}_zero{zero}", case, f"engine={{zero: {zero}, threads: 1}}")


def main() -> None:
    from tests.ranks.forked import in_ranks  # heavy, and tests import this module for its cases

    output = Path(sys.argv[1])
    in_ranks(1, lambda: alone(output))
    in_ranks(2, lambda: two(output))


if __name__ == "__main__":
    main()
