"""Writing checkpoints: into a hidden folder, synced, the manifest last, then renamed; at once or beside training.

Every rank writes and reads back its own files and reports them in the store; rank zero commits when all have. Both
ways of saving take this path, on the main thread or on one of their own.

Source: the order of `torch.distributed.checkpoint` (metadata last, by rename) and NeMo's mark of the unfinished.
Ours differs: one folder is one checkpoint, whatever engine wrote it, and it is read back before an older one goes.
"""

from __future__ import annotations

import errno
import itertools
import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from metaformer.checkpoint import (
    ENGINE,
    MODEL,
    STATE,
    checkpoints,
    file_sha256,
    portable,
    rank_file,
    retire,
    rng_states,
    step_name,
    verify,
    write_manifest,
)
from metaformer.durable import sync, write_atomic
from metaformer.engine import Engine
from metaformer.engine.base import size_of
from metaformer.errors import CheckpointError, MetaformerError, NoSpaceError, PeerError
from metaformer.run import Run

_savers = itertools.count()
_LOOK = 0.005
"""Seconds between two looks into the store."""
_FULL = "no space: "
"""Before the report of a rank whose disk is full."""


class Saver:
    """Saves a run's checkpoints, one at a time. Made, and each method but `error` called, on all ranks together."""

    def __init__(self, run: Run, engine: Engine) -> None:
        self.run, self.engine, self.place = run, engine, engine.place
        self.saved: int | None = None
        """The step of the newest checkpoint of this process."""
        self._timeout = run.recipe.engine.timeout
        self._key, self._number = f"save/{next(_savers)}", 0
        self._thread: threading.Thread | None = None
        self._failed: BaseException | None = None

    def save(self, step: int, state: Mapping[str, Any], best: float | None = None, wait: bool = True) -> None:
        """Save after `step` updates. `best`: the metric's value where it is the best so far. Without `wait` the files
        are written while training goes on; what then goes wrong comes with `error`, or with the next call.

        Raises NoSpaceError where the disk stays full after older checkpoints have gone."""
        self.finish()
        if self.saved == step and best is None:
            return
        for last in (False, True):
            self._attempt(step, state, best, wait)
            error = self.error()
            full = isinstance(error, NoSpaceError) and not last
            if not self.place.together(None if full else error, [float(full)])[0]:
                break
            self._failed = None
            self._make_room()
        self.saved = step

    def make_room_and_save(self, step: int, state: Mapping[str, Any]) -> None:
        """After a save in the background has found the disk full: once more, here and now, with older checkpoints gone.
        Raises NoSpaceError where it stays full."""
        if self._thread is not None:
            self._thread.join()
        self._thread = self._failed = self.saved = None
        self._make_room()
        self.save(step, state)

    def error(self) -> BaseException | None:
        """What went wrong with a save that was not waited for, on this rank; None while it goes on."""
        return self._failed

    def finish(self) -> None:
        """Wait for a save that goes on, and raise on all ranks what went wrong with it."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        error, self._failed = self._failed, None
        self.place.together(error)

    def _attempt(self, step: int, state: Mapping[str, Any], best: float | None, wait: bool) -> None:
        beside = self.run.checkpoints / f".tmp-{step_name(step)}"
        files = _Files(beside, later=not wait)
        if self.place.leads:
            files.attempt(lambda: _fresh(beside / ENGINE))
        self.place.together()
        weights = portable(self.engine)
        self.engine.save(beside / ENGINE, lambda name, value: files.write(f"{ENGINE}/{name}", value))
        files.write(rank_file(self.place.rank), rng_states())
        if self.place.leads:
            # Copies already, made for this.
            files.write(MODEL, weights, own=True)
            files.write(STATE, dict(state))
        self._number += 1
        key = f"{self._key}/{self._number}"
        if wait:
            self._settle(key, step, best, files)
        else:
            arguments = (key, step, best, files)
            self._thread = threading.Thread(target=self._settle, args=arguments, name="save", daemon=True)
            self._thread.start()

    def _settle(self, key: str, step: int, best: float | None, files: _Files) -> None:
        """Write what is still to be written, report it, and wait until rank zero has committed or given up."""
        store = self.place.store
        try:
            files.finish()
            store.set(f"{key}/{self.place.rank}", files.report())
            if self.place.leads:
                reports = [self._await(f"{key}/{rank}") for rank in range(self.place.world)]
                store.set(f"{key}/end", self._commit(step, best, files.folder, reports))
            end = self._await(f"{key}/end")
            if end:
                self._failed = files.error or _error(step, end)
        except BaseException as error:  # on its own thread nobody else would hear of it
            self._failed = error

    def _commit(self, step: int, best: float | None, beside: Path, reports: list[str]) -> str:
        """Make the folder a checkpoint; what went wrong, or nothing."""
        entries: dict[str, Any] = {}
        for rank, report in enumerate(reports):
            said = json.loads(report)
            if "error" in said:
                shutil.rmtree(beside, ignore_errors=True)
                full = _FULL if said["full"] else ""
                return f"{full}rank {rank}: {said['error']}"
            entries |= said["files"]
        try:
            self._publish(step, best, beside, entries)
        except OSError as error:
            shutil.rmtree(beside, ignore_errors=True)
            return f"{_FULL if is_full(error) else ''}{error}"
        except MetaformerError as error:
            return f"{error.asked}: {error.found}"
        return ""

    def _publish(self, step: int, best: float | None, beside: Path, entries: Mapping[str, Any]) -> None:
        run, final = self.run, beside.with_name(step_name(step))
        write_manifest(beside, entries)
        for folder in {
            beside,
            *(parent for name in entries for parent in (beside / name).parents if beside in parent.parents),
        }:
            sync(folder)
        if _is_valid(final):
            # The same step of the same run: what is there is as good, and replacing it would leave a moment without.
            shutil.rmtree(beside)
        else:
            if final.exists():
                final.replace(final.with_name(f".old-{final.name}"))
            beside.replace(final)
            sync(run.checkpoints)
        write_atomic(run.checkpoints / "latest", final.name)
        if best is not None:
            kept = (run.read_json("best.json") or {}).get("kept", ())
            kept = [*(name for name in kept if name != final.name), final.name][-run.recipe.keep_best :]
            run.write_json("best.json", {"value": best, "checkpoint": final.name, "step": step, "kept": kept})
            write_atomic(run.checkpoints / "best", final.name)
        # What is there is what was written, before anything older goes; each rank has read back its own contents.
        verify(final, contents=False)
        retire(run, run.recipe.keep_last)

    def _await(self, key: str) -> str:
        began = time.monotonic()
        while not self.place.store.check([key]):
            if time.monotonic() - began > self._timeout:
                raise PeerError(
                    f"save a checkpoint with {self.place.world} ranks",
                    f"no word from {key.rpartition('/')[2]} within {self._timeout:g} seconds",
                    "look at what the other ranks printed; engine.timeout is how long a rank waits",
                )
            time.sleep(_LOOK)
        value: bytes = self.place.store.get(key)
        return value.decode()

    def _make_room(self) -> None:
        """Let every checkpoint go but the newest that is whole."""
        if self.place.leads:
            retire(self.run, 1)
        self.place.together()


class _Files:
    """What one rank writes into the folder of a checkpoint. Remembers the first error instead of raising it: the
    other ranks are inside the same collective calls."""

    def __init__(self, folder: Path, later: bool) -> None:
        self.folder, self._later = folder, later
        self.error: BaseException | None = None
        self._waiting: list[tuple[str, Any]] = []
        self._entries: dict[str, dict[str, Any]] = {}

    def write(self, name: str, value: Any, own: bool = False) -> None:
        """Write a file, or take a copy of what it is to hold (`own`: the value itself, which nobody else changes)."""
        if self._later:
            self.attempt(lambda: self._waiting.append((name, value if own else copied(value))))
        else:
            self.attempt(lambda: self._put(name, value))

    def attempt(self, work: Callable[[], Any]) -> None:
        """Do it unless something has failed before."""
        if self.error is not None:
            return
        try:
            work()
        except Exception as error:
            self.error = (
                NoSpaceError(
                    f"save a checkpoint in {self.folder.parent}",
                    f"the disk is full: {free_bytes(self.folder):,} bytes are free ({error})",
                    "make room, or set output to another disk, then go on with --resume",
                )
                if is_full(error)
                else error
            )

    def finish(self) -> None:
        """Write what waits."""
        for name, value in self._waiting:
            self.attempt(lambda name=name, value=value: self._put(name, value))  # type: ignore[misc]
        self._waiting.clear()

    def report(self) -> str:
        """The files with their sizes and digests, or the error, as JSON."""
        if self.error is not None:
            full = isinstance(self.error, NoSpaceError)
            return json.dumps({"error": f"{type(self.error).__name__}: {self.error}", "full": full})
        return json.dumps({"files": self._entries})

    def _put(self, name: str, value: Any) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".safetensors"):
            save_file(value, path)
            sync(path)
        else:
            with path.open("wb") as file:
                if name.endswith(".json"):
                    file.write(json.dumps(value).encode())
                else:
                    torch.save(value, file)
                file.flush()
                os.fsync(file.fileno())
        self._entries[name] = {"bytes": path.stat().st_size, "sha256": file_sha256(path)}


def copied(value: Any) -> Any:
    """The same plain structure with tensors copied to the CPU: what training goes on to change."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        # OrderedDicts stay what they are.
        return type(value)((key, copied(inner)) for key, inner in value.items())
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(copied(inner) for inner in value))
    if isinstance(value, list | tuple):
        return type(value)(copied(inner) for inner in value)
    return value


