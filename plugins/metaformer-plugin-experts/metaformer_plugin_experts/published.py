"""Published models' tensors by our names: VLMo, BEiT, and vision transformers with one MLP per block.

Source: the released code of VLMo and BEiT, and state dicts of timm and of transformers (4 and 5).

Ours: `blocks.{i}.{norm1,attn,gamma1,gamma2,norm2.EXPERT,mlp.EXPERT}`, `norm_out`, `positions.*`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from metaformer.errors import WeightsError
from metaformer_plugin_experts.positions import Grid
from metaformer_plugin_experts.tables import TABLE, joined, read_tables, resize_own

ASKED = "weights of an encoder with experts"


@dataclass(frozen=True)
class Form:
    """What there is room for."""

    experts: Mapping[str, tuple[str, ...]]
    paired: bool
    plain_expert: str | None
    key_bias: bool
    sizes: Mapping[str, Grid] | None
    """Of relative positions."""

    def serving(self, modality: str) -> str | None:
        """The expert of a modality."""
        return next((name for name, served in self.experts.items() if modality in served), None)


@dataclass(frozen=True)
class Layout:
    """One naming of blocks. A name inside a block is renamed by the first rule whose left side it begins with."""

    blocks: str
    """Path of the list of blocks; empty where the blocks are the top level."""
    anchor: str
    """What every block has, and no other layout."""
    rules: tuple[tuple[str, str], ...]
    norm: tuple[str, ...]
    """Names of the final norm, beside the blocks."""


_TIMM = (
    ("gamma_1", "gamma1"),
    ("gamma_2", "gamma2"),
    ("ls1.gamma", "gamma1"),
    ("ls2.gamma", "gamma2"),
    (f"attn.{TABLE}", TABLE),
    ("attn.relative_position_index", ""),
)
_HUGGINGFACE = (
    ("lambda_1", "gamma1"),
    ("lambda_2", "gamma2"),
    ("layernorm_before.", "norm1."),
    ("layernorm_after.", "norm2."),
)
LAYOUTS = (
    Layout("blocks", "attn.qkv.weight", _TIMM, ("norm", "norm_out")),
    Layout("", "attn.qkv.weight", _TIMM, ()),
    Layout(
        "encoder.layer",
        "attention.attention.query.weight",
        (
            *_HUGGINGFACE,
            ("attention.attention.query.", "attn.q."),
            ("attention.attention.key.", "attn.k."),
            ("attention.attention.value.", "attn.v."),
            (f"attention.attention.relative_position_bias.{TABLE}", TABLE),
            ("attention.attention.relative_position_bias.relative_position_index", ""),
            ("attention.output.dense.", "attn.proj."),
            ("intermediate.dense.", "mlp.fc1."),
            ("output.dense.", "mlp.fc2."),
        ),
        ("layernorm",),
    ),
    Layout(
        "layers",
        "attention.q_proj.weight",
        (
            *_HUGGINGFACE,
            ("attention.q_proj.", "attn.q."),
            ("attention.k_proj.", "attn.k."),
            ("attention.v_proj.", "attn.v."),
            ("attention.o_proj.", "attn.proj."),
            (f"relative_position_bias.{TABLE}", TABLE),
        ),
        ("layernorm",),
    ),
)
"""An index of offsets, which some files keep, can be counted again and is left out."""

VLMO = {"text": "text", "imag": "image"}
"""What VLMo calls an expert → the modality that it serves."""


def translate(source: Mapping[str, Tensor], form: Form) -> Mapping[str, Tensor]:
    """See `ExpertsEncoder.translate`. A source in none of the layouts is handed on as it is, for the loading to refuse;
    and so is what stands beside the blocks."""
    if any(re.search(r"(^|\.)blocks\.\d+\.norm2\.(?!weight$|bias$)\w+\.weight$", key) for key in source):
        return resize_own(source, form.sizes)
    for layout in LAYOUTS:
        path = re.escape(f"{layout.blocks}.") if layout.blocks else ""
        anchor = re.compile(rf"((?:.*\.)?){path}(\d+)\.{re.escape(layout.anchor)}")
        found = [match for key in source if (match := anchor.fullmatch(key))]
        if found:
            return _translated(source, layout, _only({match[1] for match in found}), form)
    return source


def _only(prefixes: set[str]) -> str:
    if len(prefixes) > 1:
        parts = sorted(prefix.rstrip(".") or "(top level)" for prefix in prefixes)
        raise WeightsError(ASKED, f"{len(parts)} parts have blocks: {', '.join(parts)}", f"name one: ...#{parts[-1]}")
    return prefixes.pop()


def _translated(source: Mapping[str, Tensor], layout: Layout, prefix: str, form: Form) -> dict[str, Tensor]:
    inside = re.compile(re.escape(prefix + (f"{layout.blocks}." if layout.blocks else "")) + r"(\d+)\.(.+)")
    blocks: dict[int, dict[str, Tensor]] = {}
    beside: dict[str, Tensor] = {}
    for key, tensor in source.items():
        match = inside.fullmatch(key)
        if match is None:
            beside[key] = tensor
        elif name := _renamed(match[2], layout.rules):
            blocks.setdefault(int(match[1]), {})[name] = tensor
    out: dict[str, Tensor] = {}
    own_tables = {index: block.pop(TABLE) for index, block in sorted(blocks.items()) if TABLE in block}
    out |= read_tables(own_tables, beside, form.serving, _plain(form), form.sizes, len(blocks))
    for index, block in sorted(blocks.items()):
        out |= {f"blocks.{index}.{name}": tensor for name, tensor in _block(block, index, form).items()}
    for norm in layout.norm:
        for part in ("weight", "bias"):
            if f"{prefix}{norm}.{part}" in beside:
                out[f"norm_out.{part}"] = beside.pop(f"{prefix}{norm}.{part}")
    return out | beside


def _renamed(name: str, rules: Sequence[tuple[str, str]]) -> str:
    for theirs, ours in rules:
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs) if ours else ""
    return name


def _block(block: Mapping[str, Tensor], index: int, form: Form) -> dict[str, Tensor]:
    """What is in a block, its tables apart, by our names; what means nothing here stays, for the loading to refuse."""
    rest = dict(block)
    out = _attention(rest, index, form.key_bias)
    for name, tensor in rest.items():
        match = re.fullmatch(r"(norm2|mlp)(?:_(\w+))?\.(.+)", name)
        if match is None:
            out[name] = tensor
        else:
            out[f"{match[1]}.{_expert(match[2], form)}.{match[3]}"] = tensor
    return out


def _expert(theirs: str | None, form: Form) -> str:
    """The expert that takes what VLMo's `theirs` has, or, where it is None, what the only MLP of a block has."""
    if theirs is None:
        plain = _plain(form)
        if plain is None:
            raise WeightsError(
                ASKED, "one MLP per block", f"plain_expert: one of {', '.join(form.experts)}, which then takes it"
            )
        return plain
    if theirs == "vl":
        if not form.paired:
            raise WeightsError(ASKED, "an expert for pairs (mlp_vl)", "pair_from: the first layer that has it")
        return "pair"
    name = form.serving(VLMO.get(theirs, theirs))
    if name is None:
        modality = VLMO.get(theirs, theirs)
        raise WeightsError(ASKED, f"an expert mlp_{theirs}", f"let one of `experts` serve '{modality}'")
    return name


