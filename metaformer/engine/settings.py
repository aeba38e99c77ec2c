"""DeepSpeed's settings as it understands them itself: which keys it reads, what it takes, and what offloading sets.

Source: DeepSpeed's own `DeepSpeedConfig` and the pydantic models behind it, asked at run time.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from pydantic import BaseModel, ValidationError

from metaformer.errors import Problem
from metaformer.faults import dotted, explain, show
from metaformer.recipe import Engine, Offload
from metaformer.recipe_check import DEEPSPEED_IDLE, DEEPSPEED_KEYS
from metaformer.spelling import suggest

_SMALLEST = {"train_micro_batch_size_per_gpu": 1}
"""What DeepSpeed's configuration needs at least."""


def zero_settings(engine: Engine) -> dict[str, Any]:
    """DeepSpeed's `zero_optimization`: the recipe's stage and offloading over what `engine.config` adds to them."""
    added = dict(engine.config.get("zero_optimization", {}))
    for part, settings in offload_settings(engine.offload).items():
        added[part] = {**(added.get(part) or {}), **settings}
    return {**added, "stage": engine.zero}


def offload_settings(offload: Offload) -> dict[str, Any]:
    """`offload_optimizer` and `offload_param` of `zero_optimization`; neither where nothing is offloaded."""
    out: dict[str, Any] = {}
    for part, device in (("offload_optimizer", offload.optimizer), ("offload_param", offload.parameters)):
        if device is not None:
            out[part] = {"device": device, "pin_memory": offload.pin_memory}
            if device == "nvme":
                out[part]["nvme_path"] = offload.path
    return out


def settings_problems(engine: Engine) -> list[Problem]:
    """What DeepSpeed cannot do with `engine.config` and with offloading to a disk. Imports it, which takes seconds."""
    load_deepspeed()
    disk = "nvme" in (engine.offload.optimizer, engine.offload.parameters)
    return [*_config(engine), *(_disk(engine.offload) if disk else ())]


def load_deepspeed() -> Any:
    """The module, imported at the first call, without its noise."""
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if torch.cuda.is_available() else "cpu")
    with _without_compiler_noise():
        import deepspeed
    # Its log is a page per start; what matters is in our own record.
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    # Its shared-memory all-reduce is for inference, and building it needs a compiler and a minute.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


@contextmanager
def _without_compiler_noise() -> Iterator[None]:
    """On import DeepSpeed tries out which operators could be built, and the linker's failures go to the terminal of
    people who did nothing wrong. Python's own errors come as exceptions and are not affected."""
    sys.stderr.flush()
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(nowhere)
        os.close(kept)


class _Listening(dict[str, Any]):
    """A configuration that remembers which keys it was asked for, and the default that stood beside each."""

    def __init__(self, data: Mapping[str, Any]) -> None:
        super().__init__(data)
        self.asked: dict[str, Any] = {}

    def get(self, key: str, default: Any = None) -> Any:
        self.asked.setdefault(key, default)
        return super().get(key, default)

    def __contains__(self, key: object) -> bool:
        self.asked.setdefault(str(key), None)
        return super().__contains__(key)

    def keys(self) -> Any:
        # DeepSpeed looks for some keys with `in config.keys()`.
        return self

    def __copy__(self) -> _Listening:
        return self


def deepspeed_keys() -> dict[str, Any]:
    """Every key that the installed DeepSpeed reads at the top of its configuration → its default where that is told.
    It ignores all others without a word."""
    from deepspeed.runtime.config import DeepSpeedConfig

    listening = _Listening(_SMALLEST)
    DeepSpeedConfig(listening)
    return listening.asked


def _config(engine: Engine) -> Iterator[Problem]:
    known = deepspeed_keys()
    for key, value in engine.config.items():
        if key in DEEPSPEED_KEYS or key in DEEPSPEED_IDLE:
            continue  # refused by the check of the recipe's structure
        path = f"engine.config.{key}"
        if key not in known:
            yield Problem(
                path,
                f"DeepSpeed has no setting '{key}', and would ignore it",
                suggest(key, known.keys() - DEEPSPEED_KEYS.keys() - DEEPSPEED_IDLE.keys()),
            )
        elif (expected := _misfit(value, known[key])) is not None:
            yield Problem(path, f"expected {expected}, got {show(value)}", f"write {expected}")
        else:
            zero = key == "zero_optimization" and isinstance(value, Mapping)
            yield from _section(path, key, zero_settings(engine) if zero else value)


def _misfit(value: Any, default: Any) -> str | None:
    """What a value should be, by the default's kind, and is not: DeepSpeed does not look at single values."""
    if isinstance(default, bool):
        return None if isinstance(value, bool) else "true or false"
    if isinstance(default, int | float):
        return None if isinstance(value, int | float) and not isinstance(value, bool) else "a number"
    return None


def _section(path: str, key: str, value: Any) -> Iterator[Problem]:
    """What DeepSpeed says to one key of its configuration, alone."""
    from deepspeed.runtime.config import DeepSpeedConfig

    try:
        DeepSpeedConfig({**_SMALLEST, key: value})
    except ValidationError as error:
        # Some sections are read as part of a larger one.
        whole = any(detail["loc"][:1] == (key,) for detail in error.errors())
        for at, problem in explain(error, _model(error.title), {key: value} if whole else value):
            inner = dotted(at[1:] if whole else at)
            yield Problem(f"{path}.{inner}" if inner else path, problem.found, problem.do)
    except Exception as error:  # assertions, attribute errors, its own kinds: whatever stands in the way of the value
        text = " ".join(str(error).split()) or type(error).__name__
        yield Problem(path, f"DeepSpeed does not take {show(value)}: {text}", "correct the value, or remove the key")


def _model(name: str) -> type[BaseModel]:
    """The model of that name among DeepSpeed's."""
    from deepspeed.runtime.config_utils import DeepSpeedConfigModel

    found: list[type[BaseModel]] = [DeepSpeedConfigModel]
    for model in found:
        found += model.__subclasses__()
    return next((model for model in found if model.__name__ == name), BaseModel)


def _disk(offload: Offload) -> Iterator[Problem]:
    """DeepSpeed reaches a disk by an operator that it compiles at the first use."""
    from deepspeed.ops.op_builder import AsyncIOBuilder

    with _without_compiler_noise():
        usable = AsyncIOBuilder().is_compatible()
    if not usable:
        part = "optimizer" if offload.optimizer == "nvme" else "parameters"
        found = "DeepSpeed's async_io operator, which reaches the disk, cannot be built: libaio is missing"
        do = "install libaio with its header (apt-get install libaio-dev), g++ and ninja, or write `cpu`"
        yield Problem(f"engine.offload.{part}", found, do)
