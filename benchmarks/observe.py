"""What looking at the tasks' gradients costs: `observe: {every: N}` beside the same steps without.

    python benchmarks/observe.py recipes/many_modalities.yaml [--every 100] [--steps 200] [--set K=V ...]

Steps and looks are timed one by one in the same run, in turns, so that other work on the machine falls on both alike.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from pathlib import Path
from statistics import median

from metaformer.engine import find_place
from metaformer.gradients import TaskGradients
from metaformer.loop import train_step
from metaformer.prepare import prepare
from metaformer.recipe_file import read_recipe
from metaformer.report.console import Console
from metaformer.run import Run
from metaformer.session import Session
from metaformer.stopping import StopSignal
from metaformer.window import take_window

BOUND = 0.03
"""Share of a run's time that looks should stay below."""


def timed(session: Session, every: int, steps: int) -> tuple[list[float], list[float], int]:
    """Seconds of steps without a look, seconds of looks, and how many tasks were looked at last."""
    recipe = session.recipe
    gradients = TaskGradients(session.engine, 1, recipe.seed)
    plain, looks, tasks = [], [], 0
    session.engine.model.train()
    session.open_stream()
    kept = []
    for step in range(steps):
        began = time.perf_counter()
        window = take_window(session)
        assert window is not None
        train_step(session, window)
        plain.append(time.perf_counter() - began)
        kept = [*(batch for batch in kept if batch.task not in {b.task for b in window.batches}), *window.batches]
        if step % every == every - 1:
            began = time.perf_counter()
            found = gradients.follow(kept, step + 1, step)
            looks.append(time.perf_counter() - began)
            tasks = sum(key.startswith("grad_norm/") for key in found)
    assert session.batches is not None
    session.batches.close()
    # The first steps and looks fill caches.
    return plain[steps // 10 :], looks[1:], tasks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--every", type=int, default=100)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--set", action="append", default=[], dest="sets")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, StopSignal() as stop:
        file = read_recipe(arguments.recipe, [*arguments.sets, f"output={folder}", "controls=[]"])
        place = find_place(file.recipe.engine.threads)
        run = Run(Path(folder) / "run", file, arguments.recipe.parent, place.leads)
        session = prepare(run, place, Console(quiet=True), stop)
        # A look costs the same however often it is taken: take many.
        plain, looks, tasks = timed(session, max(arguments.steps // 20, 1), arguments.steps)
    step, look = median(plain), median(looks)
    print(f"{file.recipe.name}: a step takes {1e3 * step:.1f} ms, a look at {tasks} tasks {1e3 * look:.1f} ms")
    print(f"observe.every={arguments.every}: time with looks / without {1 + look / (arguments.every * step):.4f}")
    print(f"below {BOUND:.0%} from observe.every={math.ceil(look / (BOUND * step))} on")


if __name__ == "__main__":
    main()
