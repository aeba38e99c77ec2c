"""Hugging Face's names of an EfficientNet's tensors → timm's.

Source: transformers' AlignVisionModel and EfficientNetModel, timm's EfficientNet; blocks are counted through in the
former and by stage in the latter.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from torch import Tensor

from metaformer.errors import WeightsError

MARK = "embeddings.convolution.weight"
"""The first tensor; what stands before it is the model's prefix."""
STEM = {"embeddings.convolution": "conv_stem", "embeddings.batchnorm": "bn1"}
SQUEEZE = {"squeeze_excite.reduce": "se.conv_reduce", "squeeze_excite.expand": "se.conv_expand"}
EXPANDED = {
    "expansion.expand_conv": "conv_pw",
    "expansion.expand_bn": "bn1",
    "depthwise_conv.depthwise_conv": "conv_dw",
    "depthwise_conv.depthwise_norm": "bn2",
    **SQUEEZE,
    "projection.project_conv": "conv_pwl",
    "projection.project_bn": "bn3",
}
PLAIN = {
    "depthwise_conv.depthwise_conv": "conv_dw",
    "depthwise_conv.depthwise_norm": "bn1",
    **SQUEEZE,
    "projection.project_conv": "conv_pw",
    "projection.project_bn": "bn2",
}
"""Blocks of the first stage do not expand: their last convolution is timm's `conv_pw`."""
HEAD = ("encoder.top_conv.", "encoder.top_bn.", "classifier.")
"""Behind the last map; ALIGN has none of them."""
BLOCK = re.compile(r"encoder\.blocks\.(\d+)\.(.+)\.(\w+)")
PLACE = re.compile(r"blocks\.(\d+)\.(\d+)\.")


def from_hugging_face(source: Mapping[str, Tensor], ours: Collection[str], name: str) -> dict[str, Tensor]:
    """Tensors by the names of `ours`, timm's network `name`. Raises WeightsError for any that has no place there."""
    places = sorted({(int(m[1]), int(m[2])) for key in ours if (m := PLACE.match(key))})
    expanded = {int(m[1]) for key in source if (m := BLOCK.fullmatch(key)) and m[2] == "expansion.expand_conv"}
    out, strange = {}, []
    for key, value in source.items():
        if key.startswith(HEAD):
            continue
        new = _renamed(key, places, expanded)
        if new in ours:
            out[new] = value
        else:
            strange.append(key)
    if strange:
        blocks = len({m[1] for key in source if (m := BLOCK.fullmatch(key))})
        raise WeightsError(
            f"weights of {name}, which has {len(places)} blocks",
            f"an EfficientNet of {blocks} blocks, with no place for {', '.join(strange[:4])}",
            "set `backbone` to timm's tf_efficientnet of the same size (kakaobrain/align-base: tf_efficientnet_b7)",
        )
    return out


def _renamed(key: str, places: list[tuple[int, int]], expanded: Collection[int]) -> str:
    """timm's name; empty where there is none."""
    layer, _, leaf = key.rpartition(".")
    if layer in STEM:
        return f"{STEM[layer]}.{leaf}"
    found = BLOCK.fullmatch(key)
    if found is None or int(found[1]) >= len(places):
        return ""
    number = int(found[1])
    new = (EXPANDED if number in expanded else PLAIN).get(found[2])
    stage, block = places[number]
    return f"blocks.{stage}.{block}.{new}.{leaf}" if new else ""
