"""Initialisation shared by everything we train from scratch."""

from __future__ import annotations

from torch import nn


def width_std(dim: int) -> float:
    """Deviation of fresh weights for a width: √(2 / 5D) (arXiv 1910.05895). ViT's and BERT's 0.02 is its value for
    D = 1000; in a narrow encoder 0.02 would leave every block close to the identity, frozen ones for ever."""
    return (2 / (5 * dim)) ** 0.5


def init_transformer(module: nn.Module, std: float = 0.02) -> None:
    """Truncated normal weights, zero biases, unit norms, as in ViT and BERT. Call on fresh modules only:
    initialising in place ignores `requires_grad` and has silently replaced loaded weights elsewhere."""
    for child in module.modules():
        if isinstance(child, nn.Linear):
            nn.init.trunc_normal_(child.weight, std=std)
            if child.bias is not None:
                nn.init.zeros_(child.bias)
        elif isinstance(child, nn.LayerNorm):
            nn.init.ones_(child.weight)
            nn.init.zeros_(child.bias)
        elif isinstance(child, nn.Embedding):
            nn.init.normal_(child.weight, std=std)
