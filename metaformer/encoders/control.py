"""What the controls `none` and `shuffled` put in an encoder's place: the honest companions of a frozen result."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor, nn

from metaformer.base import Encoder, masked_mean
from metaformer.types import TokenBatch


class NoEncoder(Encoder):
    """Control `none`. Patches pass unchanged; a class token, which only an encoder could fill, becomes their mean,
    so that a head which reads it sees the sample and not a constant."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.blocks = nn.ModuleList()

    def forward(self, tokens: TokenBatch) -> TokenBatch:
        n = tokens.num_prefix
        if n == 0 or tokens.x.shape[1] == n:
            return tokens
        mean = masked_mean(tokens.x[:, n:], tokens.mask[:, n:]).unsqueeze(1)
        return tokens.with_x(torch.cat([mean.expand(-1, n, -1).to(tokens.x.dtype), tokens.x[:, n:]], dim=1))


def shuffle_contents(encoder: Encoder) -> None:
    """Control `shuffled`: from now on the encoder sees every sample's contents at permuted positions, drawn anew
    for each batch in training and by a fixed seed in evaluation. Prefix and padding stay where they are.

    Where a tokenizer adds no positions its tokens are a set, and this control equals the run itself. A hook, not a
    wrapper: parameter names stay what the recipe's globs say.
    """
    encoder.register_forward_pre_hook(_shuffle)


def _shuffle(encoder: nn.Module, args: tuple[TokenBatch]) -> tuple[TokenBatch]:
    (tokens,) = args
    if tokens.positions is None or tokens.x.is_meta:
        return args
    order = permutations(tokens, None if encoder.training else torch.Generator().manual_seed(0))
    contents = (tokens.x - tokens.positions).gather(1, order.unsqueeze(-1).expand_as(tokens.x))
    return (tokens.with_x(contents + tokens.positions),)


def permutations(tokens: TokenBatch, generator: torch.Generator | None) -> Int[Tensor, "B T"]:
    """Per sample a random order of its real patches; everything else stays in place."""
    size = tokens.mask.shape
    draw = torch.rand(size, generator=generator).to(tokens.mask.device)
    place = torch.arange(size[1], device=tokens.mask.device).expand(size)
    movable = tokens.mask & (place >= tokens.num_prefix)
    # Movable tokens, sorted by their draw, are laid into the movable places in order.
    by_draw = torch.where(movable, draw, torch.full_like(draw, 2.0)).argsort(dim=1)
    by_place = torch.where(movable, place, place + size[1]).argsort(dim=1)
    return place.clone().scatter_(1, by_place, torch.where(movable.gather(1, by_place), by_draw, by_place))
