"""What a rank of tests/test_ranks.py runs: one recipe at every ZeRO stage, one after the other.

deepspeed --num_accelerators 2 --module tests.ranks.stages OUTPUT SET...
"""

from __future__ import annotations

import sys
from pathlib import Path

from metaformer.cli import without_launcher
from metaformer.train import train_command

RECIPE = Path("recipes/many_modalities.yaml")


def main() -> None:
    output, *sets = without_launcher(sys.argv[1:])
    for zero in range(4):
        train_command([RECIPE], [*sets, f"engine.zero={zero}", f"output={output}/zero{zero}"])


if __name__ == "__main__":
    main()
