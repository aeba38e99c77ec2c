"""Kill a run of two ranks with SIGKILL, again and again, and see whether anything is lost: bar C1.

    python benchmarks/kill9.py --points 50

One run is trained to its end in spite of `--points` kills, at random moments and inside saves; each time both ranks are
killed and started again with `--resume`. At the end its curve has to be, bit for bit, that of a run that nobody
disturbed. Prints what each kill hit, and a last line with the counts; exits 1 where anything was lost.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

# Imported before any fork, heavy as they are.
import deepspeed  # noqa: F401
import torch.utils.tensorboard  # noqa: F401
import torchmetrics.classification  # noqa: F401

import metaformer.engine.screen
import metaformer.train  # noqa: F401
from metaformer.checkpoint import newest_valid
from metaformer.cli import main as main_of_metaformer
from metaformer.run import open_run

ROOT = Path(__file__).parent.parent
RECIPE = ROOT / "recipes/digits_frozen.yaml"
SAVE_EVERY = 20


@dataclass
class Kill:
    """What one kill hit."""

    inside_save: bool
    step: int
    """The last step on record when it struck."""
    lost: int
    """Steps that have to be made again."""
    unusable: list[str]


class Ranks:
    """Two processes that are the ranks of one run. They are forked from this one, which has imported everything, so
    that a start takes two seconds instead of ten; what they run is the command `metaformer`."""

    def __init__(self, words: list[str]) -> None:
        # Below the ports that the system gives away by itself.
        port = str(random.randrange(15_000, 20_000))
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - lives as long as the processes
        self.codes: dict[int, int] = {}
        self.pids = [self._fork(words, {"RANK": r, "LOCAL_RANK": r, "MASTER_PORT": port}) for r in ("0", "1")]

    def _fork(self, words: list[str], variables: dict[str, str]) -> int:
        pid = os.fork()
        if pid:
            return pid
        os.dup2(self.log.fileno(), 1)
        os.dup2(self.log.fileno(), 2)
        os.environ.update(variables, WORLD_SIZE="2", MASTER_ADDR="127.0.0.1")
        sys.argv = ["metaformer", *words]
        code = 1
        try:
            main_of_metaformer()
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(code)

    def kill(self) -> None:
        """Both at once, as a machine dies."""
        for pid in self.pids:
            os.kill(pid, signal.SIGKILL)
        for pid in self.pids:
            os.waitpid(pid, 0)

    def hold(self) -> None:
        """Stop both where they are; they can still be killed there, or go on."""
        for pid in self.pids:
            os.kill(pid, signal.SIGSTOP)
        for pid in self.pids:
            os.waitid(os.P_PID, pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def go_on(self) -> None:
        for pid in self.pids:
            os.kill(pid, signal.SIGCONT)

    def wait(self) -> None:
        """To the end; raises RuntimeError with what they said where that is not a good one."""
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in self.pids]
        if codes != [0, 0]:
            raise RuntimeError(f"exit codes {codes}\n{self.said()}")

    def ended(self) -> bool:
        return any(os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) for pid in self.pids)

    def said(self) -> str:
        self.log.seek(0)
        return self.log.read()[-4000:]


def words(output: Path, steps: int) -> list[str]:
    sets = [
        f"output={output}", f"steps={steps}", f"save_every={SAVE_EVERY}", "controls=[]", "batch_size=8",
        "eval_every=100000", "trainable=tuned", "schedule.warmup=5",
        "engine={use: deepspeed, zero: 2, clip: 1.0, threads: 1}",
        "encoders.shared.dim=64", "encoders.shared.depth=2", "log_every=100000",
    ]  # fmt: skip
    return ["train", str(RECIPE), *[part for one in sets for part in ("--set", one)]]


def records(run: Path) -> list[dict[str, Any]]:
    """Whole lines of the record; a killed process may have left half a line."""
    found = []
    for line in (run / "metrics.jsonl").read_text().splitlines() if (run / "metrics.jsonl").exists() else ():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if "loss_hex" in record:
            found.append(record)
    return found


def until(what: Callable[[], bool], ranks: Ranks, timeout: float = 120.0) -> bool:
    """Wait for something; False where the run has ended before."""
    deadline = time.monotonic() + timeout
    while not what():
        if ranks.ended():
            return False
        if time.monotonic() > deadline:
            raise RuntimeError(f"nothing happened within {timeout} seconds\n{ranks.said()}")
        time.sleep(0.0005)
    return True


def is_saving(run: Path) -> bool:
    return any(run.glob("checkpoints/.tmp-step_*"))


def duration_of_save(run: Path, ranks: Ranks) -> float:
    """Seconds between the first file of a save and the rename that ends it."""
    until(lambda: is_saving(run), ranks)
    began = time.monotonic()
    until(lambda: not is_saving(run), ranks)
    return time.monotonic() - began


def strike(run: Path, ranks: Ranks, inside: bool, draw: random.Random, seconds: float) -> Kill | None:
    """Kill once; None where the run had ended."""
    start = len(records(run))
    # Past the first steps, so that the curve gets somewhere in spite of it all.
    if not until(lambda: len(records(run)) > start + draw.randrange(1, SAVE_EVERY), ranks):
        return None
    while True:
        if inside and not until(lambda: is_saving(run), ranks):
            return None
        time.sleep(draw.random() * seconds)
        ranks.hold()
        if not inside or is_saving(run):
            break
        # This save was shorter than the first one: wait for the next.
        ranks.go_on()
    ranks.kill()
    half = is_saving(run) or any(run.glob("checkpoints/.old-*"))
    newest, unusable = newest_valid(open_run(run))
    made = records(run)[-1]["step"]
    saved = int(newest.name.removeprefix("step_")) if newest else 0
    return Kill(half, made, made - saved, unusable)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--inside", type=int, help="how many at least inside a save; default: two fifths of all")
    arguments = parser.parse_args()
    wanted = -(-2 * arguments.points // 5) if arguments.inside is None else arguments.inside
    draw = random.Random(arguments.seed)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        steps = (arguments.points + 2) * (SAVE_EVERY + 8)
        kills = disturbed(Path(folder) / "killed", steps, arguments.points, wanted, draw)
        Ranks(words(Path(folder) / "whole", steps)).wait()
        same = compare(Path(folder), steps)
    inside = sum(kill.inside_save for kill in kills)
    unusable = sum(len(kill.unusable) for kill in kills)
    worst = max(kill.lost for kill in kills)
    good = same and unusable == 0 and worst <= SAVE_EVERY and inside >= wanted
    print(
        f"{len(kills)} kills (seed {arguments.seed}), {inside} inside a save: {unusable} unusable checkpoints; "
        f"at most {worst} steps repeated (save_every {SAVE_EVERY}); "
        f"{steps} steps, curve and weights {'bitwise equal' if same else 'NOT EQUAL'} to the undisturbed run; "
        f"{time.monotonic() - began:.0f} s"
    )
    raise SystemExit(0 if good else 1)


def disturbed(output: Path, steps: int, points: int, wanted: int, draw: random.Random) -> list[Kill]:
    """Train to the end in spite of everything."""
    kills: list[Kill] = []
    ranks = Ranks(words(output, steps))
    until(lambda: bool(list(output.glob("*/*/metrics.jsonl"))), ranks)
    (run,) = (path.parent for path in output.glob("*/*/resolved.yaml"))
    seconds = duration_of_save(run, ranks)
    print(f"a save takes {seconds * 1000:.0f} ms", flush=True)
    while len(kills) < points:
        left = wanted - sum(kill.inside_save for kill in kills)
        inside = left > 0 and (len(kills) % 2 == 0 or left >= points - len(kills))
        kill = strike(run, ranks, inside, draw, seconds if inside else 0.5)
        if kill is None:
            raise RuntimeError(f"the run has ended after {len(kills)} kills: more steps are needed\n{ranks.said()}")
        kills.append(kill)
        where = "inside a save" if kill.inside_save else "elsewhere"
        print(
            f"kill {len(kills)}: step {kill.step}, {where}, {kill.lost} steps to repeat {kill.unusable or ''}",
            flush=True,
        )
        ranks = Ranks(["train", "--resume", str(run)])
    ranks.wait()
    return kills


def compare(folder: Path, steps: int) -> bool:
    """Whether the stitched curve and the final weights are those of the undisturbed run."""
    runs = [next(path.parent for path in (folder / name).glob("*/*/resolved.yaml")) for name in ("killed", "whole")]
    curves = [[(r["step"], r["loss_hex"], r["grad_norm"], r["data"]) for r in records(run)] for run in runs]
    name = f"checkpoints/step_{steps:08d}/model.safetensors"
    weights = [(run / name).read_bytes() for run in runs]
    return curves[0] == curves[1] and len(curves[0]) == steps and weights[0] == weights[1]


if __name__ == "__main__":
    main()
