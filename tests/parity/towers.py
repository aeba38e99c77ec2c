"""Towers put together by hand: published state dicts in a file, and our components filled from it by loading alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import torch
from metaformer_plugin_text.tokenizer import TextTokenizer
from safetensors.torch import save_file
from torch import Tensor, nn

from metaformer.base import Weighted
from metaformer.types import Raw, TokenBatch
from metaformer.weights.load import load_into

TOLERANCE = 1e-5
Component = TypeVar("Component", bound=Weighted)


@torch.no_grad()
def randomise(model: nn.Module) -> nn.Module:
    """Values that no initialisation would give, wide enough for a swapped tensor to show: norms and biases too."""
    for name, parameter in model.named_parameters():
        if parameter.ndim < 2:
            parameter.uniform_(0.6, 1.4) if name.endswith("weight") else parameter.uniform_(-0.2, 0.2)
        else:
            width = 1.2 / parameter[0].numel() ** 0.5
            parameter.uniform_(-width, width)
    return model.eval()


def save(state: Mapping[str, Tensor], folder: Path) -> str:
    """The URI of a safetensors file of them."""
    path = folder / "published.safetensors"
    save_file({key: value.detach().clone().contiguous() for key, value in state.items()}, path)
    return f"file:{path}"


@torch.no_grad()
def fill(component: Component, uri: str, **options: object) -> Component:
    """Loaded as a recipe loads it, after all of it was spoiled: what does not arrive is NaN."""
    for parameter in component.parameters():
        parameter.fill_(torch.nan)
    receipt = load_into(component, uri, name="it", translate=component.translate, **options)  # type: ignore[arg-type]
    assert receipt.unknown == ()
    assert receipt.missing == () or options
    return component.eval()


def ids_of(lengths: tuple[int, ...], size: int, first: int, end: int) -> Raw:
    """Padded texts of random words below `size`, between a first and an end token."""
    ids = torch.randint(0, size, (len(lengths), max(lengths)))
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    ids[:, 0] = first
    ids[torch.arange(len(lengths)), torch.tensor(lengths) - 1] = end
    return {"ids": ids.masked_fill(~mask, end), "mask": mask, "words": ids}


def text_tokenizer(dim: int, folder: Path, size: int, **knobs: object) -> TextTokenizer:
    """One with a WordPiece vocabulary of `size` words, which has all special tokens."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(size - 5))]
    path = folder / "vocab.txt"
    path.write_text("\n".join(words), encoding="utf-8")
    return TextTokenizer(dim, vocabulary=f"file:{path}", **knobs)  # type: ignore[arg-type]


def close(found: Tensor, expected: Tensor, least: float = 0.1) -> None:
    """Within the tolerance, of something that is not flat."""
    assert expected.std() > least, "the oracle's output is too flat to tell anything"
    difference = (found - expected).abs().max().item()
    assert difference <= TOLERANCE, f"largest difference {difference:.1e}"


def real(tokens: TokenBatch, x: Tensor) -> Tensor:
    """Contents at real tokens only."""
    return x[tokens.mask]
