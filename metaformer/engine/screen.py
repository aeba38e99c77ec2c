"""Reading an engine's files without trusting them: tensors, plain values, and a handful of classes that do nothing.

Source: `torch.load(weights_only=True)`; DeepSpeed itself unpickles whatever it finds (its issues 6094 and 6751).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch

from metaformer.engine.settings import load_deepspeed
from metaformer.errors import CheckpointError


def inert_classes() -> list[Any]:
    """All that DeepSpeed's files hold beside tensors and plain values: stages 0 to 3, offloaded or not, fp32, bf16 and
    fp16. `weights_only` calls them with what the file says, so each must be harmless whatever that is."""
    load_deepspeed()
    from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    return [
        # An enumeration of four integers: made from an integer, or refused.
        ZeroStageEnum,
        # A dataclass of two numbers, without a line of code.
        fragment_address,
        # Their constructors only put their arguments into attributes, and they define nothing that unpickling or
        # deleting calls (`__setstate__`, `__del__`). The methods that they add compute with their own numbers.
        LossScaler,
        DynamicLossScaler,
    ]


def screened(
    path: Path, map_location: Any = None, trust: bool = False, mmap: bool = False, classes: bool = True
) -> Any:
    """What a torch file holds, where that is tensors, plain values and (`classes`) inert classes of DeepSpeed's; raises
    CheckpointError for anything else, before it is run. `trust`: read it whatever it does."""
    try:
        if trust:
            return torch.load(path, map_location, weights_only=False, mmap=mmap)
        with torch.serialization.safe_globals(inert_classes() if classes else []):
            return torch.load(path, map_location, weights_only=True, mmap=mmap)
    except Exception as error:  # the parser of a hostile file may fail in any way
        wanted = re.search(r"GLOBAL (\S+)", str(error))
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise CheckpointError(
            f"read {path}",
            f"it wants {wanted[1]}, which is code, and was not run" if wanted else f"it is damaged: {reason[0]}",
            "use a checkpoint of your own, or, only if you know who wrote it, say --trust-checkpoint: it may run code",
        ) from error
