"""Compilation of blocks, each on its own: one program serves all blocks of a kind, and the rest stays as it is.

Source: PyTorch's regional compilation, `nn.Module.compile`, which leaves names and state dicts as they are.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable

import torch
from torch import nn

_PROGRAMS = 64
"""With and without mask, in training and in evaluation, of a fixed and of any length, by dtype and by drop rate."""


def compile_blocks(blocks: Iterable[nn.Module], backend: str = "inductor") -> None:
    """Compile at the first call; again where something new comes, and for any length once the length has changed."""
    from torch._dynamo import config

    # Blocks of a kind share their programs. Past the limit, which is 8, torch falls back to uncompiled code.
    config.recompile_limit = max(config.recompile_limit, _PROGRAMS)
    for block in blocks:
        block.compile(backend=backend)


def missing_compiler() -> str | None:
    """The C++ compiler that is needed to compile for this machine's CPU and is not there; None where all is well."""
    if torch.cuda.is_available():
        return None
    name = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
    return name if shutil.which(name) is None else None
