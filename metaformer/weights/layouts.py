"""How other people's transformer encoders name their parameters, and how those names map onto ours.

Source: state dicts of timm, open_clip, transformers (4 and 5), ALBEF, ViLT, ImageBind and the published
Meta-Transformer encoders.

Ours: `blocks.{i}.{norm1,attn.qkv,attn.proj,norm2,mlp.fc1,mlp.fc2}.{weight,bias}`, `norm_in` before the blocks
and `norm_out` behind them; the rows of `attn.qkv` are q, k, v. With post-norm `norm1` and `norm2` stand behind
attention and MLP. A new layout is one more entry of `LAYOUTS`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Literal

from metaformer.errors import WeightsError

NORMS = ("norm_in", "norm_out")
TEXT_NORMS = ("ln_final", "final_layer_norm")
"""What the norm behind the blocks is called in the text towers of open_clip and of Hugging Face's CLIP."""


@dataclass(frozen=True)
class Layout:
    """One naming. All names are relative to the part of the state dict that holds the encoder."""

    name: str
    blocks: str
    """Path of the list of blocks; empty where the blocks are the top level."""
    inside: Mapping[str, tuple[str, ...]]
    """Our name inside a block → the source's; several are joined along the rows. `{}`: weight, bias."""
    outside: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Our module beside the blocks → the source's; several are what it is called in one tower or another."""
    norm: Literal["pre", "post", "either"] = "pre"
    """Where the norms of such blocks stand."""
    marks: tuple[str, ...] = ()
    """Globs, one of which must match; they tell apart layouts whose blocks look alike."""
    prefer: tuple[str, ...] = ()
    """Which part to take where several have such blocks, as the towers of CLIP have."""

    @property
    def anchor(self) -> re.Pattern[str]:
        """Matches one key of every block: its first group is the part, the second the block's index."""
        first = self.inside["attn.qkv.{}"][0].format("weight")
        blocks = re.escape(f"{self.blocks}.") if self.blocks else ""
        return re.compile(rf"((?:.*\.)?){blocks}(\d+)\.{re.escape(first)}")


def _same(*names: str) -> dict[str, tuple[str, ...]]:
    return {name: (name,) for name in names}


_OURS = _same("norm1.{}", "attn.qkv.{}", "attn.proj.{}", "norm2.{}", "mlp.fc1.{}", "mlp.fc2.{}")
_OPTIONAL = _same("gamma1", "gamma2", "attn.bias_k", "attn.bias_v")
_TIMM_SCALES: dict[str, tuple[str, ...]] = {"gamma1": ("ls1.gamma",), "gamma2": ("ls2.gamma",)}
_OPEN_CLIP: dict[str, tuple[str, ...]] = {
    "norm1.{}": ("ln_1.{}",),
    "attn.qkv.{}": ("attn.in_proj_{}",),
    "attn.proj.{}": ("attn.out_proj.{}",),
    "norm2.{}": ("ln_2.{}",),
    "mlp.fc1.{}": ("mlp.c_fc.{}",),
    "mlp.fc2.{}": ("mlp.c_proj.{}",),
    "gamma1": ("ls_1.gamma",),
    "gamma2": ("ls_2.gamma",),
}
_VIT_OLD: dict[str, tuple[str, ...]] = {
    "norm1.{}": ("layernorm_before.{}",),
    "attn.qkv.{}": tuple(f"attention.attention.{part}.{{}}" for part in ("query", "key", "value")),
    "attn.proj.{}": ("attention.output.dense.{}",),
    "norm2.{}": ("layernorm_after.{}",),
    "mlp.fc1.{}": ("intermediate.dense.{}",),
    "mlp.fc2.{}": ("output.dense.{}",),
}
_VIT_NEW: dict[str, tuple[str, ...]] = {
    "norm1.{}": ("layernorm_before.{}",),
    "attn.qkv.{}": tuple(f"attention.{part}_proj.{{}}" for part in "qkv"),
    "attn.proj.{}": ("attention.o_proj.{}",),
    "norm2.{}": ("layernorm_after.{}",),
    **_same("mlp.fc1.{}", "mlp.fc2.{}"),
}
_CLIP: dict[str, tuple[str, ...]] = {
    "norm1.{}": ("layer_norm1.{}",),
    "attn.qkv.{}": tuple(f"self_attn.{part}_proj.{{}}" for part in "qkv"),
    "attn.proj.{}": ("self_attn.out_proj.{}",),
    "norm2.{}": ("layer_norm2.{}",),
    **_same("mlp.fc1.{}", "mlp.fc2.{}"),
}

