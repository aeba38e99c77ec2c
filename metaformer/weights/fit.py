"""Comparing a module with a source of weights: what goes where, what is left, each fault with its fix."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase

from torch import Tensor

from metaformer.encoders.transformer import TransformerEncoder
from metaformer.layers import Block
from metaformer.weights.layouts import LAYOUTS, NORMS, TEXT_NORMS, Plan, make_plan
from metaformer.weights.receipt import as_yaml, fold
from metaformer.weights.source import Facts, Source

Resize = Callable[[Tensor, tuple[int, ...]], Tensor]
"""A tensor of the source and the shape wanted → a tensor of that shape."""

ANCHOR = "blocks.0.attn.qkv.weight"
"""A module with this parameter names its blocks as ours do, so that layouts apply."""


@dataclass
class Fit:
    """A module and a source, compared."""

    layout: str
    mapped: dict[str, tuple[str, ...]]
    missing: list[str]
    unused: dict[str, str] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    fixes: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def fit_layout(source: Source, targets: Mapping[str, Tensor], name: str, asked: str) -> Fit:
    """A source in any known layout against a module whose blocks are named like ours."""
    plan = make_plan(source.tensors, asked)
    # What a module has beyond the table, such as low-rank updates, comes from a run of ours under its own name.
    same = {
        key: (source_name,)
        for source_name in (*plan.stray, *plan.unknown)
        if (key := source_name.removeprefix(plan.prefix)) in targets
    }
    mapped = {key: sources for key, sources in plan.mapped.items() if key in targets} | same
    taken = {sources[0] for sources in same.values()}
    plan = replace(
        plan,
        stray=tuple(name for name in plan.stray if name not in taken),
        unknown=tuple(name for name in plan.unknown if name not in taken),
    )
    fit = Fit(
        plan.layout.name,
        mapped=mapped,
        missing=[key for key in targets if key not in mapped],
        unused=dict(plan.unused),
        unknown=list(plan.unknown),
    )
    for key, absent in plan.incomplete.items():
        fit.faults.append(f"{key} cannot be joined: the source lacks {', '.join(absent)}")
    _sort_leftovers(fit, plan, targets, name)
    return fit


def _sort_leftovers(fit: Fit, plan: Plan, targets: Mapping[str, Tensor], name: str) -> None:
    """Encoder tensors of the source that the module has no place for.

    A fault inside blocks, where leaving them out changes what a block computes; a note for the norms around
    them, which published recipes do leave out."""
    extra = [key for key in plan.mapped if key not in targets]
    depth = 1 + max(int(key.split(".")[1]) for key in targets if key.startswith("blocks."))
    if plan.depth > depth:
        fit.faults.append(f"the source has {plan.depth} blocks, the recipe {depth}")
        fit.fixes.append(f"{name}.depth: {plan.depth}")
    elif plan.depth < depth:
        fit.fixes.append(f"{name}.depth: {plan.depth}, which is what the source has")
    inside = [key for key in extra if key.startswith("blocks.") and int(key.split(".")[1]) < depth]
    if inside or plan.stray:
        fit.faults.append(f"no place in the recipe's blocks for {short([*inside, *plan.stray])}")
    if any(key.endswith((".lora_a", ".lora_b")) for key in plan.stray):
        fit.fixes.append("give the recipe the low-rank updates (lora) of the run these weights come from")
    if any(".gamma" in key for key in inside):
        fit.fixes.append(f"{name}.layer_scale: 1.0e-5 (any number: the source's values replace it)")
    if any(key.endswith(("attn.bias_k", "attn.bias_v")) for key in inside):
        fit.fixes.append(f"{name}.bias_kv: true")
    if any(key.endswith("attn.qkv.bias") for key in inside):
        fit.fixes.append(f"{name}.qkv_bias: true")
    fit.fixes += [f"{name}.{norm}: false" for norm in NORMS if f"{norm}.weight" in fit.missing]
    if "blocks.0.attn.qkv.bias" in fit.missing:
        fit.fixes.append(f"{name}.qkv_bias: false")
    if "blocks.0.attn.bias_k" in fit.missing:
        fit.fixes.append(f"{name}.bias_kv: false")
    for norm in NORMS:
        left = [source for key in extra if key.startswith(f"{norm}.") for source in plan.mapped[key]]
        fit.unused.update(dict.fromkeys(left, f"{norm} is off in the recipe"))
        if left:
            fit.notes.append(f"the source has {norm} and the recipe leaves it out; {name}.{norm}: true would use it")


def fit_plain(source: Source, targets: Mapping[str, Tensor]) -> Fit:
    """The module's own names, as they are or under one common prefix."""
    prefix = _common_prefix(source.tensors, targets)
    mapped: dict[str, tuple[str, ...]] = {key: (prefix + key,) for key in targets if prefix + key in source.tensors}
    taken = {source_key for sources in mapped.values() for source_key in sources}
    fit = Fit(
        "plain",
        mapped=mapped,
        missing=[key for key in targets if key not in mapped],
        unknown=[key for key in source.tensors if key not in taken],
    )
    if not mapped:
        fit.faults.append(f"nothing in it has a name of this component; it holds {short(list(source.tensors))}")
        fit.fixes.append("name the part that holds the component after a #")
    return fit


