"""Does a long run leak? Memory, open files, threads and shared memory over thousands of steps: bar D5.

    python benchmarks/soak.py --steps 2000

Trains `recipes/digits_frozen.yaml` with DeepSpeed, two data workers, evaluations and checkpoints on the way, and looks
at its own process twenty times. Prints the slope of the resident memory over the second half, in bytes per step, and
what is left at the end; exits 1 beyond the bar.
"""

from __future__ import annotations

import argparse
import os
import re
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from metaformer.hookspecs import hookimpl
from metaformer.registry import registry
from metaformer.train import train_command

ROOT = Path(__file__).parent.parent
BAR = 1024
"""Bytes per step."""


FILES = 4
"""How many open files come and go with evaluations and data workers."""


class Watch:
    """Looks at this process now and then."""

    def __init__(self, every: int) -> None:
        self.every = every
        self.rows: list[tuple[int, int, int, int]] = []

    @hookimpl
    def step_finished(self, run: Any, record: Mapping[str, Any]) -> None:
        if record["step"] % self.every == 0:
            me = psutil.Process()
            self.rows.append((record["step"], me.memory_info().rss, me.num_fds(), threading.active_count()))


def in_use(name: str) -> bool:
    """Whether a segment of torch's is that of a process that lives: of another run beside this one."""
    made = re.match(r"torch_(\d+)_", name)
    return made is not None and psutil.pid_exists(int(made[1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--any-slope", action="store_true", help="judge everything but memory: for short runs")
    arguments = parser.parse_args()
    os.chdir(ROOT)
    before = set(Path("/dev/shm").iterdir())
    watch = Watch(max(arguments.steps // 20, 1))
    registry().register_observer(watch, "soak")
    with tempfile.TemporaryDirectory() as folder:
        sets = [f"output={folder}", f"steps={arguments.steps}", "controls=[]", "loader.workers=2", "log_every=1000000"]
        every = max(arguments.steps // 8, 1)
        train_command([Path("recipes/digits_frozen.yaml")], [*sets, f"save_every={every}", f"eval_every={every}"])
    half = watch.rows[len(watch.rows) // 2 :]
    slope = float(np.polyfit([row[0] for row in half], [row[1] for row in half], 1)[0])
    files, threads = ({row[i] for row in half} for i in (2, 3))
    left = {path.name for path in set(Path("/dev/shm").iterdir()) - before if not in_use(path.name)}
    good = (slope < BAR or arguments.any_slope) and max(files) - min(files) <= FILES and len(threads) == 1 and not left
    print(
        f"{arguments.steps} steps: resident memory {half[-1][1] / 2**20:.0f} MiB, {slope:+.0f} bytes per step over the "
        f"second half; open files {sorted(files)}, threads {sorted(threads)}, "
        f"left in /dev/shm: {sorted(left) or 'nothing'}"
    )
    raise SystemExit(0 if good else 1)


if __name__ == "__main__":
    main()
