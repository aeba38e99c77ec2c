"""One training step of ViT-B/16: ours tuned and frozen, a plain timm loop, Hugging Face's Trainer, and the limit.

Every contender is a process of its own that waits for its turn: the turns go round, so that whatever else the
machine does falls on all alike. `python benchmarks/train_step.py --help`.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
from collections import defaultdict
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median

from contenders import NAMES, PASSES, Options, flops, serve

SAME_LOSS = ("tuned", "tuned-deepspeed", "timm", "timm-fused", "huggingface")
PEERS = ("timm", "timm-fused", "huggingface")


@dataclass
class Times:
    """Of one row: wall and processor seconds and the loss of every step."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)


def rows_of(name: str) -> dict[str, str]:
    """Row of the table → what the contender's process is asked for."""
    if name == "limit":
        return {f"limit {mode}": mode for mode in PASSES}
    if name == "tuned":
        return {"tuned": "step", "tuned, bare loop": "bare"}
    return {name: "step"}


def measure(o: Options, names: list[str], steps: int, warmup: int = 3) -> dict[str, Times]:
    """Interleaved steps of all contenders. The first three, which warm up, are kept for their losses only."""
    context = multiprocessing.get_context("spawn")
    links, processes = {}, []
    for name in names:
        links[name], theirs = context.Pipe()
        process = context.Process(target=serve, args=(name, o, theirs), daemon=True)
        process.start()
        theirs.close()
        processes.append(process)
        links[name].recv()  # one after the other: starting together would need all the memory at once
    times: dict[str, Times] = defaultdict(Times)
    for turn in range(warmup + steps):
        for name in names:
            for row, kind in rows_of(name).items():
                # The bare loop shares the tuned model: it would spoil its first losses.
                if turn < warmup and kind == "bare":
                    continue
                links[name].send(kind)
                wall, cpu, loss = links[name].recv()
                times[row].loss.append(loss)
                if turn >= warmup:
                    times[row].wall.append(wall)
                    times[row].cpu.append(cpu)
    for link in links.values():
        link.send("stop")
    for process in processes:
        process.join(60)
    return dict(times)


def mode_of(row: str) -> str:
    return next((mode for mode in ("middle", "prefix") if mode in row), "tuned")


def table(o: Options, times: dict[str, Times]) -> str:
    """Medians, spread, ratios and shares of the limit, as text."""
    head = (
        f"{'':18s} {'median ms':>9s} {'min':>7s} {'max':>7s} {'cpu ms':>7s} {'x tuned':>8s} {'limit':>6s} {'GFLOP':>7s}"
    )
    lines = [f"ViT-B/16, depth {o.depth}, batch {o.batch}, {o.precision}, {o.threads} threads", head]
    tuned = median(times["tuned"].wall) if "tuned" in times else None
    for row, t in times.items():
        limit = times.get(f"limit {mode_of(row)}")
        ms = [1e3 * x for x in (median(t.wall), min(t.wall), max(t.wall), median(t.cpu))]
        ratio = f"{tuned / median(t.wall):8.2f}" if tuned else " " * 8
        share = f"{median(limit.wall) / median(t.wall):6.0%}" if limit else " " * 6
        lines.append(
            f"{row:18s} {ms[0]:9.0f} {ms[1]:7.0f} {ms[2]:7.0f} {ms[3]:7.0f} {ratio} {share} "
            f"{flops(o, mode_of(row)) / 1e9:7.0f}"
        )
    return "\n".join([*lines, *verdicts(times)])


def verdicts(times: dict[str, Times]) -> list[str]:
    """The ratios that are promised, by median and by minimum, and the agreement of the losses."""
    lines = []

    def ratio(text: str, over: str, under: str) -> None:
        a, b = times[over], times[under]
        lines.append(
            f"{text}: {median(a.wall) / median(b.wall):.2f} by medians, {min(a.wall) / min(b.wall):.2f} by minima, "
            f"{median(a.cpu) / median(b.cpu):.2f} by processor time"
        )

    peers = [name for name in PEERS if name in times]
    if "tuned" in times:
        for peer in peers:
            ratio(f"{peer} / tuned", peer, "tuned")
        for mode in ("middle", "prefix"):
            if mode in times:
                ratio(f"tuned / {mode}", "tuned", mode)
        ratio("engine and loop / bare loop", "tuned", "tuned, bare loop")
    same = [name for name in SAME_LOSS if name in times]
    for name in same:
        losses = times[name].loss[:3]
        off = max(abs(a / b - 1) for a, b in zip(losses, times[same[0]].loss, strict=False))
        lines.append(f"loss {name:16s} " + " ".join(f"{x:.6f}" for x in losses) + f"  largest difference {off:.1e}")
    return lines


def main(arguments: list[str] | None = None) -> dict[str, Times]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=10, help="timed steps of each contender")
    parser.add_argument("--precision", choices=["bf16", "fp32", "both"], default="both")
    parser.add_argument("--contenders", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--depth", type=int, default=12, help="blocks; fewer for a quick look")
    parser.add_argument("--json", type=Path, help="write every single time here")
    args = parser.parse_args(arguments)
    # Set for the children: thread pools are made when torch is imported. Peers would look for their models online.
    os.environ.update(OMP_NUM_THREADS=str(args.threads), HF_HUB_OFFLINE="1", CUDA_VISIBLE_DEVICES="")
    record, times = [], {}
    for precision in ["bf16", "fp32"] if args.precision == "both" else [args.precision]:
        options = Options(batch=args.batch, precision=precision, depth=args.depth, threads=args.threads)
        times = measure(options, args.contenders, args.steps)
        print(table(options, times), flush=True)
        rows = {row: asdict(t) for row, t in times.items()}
        record.append({"options": asdict(options), "machine": platform.processor(), "rows": rows})
        if args.json:
            args.json.write_text(json.dumps(record, indent=1))
    return times


if __name__ == "__main__":
    main()
