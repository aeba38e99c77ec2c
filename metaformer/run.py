"""The run directory: what was asked, on what, what happened, and what came of it.

recipe.yaml       as given            metrics.jsonl    one line per step and evaluation
resolved.yaml     with every default  status.json      running, finished, stopped or failed, and why
lock.json         versions, digests   checkpoints/     see metaformer.checkpoint
labels.json       class names         writer           which process writes here, while it does
frozen.safetensors, freeze.json, best.json, result.json, bad_samples.jsonl, diverged.json, tensorboard/, controls/
"""

from __future__ import annotations

import errno
import functools
import hashlib
import json
import os
import platform
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

from metaformer.durable import write_atomic
from metaformer.errors import CheckpointError, MetaformerError, NoSpaceError
from metaformer.recipe import Recipe
from metaformer.recipe_file import RecipeFile, read_recipe, resolved
from metaformer.registry import registry

RESOLVED = "resolved.yaml"


class Run:
    """One run's directory and recipe. Only rank zero writes."""

    def __init__(
        self, path: Path, file: RecipeFile, base: Path, writes: bool = True, changes: Sequence[str] = ()
    ) -> None:
        """`base`: folder of the recipe as the user gave it, which relative paths may refer to. `changes`: in what the
        recipe differs from the one that the run was begun with, or went on under before."""
        self.path, self.file, self.base, self.writes, self.changes = path, file, base, writes, tuple(changes)

    @property
    def recipe(self) -> Recipe:
        """The recipe this run follows."""
        return self.file.recipe

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.path / "checkpoints"

    def begin(self) -> None:
        """Make the directory and write what was asked; a run that goes on keeps what it was begun with."""
        if not self.writes or (self.path / RESOLVED).exists():
            return
        with self._writing("."):
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            (self.path / "recipe.yaml").write_text(self.file.text)
            origin = {"recipe": str(self.file.path), "base": str(self.base), "sets": list(self.file.sets)}
            self.write_json("run.json", origin)
            # Last: the folder is a run from here on.
            write_atomic(self.path / RESOLVED, resolved(self.file))

    def adopt(self) -> None:
        """Go on under a recipe with changes: keep them, and say since when."""
        if not self.writes or not self.changes:
            return
        with self._writing(RESOLVED):
            origin, records = self.read_json("run.json"), self.records()
            step = records[-1]["step"] if records else 0
            origin.setdefault("changes", []).append({"step": step, "changes": list(self.changes)})
            self.write_json("run.json", origin)
            write_atomic(self.path / RESOLVED, resolved(self.file))

    @contextmanager
    def _writing(self, name: str) -> Iterator[None]:
        """Turn what the disk says into an error with the way out."""
        try:
            yield
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                do = "make room, then go on with --resume"
                raise NoSpaceError(f"write {self.path / name}", f"the disk is full: {error}", do) from error
            raise MetaformerError(
                f"write the run directory {self.path}",
                f"{name}: {error}",
                "is it there and may it be written to? Otherwise choose another: --set output=FOLDER",
            ) from error

    def write_json(self, name: str, value: Any) -> None:
        """Replace a JSON file of the directory in one move."""
        if self.writes:
            with self._writing(name):
                write_atomic(self.path / name, json.dumps(value, indent=1) + "\n")

    def read_json(self, name: str) -> Any:
        """A JSON file of the directory, or None where there is none."""
        path = self.path / name
        return json.loads(path.read_text()) if path.exists() else None

    def append(self, name: str, record: Mapping[str, Any]) -> None:
        """Add a line to a JSONL file of the directory."""
        if self.writes:
            with self._writing(name), (self.path / name).open("a") as file:
                file.write(json.dumps(record) + "\n")

    def status(self, state: str, step: int, reason: str = "", **more: Any) -> None:
        """What the run is doing: running, finished, stopped (resumable) or failed."""
        self.write_json("status.json", {"state": state, "step": step, "reason": reason, "time": time.time(), **more})

    def truncate_metrics(self, step: int) -> None:
        """Drop lines of steps that a resumed run is about to repeat."""
        path = self.path / "metrics.jsonl"
        if self.writes and path.exists():
            lines = [line for line, record in self._records(path) if record.get("step", 0) <= step]
            write_atomic(path, "".join(line + "\n" for line in lines))

    def records(self) -> list[dict[str, Any]]:
        """The lines of `metrics.jsonl`."""
        path = self.path / "metrics.jsonl"
        return [record for _, record in self._records(path)] if path.exists() else []

    def _records(self, path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
        for line in path.read_text().splitlines():
            try:
                yield line, json.loads(line)
            except ValueError:
                # A process was killed while it wrote this line: it is the last one, and not whole.
                continue


def new_run_name() -> str:
    """A folder name that sorts by time and does not collide."""
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"


def find_run(path: Path) -> Path:
    """A run directory: the path itself, or the newest run below it (`runs/NAME`)."""
    if (path / RESOLVED).exists():
        return path
    runs = sorted(p.parent for p in path.glob(f"*/{RESOLVED}")) if path.is_dir() else []
    if not runs:
        raise CheckpointError(
            f"open the run {path}",
            "no run directory" if path.is_dir() else "no such folder",
            f"give a folder that holds {RESOLVED}, or the folder of a recipe's runs",
        )
    return runs[-1]


def open_run(path: Path, sets: tuple[str, ...] = (), partial: bool = False) -> Run:
    """A run that exists, to evaluate, predict with, or resume. `partial`: some of its plugins may be gone, see
    `metaformer.remaining`."""
    path = find_run(path)
    file = read_recipe(path / RESOLVED, sets, partial)
    origin = json.loads((path / "run.json").read_text())
    return Run(path, file, Path(origin["base"]))


def lock(run: Run, data: Mapping[str, str], receipts: list[dict[str, Any]]) -> dict[str, Any]:
    """What this run was made of: versions, digests of weights and data, code state, hardware."""
    import torch

    return {
        "recipe_sha256": hashlib.sha256((run.path / RESOLVED).read_bytes()).hexdigest(),
        "python": sys.version.split()[0],
        "packages": packages(),
        "plugins": {plugin.distribution: plugin.version for plugin in registry().plugins},
        "weights": receipts,
        "data": dict(data),
        "git": git_state(run.base),
        "hardware": {
            "machine": platform.machine(),
            "system": platform.platform(),
            "cpus": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        },
    }


@functools.cache
def packages() -> dict[str, str]:
    """Every installed distribution and its version; read once per process, because it takes most of a second."""
    found = {about["Name"]: about["Version"] for about in (d.metadata for d in metadata.distributions())}
    return dict(sorted(found.items(), key=lambda item: str(item[0]).lower()))


def git_state(folder: Path) -> dict[str, Any] | None:
    """Commit and cleanliness of the checkout around a folder, or None outside of one."""

    # The folder may be a stranger's: its own settings must not start programs (a file monitor, hooks).
    harmless = ("-c", "core.fsmonitor=false", "-c", f"core.hooksPath={os.devnull}")

    def ask(*words: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", *harmless, "-C", str(folder), *words], capture_output=True, text=True, timeout=10, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    commit = ask("rev-parse", "HEAD")
    if commit is None:
        return None
    # Filters are programs that `git status` runs; where the repository brings its own, nobody asks it.
    filters = ask("config", "--local", "--includes", "--get-regexp", r"^filter\.")
    clean = None if filters else ask("status", "--porcelain", "--ignore-submodules=all") == ""
    return {"commit": commit, "clean": clean}
