"""A checkpoint's optimizer state by parameter and whole, from which any engine, ZeRO stage and number of ranks goes on.

    zero/PARAMETER/{fp32,exp_avg,exp_avg_sq,step}.pt    DeepSpeed's universal layout, for whatever the optimizer keeps
    universal.json                                      digest of every one of them; written last

Source: DeepSpeed's `ds_to_universal.py` and `universal_checkpoint.py`.
Ours differs: nothing is unpickled that could run; stage 0, plain torch and SGD convert as well; loading crosses between
stages 1, 2 and 3 and leaves the groups' settings alone (theirs gives every group of stage 3 those of the first); and
what the optimizer holds afterwards is compared with what was saved.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, distributed, nn
from torch.nn.functional import pad

from metaformer.engine.base import Engine, size_of
from metaformer.engine.deepspeed import TAG
from metaformer.engine.screen import screened
from metaformer.engine.torch import OPTIMIZER
from metaformer.errors import CheckpointError
from metaformer.trainable import digest

_WEIGHTS = "model.safetensors"
"""Beside the `engine/` folder: the plain engine saves no weights of its own."""
_PREFIX = "model."
"""DeepSpeed wraps a `Step`, whose only child is the model; optimizer groups name the model's own parameters."""
_ANOTHER = "go on with the engine, ZeRO stage and number of ranks that it was saved with, or from another checkpoint"

State = Mapping[str, Tensor]
"""What is kept of one parameter: `fp32` (its master weight), moments in its shape, and `step`."""


# Converting.


def to_universal(saved: Path, out: Path, trust: bool = False) -> None:
    """Write into `out` what the `engine/` folder of a checkpoint holds, whoever saved it. By one rank alone."""
    try:
        digests = {name: _write(out / "zero", name, state) for name, state in _states(saved, trust)}
    except (
        KeyError,
        IndexError,
        TypeError,
        AttributeError,
        ValueError,
        RuntimeError,
        OSError,
        SafetensorError,
    ) as error:
        what = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise CheckpointError(
            f"convert {saved} for another engine, ZeRO stage or number of ranks", what, _ANOTHER
        ) from error
    (out / "universal.json").write_text(json.dumps(digests, indent=1))


def _states(saved: Path, trust: bool) -> Iterator[tuple[str, State]]:
    """Every trained parameter's name, with `model.` before it, and state."""
    if (saved / OPTIMIZER).exists():
        weights = {_PREFIX + name: tensor for name, tensor in load_file(saved.parent / _WEIGHTS).items()}
        return _by_parameter(screened(saved / OPTIMIZER, "cpu", trust, mmap=True), weights)
    models = [screened(path, "cpu", trust, mmap=True) for path in _of_ranks(saved / TAG, "model_states")]
    ranks = [screened(path, "cpu", trust, mmap=True) for path in _of_ranks(saved / TAG, "optim_states")]
    if not models:
        raise ValueError("there is no optimizer state in it")
    if not ranks:
        return _by_parameter(models[0]["optimizer"], models[0]["module"])
    if len(ranks) != models[0]["dp_world_size"]:
        raise ValueError(f"files of {len(ranks)} ranks, saved by {models[0]['dp_world_size']}")
    zero = models[0]["ds_config"].get("zero_optimization") or {}
    if (zero.get("offload_optimizer") or {}).get("device") == "nvme":
        raise ValueError("its optimizer state is not in it: it was kept on NVMe drives")
    if zero.get("round_robin_gradients"):
        # Measured with 0.19.8 by way of the digests below; DeepSpeed's own converter goes by the same record.
        raise ValueError("with `round_robin_gradients` DeepSpeed records wrong places of the parameters")
    states = [rank["optimizer_state_dict"] for rank in ranks]
    if states[0]["zero_stage"] == 3:
        return _by_partition(states, models[0]["param_shapes"])
    return _by_slice(states, {name: shape for group in models[0]["param_shapes"] for name, shape in group.items()})


def _of_ranks(folder: Path, kind: str) -> list[Path]:
    def rank(path: Path) -> int:
        found = re.search(r"zero_pp_rank_(\d+)_", path.name)
        return int(found[1]) if found else 0

    return sorted(folder.glob(f"*mp_rank_00_{kind}.pt"), key=rank)