def is_full(error: BaseException) -> bool:
    """Whether an error means that the disk, or the user's share of it, is full. The writers of torch and safetensors
    say so in words only."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if "No space left on device" in str(seen) or "Disk quota exceeded" in str(seen):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def free_bytes(folder: Path) -> int:
    """What an ordinary user may still write where a folder is, or would be."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def _fresh(folder: Path) -> None:
    shutil.rmtree(folder.parent, ignore_errors=True)
    folder.mkdir(parents=True)


def _is_valid(folder: Path) -> bool:
    try:
        verify(folder)
    except CheckpointError:
        return False
    return True


def _error(step: int, text: str) -> MetaformerError:
    asked = f"save the checkpoint of step {step}"
    if text.startswith(_FULL):
        return NoSpaceError(asked, text, "make room, or set output to another disk, then go on with --resume")
    return CheckpointError(asked, text, "the checkpoints before are as they were: go on with --resume")


def estimate(engine: Engine) -> int:
    """Bytes that a checkpoint will take, before the first one is written."""
    model = engine.model
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    own = sum(
        size_of(t) * t.element_size() for name, t in model.state_dict(keep_vars=True).items() if name not in frozen
    )
    return own + engine.state_bytes()


def warning(run: Run, engine: Engine) -> str:
    """What to say where the disk will not hold the checkpoints that the recipe keeps; empty where it will."""
    need, free = estimate(engine), free_bytes(run.checkpoints)
    missing = run.recipe.keep_last + run.recipe.keep_best + 1 - len(checkpoints(run))
    if free >= 1.2 * need and free >= need * missing:
        return ""
    return (
        f"little space in {run.checkpoints}: {free:,} bytes are free, a checkpoint takes about {need:,}, "
        f"and up to {missing} more will be there at once (keep_last, keep_best)"
    )
