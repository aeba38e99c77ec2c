"""What the defective components would be without their defects."""

from __future__ import annotations

import torch
from torch import nn

from metaformer.base import Bridge, Encoder, Head, Preprocess, Tokenizer, masked_mean
from metaformer.errors import DataError
from metaformer.types import TokenBatch


class Numbers(Preprocess):
    """A list of at most eight numbers."""

    def __call__(self, value, train):
        if not isinstance(value, list) or not 1 <= len(value) <= 8 or not all(isinstance(v, float) for v in value):
            raise DataError("a list of at most eight numbers", f"{value!r:.40}", "give one")
        return {"values": torch.tensor(value), "mask": torch.ones(len(value), dtype=torch.bool)}

    def blank(self):
        return self([0.0], False)

    def example(self):
        return self([0.0] * 8, False)


class Vectors(Tokenizer):
    """One token per number."""

    def __init__(self, dim: int):
        super().__init__()
        self.preprocess = Numbers()
        self.linear = nn.Linear(1, dim)

    def forward(self, raw):
        return TokenBatch(self.linear(raw["values"].unsqueeze(-1)), raw["mask"], self.modality)


class Averaging(Encoder):
    """Adds a share of the mean of the real tokens."""

    def __init__(self):
        super().__init__()
        self.dim = 16
        self.blocks = nn.ModuleList([nn.Linear(16, 16)])

    def forward(self, tokens):
        return tokens.with_x(tokens.x + self.blocks[0](masked_mean(tokens.x, tokens.mask)).unsqueeze(1))


class Queries(Bridge):
    """Two learned tokens that look at the streams of all roles: attention in which nothing to attend to gives zero."""

    def __init__(self, widths):
        super().__init__()
        self.dim = 16
        self.project = nn.ModuleDict({role: nn.Linear(width, self.dim) for role, width in widths.items()})
        self.queries = nn.Parameter(torch.randn(2, self.dim))

    def read(self, streams):
        """Keys [B T 16] and their mask [B T]: the tokens of all roles, one after the other."""
        keys = torch.cat([linear(streams[role].x) for role, linear in self.project.items()], dim=1)
        return keys, torch.cat([streams[role].mask for role in self.project], dim=1)

    def forward(self, streams):
        keys, mask = self.read(streams)
        scores = self.queries @ keys.transpose(1, 2) / 4
        weights = scores.masked_fill(~mask[:, None], torch.finfo(scores.dtype).min).softmax(dim=2) * mask[:, None]
        there = mask.any(dim=1)[:, None].expand(-1, len(self.queries))
        return TokenBatch(weights @ keys + self.queries, there, "queries")


class Count(Head):
    """Two numbers, from the mean of the real tokens."""

    predicts = "values"

    def __init__(self, dim: int):
        super().__init__()
        self.size = 2
        self.linear = nn.Linear(dim, 2)

    def forward(self, tokens):
        return self.linear(masked_mean(tokens.x, tokens.mask))
