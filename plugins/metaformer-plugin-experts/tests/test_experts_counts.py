"""Parameters at the paper's sizes, counted without memory, against the numbers that VLMo's authors give.

Their numbers are of the encoder with the text's and the image's embeddings and the pooler. The heads of pre-training
are not in them: the one that guesses words has a matrix of its own, as large as the embedding.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from metaformer_plugin_experts.encoder import ExpertsEncoder

WORDS, PLACES, KINDS = 30522, 196, 2
PATCH = 3 * 16 * 16


@dataclass(frozen=True)
class Size:
    dim: int
    depth: int
    heads: int
    pair_from: int
    relative: bool
    published: float


BASE = Size(768, 12, 12, 10, True, 175e6)
BASE_PLUS = Size(544, 24, 16, 21, False, 167e6)
LARGE = Size(1024, 24, 16, 21, True, 562e6)


def encoder_count(size: Size) -> int:
    with torch.device("meta"):
        encoder = ExpertsEncoder(
            experts={"text": ("text",), "image": ("image",)},
            pair_from=size.pair_from,
            dim=size.dim,
            depth=size.depth,
            num_heads=size.heads,
            layer_scale=0.1 if size.relative else None,
            relative_positions={"text": (195,), "image": (14, 14)} if size.relative else None,
        )
    return sum(parameter.numel() for parameter in encoder.parameters())


def around(size: Size) -> dict[str, int]:
    """By formula, because a vocabulary of that size is a file of its own."""
    dim = size.dim
    return {
        # Words, places (which the code has even where it does not use them), a kind of BERT's and a norm.
        "text": (WORDS + PLACES + KINDS) * dim + 2 * dim,
        "image": PATCH * dim + dim + dim + (0 if size.relative else 197 * dim),
        "types": KINDS * dim,
        "pooler": dim * dim + dim,
        "matching": 2 * dim + 2,
        "contrastive": 4 * dim * dim + 2,
        "words": dim * dim + dim + 2 * dim + WORDS * dim + WORDS,
    }


@pytest.mark.parametrize("size", [BASE, BASE_PLUS, LARGE], ids=["base", "base plus", "large"])
def test_published_numbers(size):
    parts = around(size)
    model = encoder_count(size) + sum(parts[name] for name in ("text", "image", "types", "pooler"))
    assert abs(model / size.published - 1) < 0.01
    heads = sum(parts[name] for name in ("matching", "contrastive", "words"))
    assert (model + heads) / size.published > 1.05
    # Nor is it the encoder alone.
    assert encoder_count(size) / size.published < 0.95


@pytest.mark.parametrize("size", [BASE, BASE_PLUS, LARGE], ids=["base", "base plus", "large"])
def test_the_encoder_alone(size):
    """As the released code has it: no bias of the keys, a norm with each MLP, one table of 1126 rows."""
    dim = size.dim
    attention = 4 * dim * dim + 3 * dim + 2 * dim + (2 * dim if size.relative else 0)
    expert = 8 * dim * dim + 5 * dim + 2 * dim
    table = 1126 * size.heads * size.depth if size.relative else 0
    experts = 2 * size.depth + size.depth - size.pair_from
    assert encoder_count(size) == size.depth * attention + experts * expert + 2 * dim + table


def test_tables_have_as_many_rows_as_the_single_one():
    with torch.device("meta"):
        encoder = ExpertsEncoder(
            experts={"text": ("text",), "image": ("image",)}, relative_positions={"text": (195,), "image": (14, 14)}
        )
    assert sum(len(table) for table in encoder.positions.parameters()) == 27 * 27 + 3 + 2 * 196 + 2
