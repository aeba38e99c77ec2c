"""What a rank of tests/test_gradients.py runs: small runs with and without looks at gradients, in one process.

python -m tests.ranks.looks OUTPUT
"""

from __future__ import annotations

import sys
from pathlib import Path

from metaformer.train import train_command
from tests.faulty import SMALL, only_run

TWO = (
    "heads.total={use: regression, reads: vector, pool: mean}",
    "tasks.sums={data: {train: {use: vectors, seed: 2}}, objective: {use: regression, head: total}}",
)
"""A second task beside the first: the sum of the numbers."""
_CUT = "threads: 1, micro_batch: 4"
CASES = {
    "two_torch": (*TWO, f"engine={{use: torch, {_CUT}}}"),
    "two_zero0": (*TWO, f"engine={{zero: 0, {_CUT}}}"),
    "two_zero2": (*TWO, f"engine={{zero: 2, {_CUT}}}"),
    "one_zero1": (f"engine={{zero: 1, {_CUT}}}", "encoders.shared.drop=0.0"),
}


def train(folder: Path, case: str, sets: tuple[str, ...], *more: str) -> Path:
    """A small run of two steps' worth of samples per rank; its directory."""
    train_command([SMALL], [*sets, f"name={case}", f"output={folder}", *more])
    return only_run(folder, case)


def main() -> None:
    output = Path(sys.argv[1])
    for case, sets in CASES.items():
        train(output / "plain", case, sets)
        train(output / "seen", case, sets, "observe.every=3")


if __name__ == "__main__":
    main()
