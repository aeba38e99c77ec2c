"""Activation checkpointing: a block keeps only its input, and runs a second time in the backward pass.

Source: arXiv 1604.06174, by `torch.utils.checkpoint` without reentrance.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def recompute(blocks: Iterable[nn.Module]) -> None:
    """From now on these blocks keep their inputs alone. Parameter names, state dicts and results stay as they are."""
    for block in blocks:
        # A partial, which is copied together with its block; a closure would go on calling the original.
        block.forward = partial(_forward, block, block.forward)


def _forward(block: nn.Module, forward: Callable[..., Any], *args: Any, **named: Any) -> Any:
    if not torch.is_grad_enabled() or not (_requires_grad((args, named)) or _trained(block)):
        return forward(*args, **named)  # nothing would be kept in any case
    # Reentrant recomputation gives no gradients where the block's input is the first thing that needs one.
    return checkpoint(forward, *args, use_reentrant=False, **named)


def _trained(block: nn.Module) -> bool:
    return any(p.requires_grad for p in block.parameters())


def _requires_grad(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.requires_grad
    if isinstance(value, Mapping):
        return any(_requires_grad(inner) for inner in value.values())
    return isinstance(value, list | tuple) and any(_requires_grad(inner) for inner in value)