def _plain(form: Form) -> str | None:
    only = next(iter(form.experts)) if len(form.experts) == 1 else None
    return form.plain_expert or form.serving("image") or only


def _attention(rest: dict[str, Tensor], index: int, key_bias: bool) -> dict[str, Tensor]:
    """The projections of queries, keys and values, taken out of `rest`, as one, and their biases."""
    out: dict[str, Tensor] = {}
    weights = [f"attn.{part}.weight" for part in "qkv"]
    if weights[0] in rest:
        out["attn.qkv.weight"] = joined(_all(rest, weights, index), 0, f"block {index}: {', '.join(weights)}")
    names = ["attn.q_bias", "attn.v_bias"] if "attn.q_bias" in rest else ["attn.q.bias", "attn.v.bias"]
    keys = rest.pop("attn.k.bias", None)
    if any(name in rest for name in names):
        q, v = _all(rest, names, index)
        if keys is not None or key_bias:
            parts = [q, torch.zeros_like(q) if keys is None else keys, v]
            out["attn.qkv.bias"] = joined(parts, 0, f"block {index}: biases of queries, keys and values")
        else:
            out |= {"attn.q_bias": q, "attn.v_bias": v}
    elif "attn.qkv.bias" in rest:
        out["attn.qkv.bias"] = rest.pop("attn.qkv.bias")
    if "attn.qkv.bias" in out and not key_bias:
        raise WeightsError(ASKED, f"a bias of the keys, in block {index}", "key_bias: true")
    return out


def _all(rest: dict[str, Tensor], names: Sequence[str], index: int) -> list[Tensor]:
    absent = [name for name in names if name not in rest]
    if absent:
        have = ", ".join(name for name in names if name in rest)
        raise WeightsError(ASKED, f"block {index} has {have} and lacks {', '.join(absent)}", "name other weights")
    return [rest.pop(name) for name in names]
