"""Small models over two streams, made from a recipe: what the tests of paired objectives run on."""

from __future__ import annotations

from typing import Any

import torch

from metaformer.assemble import assemble
from metaformer.model import MetaFormer
from metaformer.recipe import Recipe
from metaformer.types import Batch
from metaformer.yamlfile import parse_value

WORDS = ("a cat", "a dog on a mat", "the sea", "two red birds", "one", "old ships")


def pair_recipe(*objectives: str, **parts: Any) -> Recipe:
    """Pictures of 4x4 pixels and short texts, each alone and, as `pair`, together."""
    document = {
        "name": "pairs",
        "tokenizers": {
            "image": {"use": "image", "image_size": 4, "patch_size": 2, "channels": 1, "resize": "exact"},
            "caption": {"use": "text", "vocabulary": "bytes", "max_length": 16},
        },
        "encoders": {"shared": {"use": "transformer", "dim": 16, "depth": 2, "num_heads": 2}},
        "passes": {"image": {}, "caption": {}, "pair": {"reads": ["caption", "image"], "types": True}},
        "heads": {
            "image": {"use": "projection", "reads": "image", "size": 8},
            "caption": {"use": "projection", "reads": "caption", "size": 8},
            "match": {"use": "classification", "reads": "pair", "num_classes": 2},
            "words": {"use": "language", "reads": "pair", "stream": "caption"},
        },
        "tasks": {
            "pairs": {
                "data": {"train": {"use": "manifest", "path": "nowhere.jsonl"}},
                "objective": [parse_value(text) for text in objectives],
            }
        },
        "steps": 1,
    }
    return Recipe.model_validate(document | parts)


def pair_model(*objectives: str, **parts: Any) -> MetaFormer:
    """The model of `pair_recipe`, its teacher begun."""
    model = assemble(pair_recipe(*objectives, **parts))
    if model.teacher is not None:
        model.teacher.begin(model)
    return model


def pair_batch(model: MetaFormer, texts: tuple[str, ...] = WORDS, **targets: torch.Tensor) -> Batch:
    """A picture of noise beside each text."""
    images = torch.rand(len(texts), 4, 4, generator=torch.Generator().manual_seed(0))
    streams, present = {}, {}
    values = {"image": [image.numpy() for image in images], "caption": list(texts)}
    for name, of in model.streams.items():
        preprocess = model.tokenizer(name).preprocess
        streams[name] = preprocess.collate([preprocess(value, False) for value in values[of]])
        present[name] = torch.ones(len(texts), dtype=torch.bool)
    return Batch("pairs", streams, present, dict(targets), [str(i) for i in range(len(texts))])
