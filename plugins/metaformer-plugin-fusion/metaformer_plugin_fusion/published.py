"""Layers with cross-attention as others publish them, by our names.

Source: state dicts of BERT and BLIP (transformers) and of ALBEF, which share one naming, and of torchmultimodal's
ALBEF.

Ours: `blocks.{i}.{attn.qkv,attn.proj,norm1,cross.q,cross.kv,cross.proj,norm_cross,mlp.fc1,mlp.fc2,norm2}`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from metaformer.errors import WeightsError

Layout = Mapping[str, tuple[str, ...]]
"""Our module inside a block → the source's; several are joined along the rows."""

BERT: Layout = {
    "attn.qkv": ("attention.self.query", "attention.self.key", "attention.self.value"),
    "attn.proj": ("attention.output.dense",),
    "norm1": ("attention.output.LayerNorm",),
    "cross.q": ("crossattention.self.query",),
    "cross.kv": ("crossattention.self.key", "crossattention.self.value"),
    "cross.proj": ("crossattention.output.dense",),
    "norm_cross": ("crossattention.output.LayerNorm",),
    "mlp.fc1": ("intermediate.dense",),
    "mlp.fc2": ("output.dense",),
    "norm2": ("output.LayerNorm",),
}
TORCHMULTIMODAL: Layout = {
    "attn.qkv": ("attention.query", "attention.key", "attention.value"),
    "attn.proj": ("attention.output",),
    "norm1": ("attention_layernorm",),
    "cross.q": ("cross_attention.query",),
    "cross.kv": ("cross_attention.key", "cross_attention.value"),
    "cross.proj": ("cross_attention.output",),
    "norm_cross": ("cross_attention_layernorm",),
    "mlp.fc1": ("feedforward.model.0",),
    "mlp.fc2": ("feedforward.model.2",),
    "norm2": ("feedforward_layernorm",),
}
LAYOUTS = (BERT, TORCHMULTIMODAL)

ASKED = "weights of a fusion"


def translate_blocks(source: Mapping[str, Tensor], depth: int, twice: bool = False) -> dict[str, Tensor] | None:
    """The source's blocks, which stand under any prefix and are numbered from 0, by our names; None where it has none
    in a layout of the above. What is in a block and has no name of ours keeps its own, for the loading to refuse.
    `twice`: half as many will do, each for two of ours.

    Raises WeightsError where there are several stacks of blocks, or not `depth` of them."""
    for layout in LAYOUTS:
        anchor = re.compile(rf"((?:.*\.)?)(\d+)\.{re.escape(layout['attn.qkv'][0])}\.weight")
        found = [match for key in source if (match := anchor.fullmatch(key))]
        if found:
            prefix = _prefix({match[1] for match in found})
            indices = sorted(int(match[2]) for match in found)
            if twice and indices == list(range(depth // 2)):
                return _doubled(_blocks(source, prefix, layout))
            _count(prefix, indices, depth)
            return _blocks(source, prefix, layout)
    return None


def _doubled(blocks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Every block two times, one after the other."""
    out = {}
    for key, value in blocks.items():
        _, index, name = key.split(".", 2)
        out |= {f"blocks.{2 * int(index) + turn}.{name}": value for turn in (0, 1)}
    return out


def _prefix(prefixes: set[str]) -> str:
    if len(prefixes) > 1:
        parts = sorted(prefix.rstrip(".") or "(top level)" for prefix in prefixes)
        raise WeightsError(
            ASKED, f"{len(parts)} parts have such blocks: {', '.join(parts)}", f"name one: ...#{parts[0]}"
        )
    return prefixes.pop()


def _count(prefix: str, indices: Sequence[int], depth: int) -> None:
    count = len(indices)
    if indices != list(range(count)):
        raise WeightsError(ASKED, f"blocks {', '.join(map(str, indices))}", "name a file that has them all, from 0")
    if count > depth:
        last = f"{prefix or '.'}{count - depth}-{count - 1}"
        raise WeightsError(ASKED, f"{count} blocks, and {depth} here", f"end the #PART in {last}, or the like")
    if count < depth:
        raise WeightsError(ASKED, f"{count} blocks, and {depth} here", f"depth: {count}")


def _blocks(source: Mapping[str, Tensor], prefix: str, layout: Layout) -> dict[str, Tensor]:
    rest: dict[str, dict[str, Tensor]] = {}
    for key, value in source.items():
        index, _, name = key.removeprefix(prefix).partition(".")
        if key.startswith(prefix) and index.isdecimal():
            rest.setdefault(index, {})[name] = value
    out: dict[str, Tensor] = {}
    for index, block in rest.items():
        for ours, theirs in layout.items():
            for part in ("weight", "bias"):
                names = [f"{name}.{part}" for name in theirs]
                absent = [name for name in names if name not in block]
                if not absent:
                    out[f"blocks.{index}.{ours}.{part}"] = _joined([block.pop(name) for name in names], names)
                elif len(absent) < len(names):
                    found = f"block {index} lacks {', '.join(absent)}, and has the rest of {ours}"
                    raise WeightsError(ASKED, found, "name other weights")
        out |= {f"blocks.{index}.{name}": value for name, value in block.items()}
    return out


def _joined(tensors: Sequence[Tensor], names: Sequence[str]) -> Tensor:
    shapes = [list(tensor.shape) for tensor in tensors]
    if len(tensors) == 1:
        return tensors[0]
    if not all(shape and shape == shapes[0] for shape in shapes):
        raise WeightsError(ASKED, f"{', '.join(names)} cannot be joined: {shapes}", "name other weights")
    return torch.cat(list(tensors))
