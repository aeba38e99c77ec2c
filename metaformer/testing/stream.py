"""Streams of random tokens for checks: samples of several lengths, padding that holds nonsense, a row of nothing."""

from __future__ import annotations

import torch

from metaformer.types import TokenBatch

LENGTHS = (6, 4, 1)
"""Real tokens of each row."""


def random_tokens(
    dim: int, *, prefix: int = 0, empty_row: bool = False, counts: tuple[int, ...] = LENGTHS, seed: int = 11
) -> TokenBatch:
    """[B T D] with `prefix` class tokens, positions, and in the padding large numbers that must not matter; `counts`
    are the real tokens of each row."""
    draw = torch.Generator().manual_seed(seed)
    # Always drawn with the empty row, so that the others are the same with and without it.
    lengths = torch.tensor([*counts, 0])
    size = (len(lengths), int(lengths.max()), dim)
    mask = torch.arange(size[1]) < lengths[:, None]
    x = torch.where(mask[:, :, None], torch.randn(size, generator=draw), 100 * torch.randn(size, generator=draw))
    positions = 0.1 * torch.randn(size[1:], generator=draw)
    rows = len(lengths) if empty_row else len(counts)
    return TokenBatch((x + positions)[:rows], mask[:rows], "kit", num_prefix=prefix, positions=positions)


def row(tokens: TokenBatch, index: int) -> TokenBatch:
    """One sample alone, without its padding."""
    count = int(tokens.mask[index].sum())
    positions = None if tokens.positions is None else tokens.positions[:count]
    x, mask = tokens.x[index : index + 1, :count], tokens.mask[index : index + 1, :count]
    return tokens._replace(x=x, mask=mask, positions=positions)


def only(tokens: TokenBatch, index: int) -> TokenBatch:
    """One sample alone, as it is padded in the batch."""
    return tokens._replace(x=tokens.x[index : index + 1], mask=tokens.mask[index : index + 1])


def without(tokens: TokenBatch, index: int) -> TokenBatch:
    """The same samples, one of which lacks the stream: its places hold other nonsense than padding does elsewhere."""
    x, mask = tokens.x.clone(), tokens.mask.clone()
    x[index], mask[index] = -50 * x[index], False
    return tokens._replace(x=x, mask=mask)


def reverse(tokens: TokenBatch) -> TokenBatch:
    """The samples in reverse order."""
    return tokens._replace(x=tokens.x.flip(0), mask=tokens.mask.flip(0))


def on_meta(tokens: TokenBatch) -> TokenBatch:
    """The same without memory."""
    positions = None if tokens.positions is None else tokens.positions.to("meta")
    return tokens._replace(x=tokens.x.to("meta"), mask=tokens.mask.to("meta"), positions=positions)
