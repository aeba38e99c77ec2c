"""Patch projection, class token and positions out of published vision transformers.

Source: the state dicts of timm, Hugging Face ViT and CLIP, and open_clip.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from metaformer.errors import WeightsError
from metaformer_plugin_image.positions import Grid, resize
from metaformer_plugin_image.tokenizer import ImageTokenizer


@dataclass(frozen=True)
class Layout:
    """Where a library keeps the parts; the keys may stand behind any prefix."""

    name: str
    weight: str
    bias: str | None
    class_token: str
    positions: str


LAYOUTS = (
    Layout("timm", "patch_embed.proj.weight", "patch_embed.proj.bias", "cls_token", "pos_embed"),
    Layout(
        "Hugging Face ViT",
        "embeddings.patch_embeddings.projection.weight",
        "embeddings.patch_embeddings.projection.bias",
        "embeddings.cls_token",
        "embeddings.position_embeddings",
    ),
    Layout(
        "Hugging Face CLIP",
        "embeddings.patch_embedding.weight",
        None,
        "embeddings.class_embedding",
        "embeddings.position_embedding.weight",
    ),
    Layout("open_clip", "conv1.weight", None, "class_embedding", "positional_embedding"),
)


def conv_to_linear(weight: Float[Tensor, "D C P P"]) -> Float[Tensor, "D CPP"]:
    """Weight of a convolution with stride = kernel → weight of `ImageTokenizer.proj`."""
    return weight.flatten(1)


def tokenizer_weights(source: Mapping[str, Tensor], tokenizer: ImageTokenizer) -> dict[str, Tensor]:
    """State dict for `tokenizer` out of a whole model's; load it strictly.

    Positions are resized to the tokenizer's grid. One channel takes the sum over three, as in timm. A class
    token that the tokenizer lacks is left out with its position; a missing bias is 0. Everything else that
    does not fit is a `WeightsError`.
    """
    layout, prefix = _layout(source)
    weight = source[prefix + layout.weight]
    if tokenizer.channels == 1 and weight.shape[1] == 3:
        weight = weight.sum(dim=1, keepdim=True)
    want = (tokenizer.proj.out_features, tokenizer.channels, tokenizer.patch_size, tokenizer.patch_size)
    if tuple(weight.shape) != want:
        found = f"{layout.name}: {prefix + layout.weight} is {list(weight.shape)}"
        raise WeightsError(f"patch projection [D C p p] = {list(want)}", found, "match width and patch_size")
    out = {"proj.weight": conv_to_linear(weight)}
    bias = source.get(prefix + layout.bias) if layout.bias else None
    if tokenizer.proj.bias is not None:
        out["proj.bias"] = weight.new_zeros(want[0]) if bias is None else bias
    elif bias is not None:
        raise WeightsError("a projection without bias", f"{prefix}{layout.bias}", "set the tokenizer's `bias: true`")
    if tokenizer.class_token is not None:
        out["class_token"] = _part(source, prefix + layout.class_token).reshape(1, 1, -1)
    if tokenizer.positions is not None:
        positions = _part(source, prefix + layout.positions)
        out["positions"] = _positions(positions.reshape(1, -1, want[0]), tokenizer.grid, tokenizer.num_prefix)
    return out


def _layout(source: Mapping[str, Tensor]) -> tuple[Layout, str]:
    for layout in LAYOUTS:
        for key in source:
            prefix = key.removesuffix(layout.weight)
            if prefix != key and (not prefix or prefix.endswith(".")):
                return layout, prefix
    known = ", ".join(layout.name for layout in LAYOUTS)
    some = ", ".join(list(source)[:4]) or "nothing"
    raise WeightsError("a patch projection", f"none among {len(source)} tensors ({some}, ...)", f"known: {known}")


def _part(source: Mapping[str, Tensor], key: str) -> Tensor:
    if key not in source:
        raise WeightsError(f"tensor {key}", "not in the weights", "set the knob that asks for it to none or false")
    return source[key]


def _positions(positions: Float[Tensor, "1 T D"], grid: Grid, num_prefix: int) -> Float[Tensor, "1 S D"]:
    count = positions.shape[1]
    for prefix in (1, 0):  # with a row for the class token, or (timm's `no_embed_class`) without
        side = math.isqrt(count - prefix)
        old = grid if count - prefix == grid[0] * grid[1] else (side, side)
        if old[0] * old[1] == count - prefix:
            moved = resize(positions, old, grid, prefix)[:, prefix:]
            kept = positions[:, :prefix] if prefix else torch.zeros_like(positions[:, :1])
            return torch.cat([kept, moved], dim=1) if num_prefix else moved
    found = f"{count} positions"
    raise WeightsError("positions on a square grid", found, "only one class token is supported")