def _by_parameter(optimizer: Mapping[str, Any], weights: Mapping[str, Tensor]) -> Iterator[tuple[str, State]]:
    """Plain torch, and DeepSpeed's stage 0: torch's own state dict."""
    for group in optimizer["param_groups"]:
        for name, index in zip(group["names"], group["params"], strict=True):
            yield _PREFIX + name, _tensors(optimizer["state"].get(index, {}), weights[_PREFIX + name])


def _by_slice(ranks: Sequence[Any], shapes: Mapping[str, torch.Size]) -> Iterator[tuple[str, State]]:
    """Stages 1 and 2: a group's parameters lie end to end, and each rank holds one stretch of that."""
    for group, _ in enumerate(ranks[0]["param_slice_mappings"]):
        places = [rank["param_slice_mappings"][group] for rank in ranks]
        flats = [
            _tensors(
                rank["base_optimizer_state"]["state"].get(group, {}), rank["single_partition_of_fp32_groups"][group]
            )
            for rank in ranks
        ]
        for name in dict.fromkeys(name for place in places for name in place):
            pieces = [
                _cut(flat, place[name].start, place[name].numel)
                for flat, place in zip(flats, places, strict=True)
                if name in place
            ]
            yield name, _join(pieces, shapes[name])


def _by_partition(ranks: Sequence[Any], shapes: Sequence[Mapping[str, torch.Size]]) -> Iterator[tuple[str, State]]:
    """Stage 3: each parameter is cut into as many parts as there are ranks, the last one padded; a rank's parts of a
    group lie end to end."""
    for group, sizes in enumerate(shapes):
        flats = [
            _tensors(rank["optimizer_state_dict"]["state"].get(group, {}), rank["fp32_flat_groups"][group])
            for rank in ranks
        ]
        start = 0
        for name, shape in sizes.items():
            part = -(-shape.numel() // len(ranks))
            yield name, _join([_cut(flat, start, part) for flat in flats], shape)
            start += part


def _tensors(state: Mapping[str, Any], weight: Tensor) -> State:
    """Optimizer state and weight as tensors; what SGD without momentum keeps is None."""
    kept = {key: torch.as_tensor(value) for key, value in state.items() if value is not None}
    if "step" in kept:
        kept["step"] = kept["step"].float()
    return {"fp32": weight.detach(), **kept}


def _cut(flat: State, start: int, size: int) -> State:
    return {key: value[start : start + size] if value.ndim else value for key, value in flat.items()}


def _join(pieces: Sequence[State], shape: torch.Size) -> State:
    whole = {}
    for key, first in pieces[0].items():
        values = [piece[key] for piece in pieces]
        if first.ndim:
            whole[key] = torch.cat(values)[: shape.numel()].reshape(shape)
        elif any(not torch.equal(value, first) for value in values):
            raise ValueError(f"the ranks disagree about {key}")
        else:
            whole[key] = first
    return whole


def _write(folder: Path, name: str, state: State) -> dict[str, str]:
    """One parameter's files; returns their digests."""
    for part in (name, *state):
        # Both come from the checkpoint, and become names of files.
        if Path(part).name != part or part in ("", ".."):
            raise ValueError(f"a parameter or state called {part[:80]!r}")
    (folder / name).mkdir(parents=True)
    for key, value in state.items():
        value = value.clone()  # a view would be saved with all that it looks into
        torch.save(value if key == "step" else {"param": value}, folder / name / f"{key}.pt")
    return {key: _mark(value) for key, value in state.items()}


def _mark(tensor: Tensor) -> str:
    # DeepSpeed reads a whole tensor as a sum over the ranks, in which -0.0 becomes 0.0.
    return digest(tensor.detach() + 0.0)


# Loading.


def load_universal(engine: Engine, folder: Path) -> None:
    """Fill an engine's optimizer with what `to_universal` wrote, and check it. On all ranks; the weights themselves
    must have been in the model when the engine was made."""
    failed: Exception | None = None
    try:
        digests, trained = _digests(folder), _trained(engine.step_module)
        _compare_names(folder, digests, trained)
        _fill(engine.optimizer, _Files(folder, digests), trained)
    except CheckpointError as error:
        failed = error
    except (OSError, RuntimeError, ValueError, KeyError, AssertionError) as error:
        failed = CheckpointError(f"load {folder}", f"{type(error).__name__}: {error}", _ANOTHER)
    # No rank may go on into the check, which all ranks must take part in, without the others.
    engine.place.together(failed)
    check_universal(engine, folder)


def check_universal(engine: Engine, folder: Path) -> None:
    """Raise CheckpointError, on all ranks, unless the optimizer holds, bit by bit, what `to_universal` found: master
    weights, moments, steps. On all ranks."""
    differing = ""
    digests, trained = _digests(folder), _trained(engine.step_module)
    for name, parameter, key, value in _read_back(engine.optimizer, trained, digests):
        if not differing and (value is None or _mark(value.reshape(_shape(parameter, key))) != digests[name][key]):
            differing = f"{name}: its {key} is not what was saved"
    failed = CheckpointError(f"load {folder}", differing, _ANOTHER) if differing else None
    engine.place.together(failed)


class _Files:
    """What a universal folder holds, by parameter and key."""

    def __init__(self, folder: Path, digests: Mapping[str, Mapping[str, str]]) -> None:
        self.folder, self.digests = folder, digests

    def keys(self, names: Iterable[str]) -> set[str]:
        """What is kept of these parameters, but for their weights."""
        return {key for name in names for key in self.digests[name]} - {"fp32"}

    def read(self, name: str, key: str) -> Tensor | None:
        """A tensor, or None where nothing was kept: of a parameter that never had a gradient."""
        if key not in self.digests[name]:
            return None
        content = torch.load(self.folder / "zero" / name / f"{key}.pt", "cpu", weights_only=True)
        tensor: Tensor = content if key == "step" else content["param"]
        return tensor


def _digests(folder: Path) -> dict[str, dict[str, str]]:
    digests: dict[str, dict[str, str]] = json.loads((folder / "universal.json").read_text())
    return digests


def _trained(module: nn.Module) -> dict[str, nn.Parameter]:
    # Parameters without a single number are left out of ZeRO's groups.
    return {name: p for name, p in module.named_parameters() if p.requires_grad and size_of(p)}


def _shape(parameter: nn.Parameter, key: str) -> torch.Size:
    shape: torch.Size = getattr(parameter, "ds_shape", parameter.shape)
    return torch.Size() if key == "step" else shape


def _compare_names(folder: Path, digests: Mapping[str, Any], trained: Mapping[str, Any]) -> None:
    missing, extra = sorted(trained.keys() - digests.keys()), sorted(digests.keys() - trained.keys())
    if missing or extra:
        raise CheckpointError(
            f"load {folder} into the recipe's optimizer",
            f"missing: {', '.join(missing[:5]) or 'none'}; left over: {', '.join(extra[:5]) or 'none'}",
            "use the recipe and the plugins the run was made with (see its lock.json)",
        )


def _fill(optimizer: Any, files: _Files, trained: Mapping[str, nn.Parameter]) -> None:
    if isinstance(optimizer, torch.optim.Optimizer):
        _fill_whole(optimizer, files, trained)
    else:
        _fill_cut(optimizer, files, trained)


def _fill_whole(optimizer: torch.optim.Optimizer, files: _Files, trained: Mapping[str, nn.Parameter]) -> None:
    """Plain torch, and DeepSpeed's stage 0: by way of torch's own state dict, which knows where a step belongs."""
    names = {id(p): name for name, p in trained.items()}
    own = optimizer.state_dict()
    own["state"] = {}
    for group, packed in zip(optimizer.param_groups, own["param_groups"], strict=True):
        for p, index in zip(group["params"], packed["params"], strict=True):
            name = names.get(id(p))
            if name is not None and (keys := files.keys([name])):
                own["state"][index] = {key: files.read(name, key) for key in keys}
    optimizer.load_state_dict(own)


def _fill_cut(optimizer: Any, files: _Files, trained: Mapping[str, nn.Parameter]) -> None:
    """Stages 1 to 3: torch's optimizer holds, for some parameters together, one flat tensor of this rank's part."""
    from deepspeed.utils import lazy_init_hp_params_optimizer_state

    inner = optimizer.optimizer
    names = {id(p): name for name, p in trained.items()}
    with_device = inner.defaults.get("fused") or inner.defaults.get("capturable")
    for flat, parameters, put in _flat_groups(optimizer):
        mine = [names[id(p)] for p in parameters]
        keys = files.keys(mine)
        steps = {float(made) for name in mine if (made := files.read(name, "step")) is not None}
        if len(steps) > 1:
            raise CheckpointError(
                f"load {files.folder} under ZeRO",
                f"parameters of one group have made different numbers of steps: {sorted(steps)[:5]}",
                "go on with ZeRO stage 0 or the torch engine, which count for each parameter",
            )
        state = inner.state[flat]
        for key in keys - {"step"}:
            # DeepSpeed makes its state with the first step, and padding between and after parameters is zero.
            state.setdefault(key, torch.zeros_like(flat))
        for step in steps:
            state["step"] = torch.tensor(step, device=flat.device if with_device else "cpu")
        if put is _put_slice:
            # Stages 1 and 2 look into the flat tensors through views, which they make with the first step as well.
            lazy_init_hp_params_optimizer_state(parameters, flat, inner.state)
        for p, name in zip(parameters, mine, strict=True):
            for key in keys - {"step"}:
                value = files.read(name, key)
                put(optimizer, p, torch.zeros(_shape(p, key)) if value is None else value, key)


def _put_slice(optimizer: Any, p: nn.Parameter, value: Tensor, key: str) -> None:
    from deepspeed.utils import safe_set_full_optimizer_state

    if value.shape != p.shape:
        raise ValueError(f"{key} of shape {tuple(value.shape)} for a parameter of shape {tuple(p.shape)}")
    safe_set_full_optimizer_state(p, value, key)


def _put_partition(optimizer: Any, p: nn.Parameter, value: Tensor, key: str) -> None:
    from deepspeed.utils import safe_set_local_optimizer_state

    if value.shape != _shape(p, key):
        raise ValueError(f"{key} of shape {tuple(value.shape)} for a parameter of shape {tuple(_shape(p, key))}")
    # Not `safe_set_full_optimizer_state`: for the last rank it reads beyond the end of a tensor that the number of
    # ranks does not divide (DeepSpeed 0.19.8).
    group = optimizer.dp_process_group
    part = int(p.ds_tensor.numel())  # type: ignore[attr-defined]
    padded = pad(value.flatten(), (0, part * distributed.get_world_size(group) - value.numel()))
    safe_set_local_optimizer_state(p, padded[part * distributed.get_rank(group) :][:part], key)


def _flat_groups(optimizer: Any) -> Iterator[tuple[Tensor, list[nn.Parameter], Any]]:
    """Flat master weights of this rank, the parameters in them, and how to put state beside them."""
    from deepspeed.runtime.zero.stage3 import DeepSpeedZeroOptimizer_Stage3
    from deepspeed.runtime.zero.stage_1_and_2 import DeepSpeedZeroOptimizer

    if isinstance(optimizer, DeepSpeedZeroOptimizer):
        flats, groups, put = optimizer.single_partition_of_fp32_groups, optimizer.bit16_groups, _put_slice
    elif isinstance(optimizer, DeepSpeedZeroOptimizer_Stage3) and not optimizer.swap_optimizer:
        flats, groups, put = optimizer.fp32_partitioned_groups_flat, optimizer.fp16_groups, _put_partition
    else:
        raise CheckpointError(
            "load optimizer state that another engine, ZeRO stage or number of ranks has saved",
            f"{type(optimizer).__name__}, or optimizer state on NVMe drives, which is not supported",
            "leave `offload.optimizer: nvme` and half-precision settings out of `engine.config`",
        )
    for flat, parameters in zip(flats, groups, strict=True):
        yield flat, list(parameters), put


def _read_back(
    optimizer: Any, trained: Mapping[str, nn.Parameter], digests: Mapping[str, Mapping[str, str]]
) -> Iterator[tuple[str, nn.Parameter, str, Tensor | None]]:
    """What the optimizer holds, parameter by parameter and whole, by DeepSpeed's own way of reading it."""
    if isinstance(optimizer, torch.optim.Optimizer):
        for name, p in trained.items():
            state = optimizer.state.get(p, {})
            for key in digests[name]:
                yield name, p, key, p if key == "fp32" else state.get(key)
        return
    from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

    flats = {id(p): flat for flat, parameters, _ in _flat_groups(optimizer) for p in parameters}
    for name, p in trained.items():
        for key in digests[name]:
            if key == "fp32":
                value = safe_get_full_fp32_param(p)
            elif key == "step":
                value = optimizer.optimizer.state[flats[id(p)]]["step"]
            else:
                value = safe_get_full_optimizer_state(p, key)
            yield name, p, key, value