def _common_prefix(tensors: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> str:
    if any(key in tensors for key in targets):
        return ""
    first = next(iter(targets))
    prefixes = {key.removesuffix(first) for key in tensors if key.endswith(f".{first}")}
    fitting = [prefix for prefix in sorted(prefixes) if all(prefix + key in tensors for key in targets)]
    return fitting[0] if len(fitting) == 1 else ""


def compare_facts(fit: Fit, encoder: TransformerEncoder, facts: Facts, name: str) -> None:
    """What shapes do not show: other heads or another activation would compute something else in silence."""
    block = next(iter(encoder.blocks), None)
    if not isinstance(block, Block):
        return
    norm = "pre" if block.pre else "post"
    theirs = next((layout.norm for layout in LAYOUTS if layout.name == fit.layout), "either")
    if theirs not in ("either", norm):
        fit.faults.append(f"layout {fit.layout} is {theirs}-norm, the recipe's encoder {norm}-norm")
        fit.fixes.append(f"{name}.norm: {theirs}")
    _compare_causal(fit, encoder, facts, name)
    heads, activation = block.attn.num_heads, block.mlp.activation.__name__
    if facts.num_heads not in (None, heads):
        fit.faults.append(f"the source has {facts.num_heads} heads, the recipe {heads}")
        fit.fixes.append(f"{name}.num_heads: {facts.num_heads}")
    if facts.activation in ("gelu", "quick_gelu", "relu") and facts.activation != activation:
        fit.faults.append(f"the source's activation is {facts.activation}, the recipe's {activation}")
        fit.fixes.append(f"{name}.activation: {facts.activation}")
    elif facts.activation not in (None, activation):
        fit.notes.append(f"the source's activation is {facts.activation}, the recipe's {activation}")
    if facts.norm_eps is not None and facts.norm_eps != block.norm1.eps:
        fit.notes.append(
            f"the source's norms have eps {facts.norm_eps:g}, the recipe's {block.norm1.eps:g}; "
            f"{name}.norm_eps: {as_yaml(facts.norm_eps)} would match it"
        )


def _compare_causal(fit: Fit, encoder: TransformerEncoder, facts: Facts, name: str) -> None:
    if facts.causal not in (None, encoder.causal):
        says = {True: "causal", False: "not causal"}
        fit.faults.append(f"the source is {says[facts.causal is True]}, the recipe's encoder {says[encoder.causal]}")
        fit.fixes.append(f"{name}.causal: {str(facts.causal).lower()}")
    elif facts.causal is None and not encoder.causal:
        norm_out = "".join(fit.mapped.get("norm_out.weight", ()))
        if norm_out.removesuffix(".weight").rpartition(".")[2] in TEXT_NORMS:
            fit.notes.append(f"the source is a text tower: CLIP's are causal ({name}.causal: true), SigLIP's are not")


def joined_shape(fit: Fit, source: Source, key: str) -> tuple[int, ...]:
    """Shape of what will be made of the source's tensors, before it is; () where they cannot be joined."""
    shapes = [tuple(source.tensors[part].shape) for part in fit.mapped[key]]
    if len(shapes) == 1:
        return shapes[0]
    if not all(shape and shape == shapes[0] for shape in shapes):
        return ()
    return (sum(shape[0] for shape in shapes), *shapes[0][1:])


def check_shapes(
    fit: Fit, source: Source, targets: Mapping[str, Tensor], name: str, resize: Mapping[str, Resize]
) -> dict[str, Resize]:
    """The tensors to resize; every other difference of shape is a fault."""
    resized: dict[str, Resize] = {}
    wrong: dict[str, tuple[int, ...]] = {}
    for key in fit.mapped:
        shape = joined_shape(fit, source, key)
        if shape != tuple(targets[key].shape):
            function = next((f for glob, f in resize.items() if matches(key, name, [glob])), None)
            if function is None:
                wrong[key] = shape
            else:
                resized[key] = function
    if wrong:
        _explain_shapes(fit, wrong, targets, name)
    return resized


def _explain_shapes(fit: Fit, wrong: Mapping[str, tuple[int, ...]], targets: Mapping[str, Tensor], name: str) -> None:
    qkv, fc1 = wrong.get(ANCHOR), wrong.get("blocks.0.mlp.fc1.weight")
    ours = tuple(targets[ANCHOR].shape) if ANCHOR in targets else ()
    if qkv and ours and len(qkv) == 2 and qkv[1] != ours[1]:
        fit.faults.append(f"the source is {qkv[1]} wide, the recipe {ours[1]}")
        fit.fixes.append(f"{name}.dim: {qkv[1]}")
    elif fc1 and ours and len(fc1) == 2:
        fit.faults.append(
            f"the source's MLP has {fc1[0]} rows, the recipe's {targets['blocks.0.mlp.fc1.weight'].shape[0]}"
        )
        fit.fixes.append(
            f"{name}.mlp_ratio: {as_yaml(fc1[0] / fc1[1])} (or another activation: swiglu doubles the rows)"
        )
    else:
        fit.fixes.append("change the recipe to the source's sizes, or name other weights")
    shown = [f"{key} is {list(shape)}, wanted {list(targets[key].shape)}" for key, shape in list(wrong.items())[:4]]
    more = f"; and {len(wrong) - 4} more" if len(wrong) > 4 else ""
    fit.faults.append(f"{len(wrong)} shapes differ: {'; '.join(shown)}{more}")


def matches(key: str, name: str, globs: Sequence[str]) -> bool:
    """Whether a glob fits a parameter, called as in its component or as in the whole model."""
    return any(fnmatchcase(key, glob) or fnmatchcase(f"{name}.{key}", glob) for glob in globs)


def short(names: Sequence[str]) -> str:
    """Names folded, the first few of them."""
    folded = fold(names)
    return ", ".join(folded[:8]) + (f", and {len(folded) - 8} more" if len(folded) > 8 else "")
