"""How long a user waits: the command's help, its lists, a recipe check, and the first training step.

Each is a fresh process, in turns; medians over `--runs`. `--imports` names the slowest imports of each.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parent.parent
RECIPE = "recipes/digits_frozen.yaml"
COMMANDS = {
    "metaformer --help": ["--help"],
    "metaformer plugins": ["plugins"],
    f"metaformer recipe check {RECIPE}": ["recipe", "check", RECIPE],
}


def run(arguments: list[str], flags: tuple[str, ...] = ()) -> tuple[float, subprocess.CompletedProcess[str]]:
    """Wall seconds of one command, and what it said."""
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *flags, "-m", "metaformer", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return time.perf_counter() - began, done


def seconds(arguments: list[str]) -> float:
    taken, done = run(arguments)
    if done.returncode:
        raise SystemExit(f"metaformer {' '.join(arguments)}: exit code {done.returncode}\n{done.stderr[-2000:]}")
    return taken


def first_step() -> float:
    """Seconds from the start of `metaformer train` until its record has a line, which the first step writes."""
    with tempfile.TemporaryDirectory() as folder:
        sets = [f"output={folder}", "controls=[]"]
        words = ["train", RECIPE, *(word for item in sets for word in ("--set", item))]
        began = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", "metaformer", *words], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            while process.poll() is None:
                if any(record.stat().st_size for record in Path(folder).glob("*/*/metrics.jsonl")):
                    return time.perf_counter() - began
                time.sleep(0.01)
        finally:
            process.kill()
            process.wait()
    raise SystemExit(f"metaformer {' '.join(words)}: ended with exit code {process.returncode} before its first step")


def imports(arguments: list[str], count: int) -> list[str]:
    """The modules with the largest time of their own."""
    _, done = run(arguments, ("-X", "importtime"))
    rows = []
    for line in done.stderr.splitlines():
        own, _, name = line.removeprefix("import time:").partition("|")
        if line.startswith("import time:") and own.strip().isdigit():
            rows.append((int(own), name.partition("|")[2].strip()))
    return [f"    {own / 1e3:8.1f} ms  {name}" for own, name in sorted(rows, reverse=True)[:count]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--imports", type=int, default=0, metavar="N", help="name the N slowest imports")
    parser.add_argument("--train", action="store_true", help="also the time to the first step of the digits recipe")
    args = parser.parse_args()
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    if args.train:
        times["first training step"] = []
    for _ in range(args.runs):
        for name, rows in times.items():
            rows.append(seconds(COMMANDS[name]) if name in COMMANDS else first_step())
    for name, rows in times.items():
        print(f"{name:55s} median {median(rows):6.2f} s   min {min(rows):6.2f}   max {max(rows):6.2f}")
        if args.imports and name in COMMANDS:
            print("\n".join(imports(COMMANDS[name], args.imports)))


if __name__ == "__main__":
    main()
