"""Relative positions: what attention adds to a score for where two tokens are, in every layer and head.

Source: BEiT's bias by offset in two dimensions (arXiv 2106.08254), and VLMo's (arXiv 2111.02358) for text and pairs,
which keeps all of them in one table for all layers.
Ours differs: a table per expert and per pair of experts, so that each can be trained or frozen alone; and offsets in
any number of dimensions, of which a line and a plane are two.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import permutations
from math import prod

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from metaformer.errors import MetaformerError
from metaformer.types import Part

Grid = tuple[int, ...]
"""Tokens along each axis; () for a set, which has no places."""

CLASS_ROWS = 3
"""Behind the offsets of a table: a prefix token reads another, another reads a prefix token, prefix tokens read one
another."""


def offset_rows(grid: Grid) -> int:
    """How many different offsets two places on a grid can have."""
    return prod(2 * size - 1 for size in grid)


def within(expert: str) -> str:
    """Name of the table of an expert's own tokens."""
    return f"within_{expert}"


def between(expert: str, other: str) -> str:
    """Name of the table of an expert's queries and another's keys."""
    return f"{expert}_reads_{other}"


class RelativePositions(nn.Module):
    """Experts and parts of a sequence → biases [depth 1 H T T].

    `sizes` says for each expert the largest grid of its parts, prefix not counted. Parameters, with a column per layer
    and head, layers first, all zero at first:

    * `within_EXPERT.weight` [offsets + 3, depth·H]: a row by the query's place less the key's, along each axis from
      -(n - 1) to n - 1 and the last axis fastest; behind those `CLASS_ROWS`.
    * `EXPERT_reads_OTHER.weight` [1, depth·H]: queries of one expert, keys of another.

    Two parts of one expert have no bias between them.
    """

    def __init__(self, sizes: Mapping[str, Grid], num_heads: int, depth: int) -> None:
        super().__init__()
        self.sizes = dict(sizes)
        self.num_heads, self.depth = num_heads, depth
        columns = num_heads * depth
        rows = {within(name): offset_rows(grid) + CLASS_ROWS for name, grid in sizes.items()}
        rows |= {between(name, other): 1 for name, other in permutations(sizes, 2)}
        # Modules that are called, not bare parameters: an engine that cuts parameters into pieces joins them then.
        # They are no dictionary by expert: beside blocks, the weights command takes `*.text.*` for a text tower.
        for name, count in rows.items():
            table = nn.Embedding(count, columns)
            nn.init.zeros_(table.weight)
            self.add_module(name, table)

    def forward(self, parts: Sequence[tuple[str, Part]]) -> Float[Tensor, "L 1 H T T"]:
        """`parts`: the expert of each part, and the part. Raises MetaformerError where one is larger than its expert's
        grid, or has another number of axes."""
        rows = []
        for i, (expert, part) in enumerate(parts):
            row = [
                self._own(expert, part) if i == j else self._other(expert, part, key_expert, key)
                for j, (key_expert, key) in enumerate(parts)
            ]
            rows.append(torch.cat(row, dim=1))
        table = torch.cat(rows, dim=0).unflatten(2, (self.depth, self.num_heads))
        # Contiguous once, and not in each layer's kernel.
        return table.permute(2, 3, 0, 1).contiguous().unsqueeze(1)

    def _own(self, expert: str, part: Part) -> Float[Tensor, "T T E"]:
        table = self.get_submodule(within(expert))
        grid = _laid_out(expert, part, self.sizes[expert])
        device = next(table.parameters()).device
        return table(place_rows(grid, self.sizes[expert], part.length, part.num_prefix, device))

    def _other(self, expert: str, part: Part, key_expert: str, key: Part) -> Float[Tensor, "T S E"]:
        if expert == key_expert:
            like = next(self.parameters())
            shape = (part.length, key.length, self.depth * self.num_heads)
            return torch.zeros(shape, dtype=like.dtype, device=like.device)
        table = self.get_submodule(between(expert, key_expert))
        row = torch.zeros(1, 1, dtype=torch.long, device=next(table.parameters()).device)
        return table(row).expand(part.length, key.length, -1)


def place_rows(grid: Grid, nominal: Grid, length: int, num_prefix: int, device: torch.device) -> Int[Tensor, "T T"]:
    """Row of a table for `nominal` by query and key, for tokens on the first corner of it behind a prefix. A set has
    one row for all of its tokens."""
    spans = [2 * size - 1 for size in nominal]
    rows = prod(spans)
    count = length - num_prefix
    inner = torch.zeros(count, count, dtype=torch.long, device=device)
    for axis, size in enumerate(nominal):
        # A token's place along this axis; a set's tokens have no axis to be on.
        step = prod(grid[axis + 1 :])
        place = torch.arange(count, device=device) // step % grid[axis]
        inner = inner + (place[:, None] - place[None, :] + size - 1) * prod(spans[axis + 1 :])
    out = torch.full((length, length), rows + 2, dtype=torch.long, device=device)
    out[:num_prefix, num_prefix:] = rows
    out[num_prefix:, :num_prefix] = rows + 1
    out[num_prefix:, num_prefix:] = inner
    return out


def _laid_out(expert: str, part: Part, nominal: Grid) -> Grid:
    """The grid of a part's tokens behind its prefix. On a line are tokens of any grid, in their order."""
    count = part.length - part.num_prefix
    if not nominal:
        return ()
    grid = (count,) if len(nominal) == 1 else part.grid
    asked = f"relative positions of the expert '{expert}', for at most {_times(nominal)} tokens"
    if grid is None or len(grid) != len(nominal) or prod(grid) != count:
        found = f"{count} tokens of '{part.modality}' on {'no grid' if grid is None else f'a grid of {_times(grid)}'}"
        raise MetaformerError(asked, found, f"relative_positions: {{{expert}: [{count}]}} takes them as a line")
    if any(size > largest for size, largest in zip(grid, nominal, strict=True)):
        found = f"a part of '{part.modality}' of {_times(grid)}"
        larger = ", ".join(str(max(pair)) for pair in zip(grid, nominal, strict=True))
        do = f"relative_positions: {{{expert}: [{larger}]}}; tables of a smaller size are resized when they are loaded"
        raise MetaformerError(asked, found, do)
    return grid


def _times(grid: Grid) -> str:
    return " x ".join(map(str, grid))