_BERT: dict[str, tuple[str, ...]] = {
    "attn.qkv.{}": tuple(f"attention.self.{part}.{{}}" for part in ("query", "key", "value")),
    "attn.proj.{}": ("attention.output.dense.{}",),
    "norm1.{}": ("attention.output.LayerNorm.{}",),
    "mlp.fc1.{}": ("intermediate.dense.{}",),
    "mlp.fc2.{}": ("output.dense.{}",),
    "norm2.{}": ("output.LayerNorm.{}",),
}
_IMAGEBIND: dict[str, tuple[str, ...]] = {
    "norm1.{}": ("norm_1.{}",),
    "attn.qkv.{}": ("attn.in_proj_{}",),
    "attn.proj.{}": ("attn.out_proj.{}",),
    "norm2.{}": ("norm_2.{}",),
    **_same("mlp.fc1.{}", "mlp.fc2.{}", "attn.bias_k", "attn.bias_v"),
}

LAYOUTS: tuple[Layout, ...] = (
    Layout(
        "timm_vit",
        blocks="blocks",
        inside={**_OURS, **_TIMM_SCALES},
        outside={"norm_in": ("norm_pre",), "norm_out": ("norm",)},
        marks=("patch_embed.*", "cls_token", "pos_embed", "norm.*", "norm_pre.*", "head.*", "*.ls1.gamma"),
    ),
    Layout(
        "metaformer",
        blocks="blocks",
        inside={**_OURS, **_OPTIONAL},
        outside={"norm_in": ("norm_in",), "norm_out": ("norm_out",)},
        norm="either",
    ),
    Layout(
        "open_clip",
        blocks="transformer.resblocks",
        inside=_OPEN_CLIP,
        outside={"norm_in": ("ln_pre",), "norm_out": ("ln_post", TEXT_NORMS[0])},
        prefer=("visual.",),
    ),
    Layout("huggingface_vit_old", blocks="encoder.layer", inside=_VIT_OLD, outside={"norm_out": ("layernorm",)}),
    Layout("huggingface_vit", blocks="layers", inside=_VIT_NEW, outside={"norm_out": ("layernorm",)}),
    Layout("bert", blocks="encoder.layer", inside=_BERT, norm="post"),
    Layout("imagebind", blocks="blocks", inside=_IMAGEBIND, outside={"norm_in": ("pre_transformer_layer.0",)}),
    Layout(
        "huggingface_clip",
        blocks="encoder.layers",
        inside=_CLIP,
        # The missing "e" is in the published files.
        outside={"norm_in": ("pre_layrnorm",), "norm_out": ("post_layernorm", TEXT_NORMS[1])},
        prefer=("vision_model.",),
    ),
    Layout("meta_transformer", blocks="", inside=_OURS),
)
"""Most specific first: the first one that fits is taken."""

ELSEWHERE: tuple[tuple[str, tuple[str, ...]], ...] = (
    (
        "a text tower",
        (
            "text_model.*",
            "text.*",
            "text_encoder.*",
            "text_decoder.*",
            "transformer.resblocks.*",
            "token_embedding.*",
            "ln_final.*",
            "final_layer_norm.*",
        ),
    ),
    ("a momentum copy or its queue", ("*_m.*", "image_queue", "text_queue", "idx_queue", "queue_ptr", "ptr_queue")),
    ("a decoder", ("decoder.*", "decoder_blocks.*", "decoder_*", "mask_token")),
    (
        "a tokenizer",
        (
            *(
                "patch_embed.*",
                "embeddings.*",
                "conv1.*",
                "cls_token",
                "dist_token",
                "reg_token",
                "pos_embed",
            ),
            *("class_embedding", "positional_embedding", "tokenizers.*"),
            *("text_embeddings.*", "modality_preprocessors.*"),
        ),
    ),
    ("the types of a joint pass", ("token_type_embeddings.*",)),
    (
        "a head",
        (
            *(
                "head.*",
                "head_dist.*",
                "heads.*",
                "fc_norm.*",
                "attn_pool.*",
                "classifier.*",
                "pooler.*",
                "proj",
            ),
            *("visual_projection.*", "text_projection", "text_projection.*", "logit_scale", "logit_bias"),
            *("vision_proj.*", "text_proj.*", "itm_head.*", "cls_head.*", "temp", "temperature"),
            *("cls.*", "mlm_score.*", "mpp_score.*", "itm_score.*", "rank_output.*"),
            *("vqa_classifier.*", "nlvr2_classifier.*", "modality_heads.*", "modality_postprocessors.*"),
        ),
    ),
)
"""What the rest of a published file belongs to: globs over a name, or over its end after a dot."""


