"""Checkpoints: `checkpoints/step_00000100/`, complete or not there at all.

    model.safetensors     every trained parameter and every buffer; frozen parameters are in RUN/frozen.safetensors,
                          once, and their digests in RUN/freeze.json
    engine/               optimizer state, by the engine
    rank_R.pt             what only rank R knows: its random generators
    state.json            progress, ranks, engine, digest of everything frozen, state of plugins
    manifest.json         sizes and sha256 of the others; written last: without it there is no checkpoint

`metaformer.saver` writes them. `latest` and `best` are small files that name one.
"""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from metaformer.durable import sync, write_atomic
from metaformer.engine import Engine
from metaformer.engine.screen import screened
from metaformer.errors import CheckpointError
from metaformer.model import MetaFormer
from metaformer.run import Run

FORMAT = 1
MODEL, STATE, MANIFEST, FROZEN = "model.safetensors", "state.json", "manifest.json", "frozen.safetensors"
ENGINE = "engine"


def step_name(step: int) -> str:
    """The folder of the checkpoint after `step` updates."""
    return f"step_{step:08d}"


def rank_file(rank: int) -> str:
    """The file of what only one rank knows."""
    return f"rank_{rank}.pt"


def portable(engine: Engine) -> dict[str, Tensor]:
    """Trained parameters and all buffers, on the CPU of rank zero; empty elsewhere. Called on all ranks."""
    model = engine.model
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    out = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if name in frozen:
            continue
        # One after the other: together they may be more than a device, or a rank's memory, holds.
        with engine.whole([tensor]):
            if engine.place.leads:
                out[name] = _on_cpu(tensor)
    return out


def save_frozen(run: Run, model: MetaFormer) -> None:
    """Frozen parameters, once per run: they are the same in every checkpoint."""
    frozen = {name: _on_cpu(p) for name, p in model.named_parameters() if not p.requires_grad}
    if run.writes and frozen:
        beside = run.path / f".{FROZEN}"
        save_file(frozen, beside)
        sync(beside)
        beside.replace(run.path / FROZEN)
        sync(run.path)


def _on_cpu(tensor: Tensor) -> Tensor:
    # A copy per tensor: safetensors refuses tensors that share memory (tied weights).
    return tensor.detach().to("cpu", copy=True).contiguous()


def verify(folder: Path, contents: bool = True) -> None:
    """Raise CheckpointError unless every file is what the manifest says, by size and (`contents`) by sha256."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        files = {str(name): (int(entry["bytes"]), str(entry["sha256"])) for name, entry in manifest["files"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _unusable(folder, f"no usable {MANIFEST}: {error}") from error
    if manifest.get("format") != FORMAT:
        raise CheckpointError(
            f"use the checkpoint {folder}",
            f"its format is {manifest.get('format')!r}, and this metaformer knows format {FORMAT}",
            "update metaformer",
        )
    for name, (size, digest) in files.items():
        path = folder / name
        found = path.stat().st_size if path.exists() else -1
        if found != size:
            raise _unusable(folder, f"{name} is absent" if found < 0 else f"{name} has {found} bytes, not {size}")
        if contents and file_sha256(path) != digest:
            raise _unusable(folder, f"{name} was changed")


def _unusable(folder: Path, found: str) -> CheckpointError:
    return CheckpointError(f"use the checkpoint {folder}", found, "use an older one")


def file_sha256(path: Path) -> str:
    """sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_manifest(folder: Path, files: Mapping[str, Mapping[str, Any]]) -> None:
    """The last file of a checkpoint: what the others are."""
    write_atomic(folder / MANIFEST, json.dumps({"format": FORMAT, "files": dict(sorted(files.items()))}, indent=1))


def checkpoints(run: Run) -> list[Path]:
    """Folders that look like checkpoints, the newest first."""
    return sorted((p for p in run.checkpoints.glob("step_*") if p.is_dir()), reverse=True)


def retire(run: Run, keep: int) -> None:
    """Delete all but the newest `keep` and those that were the best. A folder is renamed before its files go, so that
    no half of it is ever taken for a checkpoint."""
    best = set((run.read_json("best.json") or {}).get("kept", ()))
    for old in checkpoints(run)[keep:]:
        if old.name not in best:
            gone = old.with_name(f".old-{old.name}")
            old.replace(gone)
            shutil.rmtree(gone)


def sweep(run: Run) -> None:
    """Delete what a killed run left half-written."""
    for left in (*run.checkpoints.glob(".tmp-*"), *run.checkpoints.glob(".old-*")):
        if left.is_dir():
            shutil.rmtree(left)
        else:
            left.unlink()


def pointer(run: Run, name: str) -> Path | None:
    """The checkpoint that `latest` or `best` names, if any."""
    path = run.checkpoints / name
    if not path.exists():
        return None
    # The name alone: a run from a stranger may point anywhere.
    folder = run.checkpoints / Path(path.read_text().strip()).name
    return folder if folder.name and folder.exists() else None


def newest_valid(run: Run, before: int | None = None) -> tuple[Path | None, list[str]]:
    """The newest checkpoint that verifies (of those before a step), and what is wrong with the newer ones."""
    wrong: list[str] = []
    for folder in checkpoints(run):
        if before is not None and folder.name >= step_name(before):
            continue
        try:
            verify(folder)
            return folder, wrong
        except CheckpointError as error:
            wrong.append(f"{folder.name}: {error.found}")
    return None, wrong


def read_state(folder: Path) -> dict[str, Any]:
    """Progress, ranks and engine of a checkpoint."""
    state: dict[str, Any] = json.loads((folder / STATE).read_text())
    return state


def load_weights(
    run: Run,
    folder: Path,
    model: MetaFormer,
    frozen: Mapping[str, Tensor] | None = None,
    lost: tuple[str, ...] = (),
) -> None:
    """Fill a model with a checkpoint's weights and the run's frozen ones. Nothing may be missing or left over.
    `frozen`: in the place of the run's own file. `lost`: modules that the model does without."""
    tensors = _read(folder / MODEL)
    if frozen is not None:
        tensors |= frozen
    elif (run.path / FROZEN).exists():
        tensors |= _read(run.path / FROZEN)
    tensors = {name: t for name, t in tensors.items() if not name.startswith(tuple(f"{part}." for part in lost))}
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


def reload_weights(folder: Path, engine: Engine) -> None:
    """Put a checkpoint's trained parameters and buffers back into a running engine. Called on all ranks."""
    tensors = _read(folder / MODEL)
    with torch.no_grad():
        for name, own in engine.model.state_dict(keep_vars=True).items():
            if name in tensors:
                with engine.whole([own], write=True):
                    if own.shape == tensors[name].shape:
                        own.copy_(tensors[name])


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
    path = folder / rank_file(rank)
    if not path.exists():
        # Another number of ranks: there is no state of this rank to go on from; the seeded one stays.
        return
    state = screened(path, classes=False)
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])
    keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state(("MT19937", keys.numpy().astype(np.uint32), position, has_gauss, gauss))
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
