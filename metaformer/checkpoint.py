"""Checkpoints: `checkpoints/step_00000100/`, complete or not there at all.

    model.safetensors     every trained parameter and every buffer; frozen parameters are in RUN/frozen.safetensors,
                          once, and their digests in RUN/freeze.json
    engine/               optimizer state, by the engine
    rng_RANK.pt           random generator states, per rank
    state.json            step, recipe digest, ranks, engine
    manifest.json         sizes and sha256 of the others; written last: without it there is no checkpoint

Born as `.tmp-step_...`, renamed when complete; `latest` and `best` are small files that name a checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, distributed

from metaformer.engine.base import Engine, Place
from metaformer.errors import CheckpointError
from metaformer.model import MetaFormer
from metaformer.run import Run, write_atomic

MODEL, STATE, MANIFEST, FROZEN = "model.safetensors", "state.json", "manifest.json", "frozen.safetensors"


def portable(model: MetaFormer) -> dict[str, Tensor]:
    """Trained parameters and all buffers, on CPU. Parameters must be whole."""
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    return _on_cpu({name: t for name, t in model.state_dict().items() if name not in frozen})


def save_frozen(run: Run, model: MetaFormer) -> None:
    """Frozen parameters, once per run: they are the same in every checkpoint."""
    frozen = _on_cpu({name: p for name, p in model.named_parameters() if not p.requires_grad})
    if run.writes and frozen:
        beside = run.path / f".{FROZEN}"
        save_file(frozen, beside)
        beside.replace(run.path / FROZEN)


def _on_cpu(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    # A copy per tensor: safetensors refuses tensors that share memory (tied weights).
    return {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}


def save_checkpoint(run: Run, engine: Engine, step: int, best: bool = False) -> Path:
    """Save after `step` updates; `best` makes it the one that `best` names. Called on all ranks; returns the
    checkpoint's folder."""
    place = engine.place
    final = run.checkpoints / f"step_{step:08d}"
    beside = run.checkpoints / f".tmp-{final.name}"
    if place.leads:
        shutil.rmtree(beside, ignore_errors=True)
        (beside / "engine").mkdir(parents=True)
    _wait(place)
    with engine.whole():
        weights = portable(engine.model) if place.leads else {}
    engine.save(beside / "engine")
    torch.save(rng_states(), beside / f"rng_{place.rank}.pt")
    _wait(place)
    if place.leads:
        save_file(weights, beside / MODEL)
        state = {
            "format": 1,
            "step": step,
            "world": place.world,
            "engine": run.recipe.engine.use,
            "zero": run.recipe.engine.zero,
        }
        (beside / STATE).write_text(json.dumps(state))
        _write_manifest(beside)
        shutil.rmtree(final, ignore_errors=True)
        beside.replace(final)
        write_atomic(run.checkpoints / "latest", final.name)
        if best:
            write_atomic(run.checkpoints / "best", final.name)
        _retire(run)
    _wait(place)
    return final


def _wait(place: Place) -> None:
    if place.world > 1:
        distributed.barrier()


def _write_manifest(folder: Path) -> None:
    files = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            files[path.relative_to(folder).as_posix()] = {
                "bytes": path.stat().st_size,
                "sha256": hashlib.file_digest(file, "sha256").hexdigest(),
            }
    with (folder / MANIFEST).open("w") as out:
        json.dump({"format": 1, "files": files}, out, indent=1)
        out.flush()
        os.fsync(out.fileno())


def verify(folder: Path) -> None:
    """Raise CheckpointError unless every file is what the manifest says."""
    try:
        files = json.loads((folder / MANIFEST).read_text())["files"]
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"use the checkpoint {folder}", f"no usable {MANIFEST}: {error}", "use an older one"
        ) from error
    for name, expected in files.items():
        path = folder / name
        size = path.stat().st_size if path.exists() else -1
        if size != expected["bytes"]:
            raise CheckpointError(
                f"use the checkpoint {folder}", f"{name} has {size} bytes, not {expected['bytes']}", "use an older one"
            )
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != expected["sha256"]:
                raise CheckpointError(f"use the checkpoint {folder}", f"{name} was changed", "use an older one")


def _retire(run: Run) -> None:
    """Delete all but the newest `keep_last` and the best."""
    steps = sorted(p for p in run.checkpoints.glob("step_*") if p.is_dir())
    best = pointer(run, "best")
    for old in steps[: -run.recipe.keep_last]:
        if old != best:
            shutil.rmtree(old)


def pointer(run: Run, name: str) -> Path | None:
    """The checkpoint that `latest` or `best` names, if any."""
    path = run.checkpoints / name
    if not path.exists():
        return None
    folder = run.checkpoints / path.read_text().strip()
    return folder if folder.exists() else None


def newest_valid(run: Run) -> tuple[Path | None, list[str]]:
    """The newest checkpoint that verifies, and what is wrong with the newer ones."""
    wrong: list[str] = []
    for folder in sorted(run.checkpoints.glob("step_*"), reverse=True):
        try:
            verify(folder)
            return folder, wrong
        except CheckpointError as error:
            wrong.append(f"{folder.name}: {error.found}")
    return None, wrong


def read_state(folder: Path) -> dict[str, Any]:
    """Step, ranks and engine of a checkpoint."""
    state: dict[str, Any] = json.loads((folder / STATE).read_text())
    if state["format"] != 1:
        raise CheckpointError(
            f"read the checkpoint {folder}",
            f"format {state['format']}, made by a newer metaformer",
            "update metaformer",
        )
    return state


def load_weights(run: Run, folder: Path, model: MetaFormer) -> None:
    """Fill a model with a checkpoint's weights and the run's frozen ones. Nothing may be missing or left over."""
    tensors = _read(folder / MODEL)
    if (run.path / FROZEN).exists():
        tensors |= _read(run.path / FROZEN)
    own = model.state_dict()
    missing, extra = sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys())
    if missing or extra:
        raise CheckpointError(
            f"load {folder} into the recipe's model",
            f"missing: {', '.join(missing[:5]) or 'none'}; left over: {', '.join(extra[:5]) or 'none'}",
            "use the recipe and the plugins the run was made with (see its lock.json)",
        )
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise CheckpointError(
            f"load {folder}", str(error).split("\n")[-1].strip(), "use the run's own recipe"
        ) from error


def _read(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"read {path}", str(error), "use another checkpoint") from error


def rng_states() -> dict[str, Any]:
    """The states of this process's global random generators, as plain data."""
    _, keys, *rest = np.random.get_state()
    version, internal, gauss = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": [torch.from_numpy(np.asarray(keys, dtype=np.int64)), *rest],
        "python": [version, list(internal), gauss],
    }


def restore_rng(folder: Path, rank: int) -> None:
    """Put back what `rng_states` took on this rank."""
    path = folder / f"rng_{rank}.pt"
    if not path.exists():
        # Another number of ranks: there is no state of this rank to go on from; the seeded one stays.
        return
    state = torch.load(path, weights_only=True)
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])
    keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state(("MT19937", keys.numpy().astype(np.uint32), position, has_gauss, gauss))
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