@dataclass(frozen=True)
class Plan:
    """A source's names, sorted: which make which of ours, and what the others are."""

    layout: Layout
    prefix: str
    depth: int
    mapped: Mapping[str, tuple[str, ...]]
    """Our name → source names, joined along the rows where there are several."""
    incomplete: Mapping[str, tuple[str, ...]]
    """Our name → the source names that are absent, where others of the same join are there."""
    stray: tuple[str, ...]
    """Source names inside the blocks that our blocks have no place for."""
    unused: Mapping[str, str]
    """Source name → what it belongs to."""
    unknown: tuple[str, ...]
    """Source names outside the blocks that nothing here knows."""


def make_plan(keys: Iterable[str], asked: str) -> Plan:
    """Detect the layout of a state dict and map its names; WeightsError where none or several fit."""
    names = tuple(keys)
    layout, prefix = detect(names, asked)
    present = set(names)
    indices = {int(m[2]) for name in names if (m := layout.anchor.fullmatch(name)) and m[1] == prefix}
    mapped: dict[str, tuple[str, ...]] = {}
    incomplete: dict[str, tuple[str, ...]] = {}
    for ours, sources in _wanted(layout, prefix, sorted(indices), present):
        absent = tuple(source for source in sources if source not in present)
        if not absent:
            mapped[ours] = sources
        elif len(absent) < len(sources):
            incomplete[ours] = absent
    taken = {source for sources in mapped.values() for source in sources}
    rest = [name for name in names if name not in taken]
    block = re.compile(re.escape(prefix + (f"{layout.blocks}." if layout.blocks else "")) + r"\d+\.")
    stray = tuple(name for name in rest if block.match(name))
    owners = {name: _owner(name) for name in rest if not block.match(name)}
    return Plan(
        layout=layout,
        prefix=prefix,
        depth=max(indices) + 1,
        mapped=mapped,
        incomplete=incomplete,
        stray=stray,
        unused={name: owner for name, owner in owners.items() if owner},
        unknown=tuple(name for name, owner in owners.items() if not owner),
    )


def detect(names: Iterable[str], asked: str) -> tuple[Layout, str]:
    """The layout of a state dict, and the prefix of the part that holds the encoder."""
    names = tuple(names)
    for layout in LAYOUTS:
        prefixes = {match[1] for name in names if (match := layout.anchor.fullmatch(name))}
        preferred = {prefix for prefix in prefixes if prefix.endswith(layout.prefer)} if layout.prefer else set()
        prefixes = preferred or prefixes
        if len(prefixes) > 1:
            raise _several(asked, layout, prefixes)
        for prefix in prefixes:
            if _marked(layout, prefix, names):
                return layout, prefix
    raise WeightsError(
        asked,
        f"no known layout fits its {len(names)} names, such as {', '.join(sorted(names)[:4])}",
        f"known layouts: {', '.join(layout.name for layout in LAYOUTS)}; rename its tensors to ours "
        "(blocks.0.attn.qkv.weight, ...) and save them as safetensors",
    )


def _marked(layout: Layout, prefix: str, names: tuple[str, ...]) -> bool:
    if not layout.marks:
        return True
    relative = [name.removeprefix(prefix) for name in names if name.startswith(prefix)]
    return any(fnmatchcase(name, mark) for name in relative for mark in layout.marks)


def _several(asked: str, layout: Layout, prefixes: set[str]) -> WeightsError:
    parts = sorted(prefix.rstrip(".") or "(top level)" for prefix in prefixes)
    shown = ", ".join(parts[:8]) + (", ..." if len(parts) > 8 else "")
    return WeightsError(
        asked,
        f"{len(parts)} parts of it look like an encoder ({layout.name}): {shown}",
        f"name the one you mean: ...#{parts[-1]}",
    )


def _wanted(
    layout: Layout, prefix: str, indices: list[int], present: set[str]
) -> Iterable[tuple[str, tuple[str, ...]]]:
    path = f"{layout.blocks}." if layout.blocks else ""
    for index in indices:
        for ours, sources in layout.inside.items():
            for kind in ("weight", "bias") if "{}" in ours else ("",):
                full = tuple(f"{prefix}{path}{index}.{source.format(kind)}" for source in sources)
                yield f"blocks.{index}.{ours.format(kind)}", full
    for ours, sources in layout.outside.items():
        source = next((source for source in sources if f"{prefix}{source}.weight" in present), sources[0])
        for kind in ("weight", "bias"):
            yield f"{ours}.{kind}", (f"{prefix}{source}.{kind}",)


def _owner(name: str) -> str:
    for owner, globs in ELSEWHERE:
        if any(fnmatchcase(name, glob) or fnmatchcase(name, f"*.{glob}") for glob in globs):
            return owner
    return ""


def blocks_only(names: Iterable[str]) -> dict[str, str]:
    """Our names of blocks → those of the published Meta-Transformer files, which hold nothing else."""
    return {name: name.removeprefix("blocks.") for name in names if name.startswith("blocks.")}
