"""`metaformer weights inspect` and `metaformer weights convert`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from metaformer.errors import UsageError, WeightsError
from metaformer.plaintext import printable
from metaformer.weights.files import exists, file_digest, write_tensors
from metaformer.weights.layouts import NORMS, Plan, blocks_only, make_plan
from metaformer.weights.receipt import as_yaml, fold
from metaformer.weights.source import FACTS_KEY, Source, open_source
from metaformer.weights.uri import parse_uri, unknown_scheme

NAMINGS = ("metaformer", "meta_transformer")


def inspect_command(uri: str) -> None:
    """Print what is behind a weights URI, and the recipe entry that would use it."""
    source = _open(uri, None)
    files = source.digests()
    parameters = sum(tensor.numel() for tensor in source.tensors.values())
    types = sorted({str(tensor.dtype).removeprefix("torch.") for tensor in source.tensors.values()})
    _say(uri)
    for path, (name, digest) in zip(source.files, files.items(), strict=True):
        _say(f"  file     {name}, {path.stat().st_size:,} bytes, {digest}")
    _say(f"  digest   {source.digest(files)}")
    _say(f"  tensors  {len(source.tensors):,} with {parameters:,} values ({', '.join(types)})")
    try:
        plan = make_plan(source.tensors, f"weights {uri!r}")
    except WeightsError as error:
        _say(f"  layout   none for an encoder: {error.found}")
        _print_names("names", list(source.tensors), "as they are")
        return
    _say(f"  layout   {plan.layout.name}" + (f", under {plan.prefix.rstrip('.')!r}" if plan.prefix else ""))
    _say(f"  encoder  {_sizes(plan, source)}")
    for reason in dict.fromkeys(plan.unused.values()):
        _print_names("unused", [key for key, why in plan.unused.items() if why == reason], reason)
    _print_names("unknown", plan.unknown, "outside the blocks")
    _print_names("no place", plan.stray, "inside the blocks: our encoder has nothing like it")
    for key, absent in plan.incomplete.items():
        _say(f"  no place {key}: lacks {', '.join(absent)}")
    _say(f"  recipe   {recipe_entry(plan, source)}")


def convert_command(uri: str, output: Path, part: str | None = None, to: str = "metaformer") -> None:
    """Write the encoder behind a weights URI as safetensors: our naming, or Meta-Transformer's block list."""
    if to not in NAMINGS:
        raise UsageError(f"convert to {to!r}", "no such naming", "use metaformer or meta_transformer")
    if output.suffix != ".safetensors":
        raise UsageError(f"convert to {output}", "not a .safetensors file", f"write {output}.safetensors")
    if output.exists():
        raise exists(output)
    source = _open(uri, part)
    plan = make_plan(source.tensors, f"weights {uri!r}")
    if plan.incomplete or plan.stray:
        left = [*(key for absent in plan.incomplete.values() for key in absent), *plan.stray]
        raise WeightsError(
            f"converting {uri!r}",
            f"its blocks do not map whole: {', '.join(fold(left)[:6])}",
            "name other weights",
        )
    tensors = _joined(plan, source.tensors)
    if to == "meta_transformer":
        tensors = _bare(tensors, uri)
    files = source.digests()
    facts = {key: value for key, value in asdict(source.facts).items() if value is not None}
    metadata = {
        "format": "pt",
        "source": uri,
        "source_digest": source.digest(files),
        FACTS_KEY: json.dumps(facts),
    }
    write_tensors(output, tensors, metadata)
    _say(f"{output}: {len(tensors)} tensors as {to}, {output.stat().st_size:,} bytes, {file_digest(output)}")
    _print_names("dropped", [*plan.unused, *plan.unknown], "not the encoder's")
    if to == "meta_transformer":
        _print_names("dropped", [key for key in plan.mapped if key.split(".")[0] in NORMS], "blocks only, by format")


def recipe_entry(plan: Plan, source: Source) -> str:
    """The entry under `encoders:` that these weights fit; heads count as 64 wide where nothing says more."""
    dim, ratio = _dim(plan, source.tensors), _mlp_ratio(plan, source.tensors)
    heads = source.facts.num_heads or max(dim // 64, 1)
    knobs = [f"use: transformer, dim: {dim}, depth: {plan.depth}, num_heads: {heads}"]
    knobs += [f"mlp_ratio: {as_yaml(ratio)}"] if ratio != 4 else []
    eps = source.facts.norm_eps
    knobs += [f"norm_eps: {as_yaml(eps)}"] if eps is not None and eps != 1e-5 else []
    knobs += [f"activation: {source.facts.activation}"] if source.facts.activation not in (None, "gelu") else []
    knobs += ["qkv_bias: false"] if "blocks.0.attn.qkv.bias" not in plan.mapped else []
    knobs += ["layer_scale: 1.0e-5"] if "blocks.0.gamma1" in plan.mapped else []
    knobs += [f"{norm}: true" for norm in NORMS if f"{norm}.weight" in plan.mapped]
    return "{" + ", ".join([*knobs, f'weights: "{source.uri.text}"']) + "}"


def _sizes(plan: Plan, source: Source) -> str:
    dim, heads = _dim(plan, source.tensors), source.facts.num_heads
    values = sum(source.tensors[key].numel() for sources in plan.mapped.values() for key in sources)
    said = str(heads) if heads else f"{max(dim // 64, 1)} if they are 64 wide, which the file does not say"
    norms = [norm for norm in NORMS if f"{norm}.weight" in plan.mapped]
    return (
        f"{plan.depth} blocks, {dim} wide, MLP {dim * _mlp_ratio(plan, source.tensors):g}, "
        f"norms beside the blocks: {' and '.join(norms) or 'none'}, {values:,} values, heads: {said}"
    )


def _dim(plan: Plan, tensors: Mapping[str, Tensor]) -> int:
    return tensors[plan.mapped["blocks.0.attn.proj.weight"][0]].shape[0]


def _mlp_ratio(plan: Plan, tensors: Mapping[str, Tensor]) -> float:
    rows = tensors[plan.mapped["blocks.0.mlp.fc1.weight"][0]].shape[0]
    return rows / _dim(plan, tensors)


def _joined(plan: Plan, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        key: tensors[sources[0]] if len(sources) == 1 else torch.cat([tensors[source] for source in sources])
        for key, sources in plan.mapped.items()
    }


def _bare(tensors: Mapping[str, Tensor], uri: str) -> dict[str, Tensor]:
    scales = [key for key in tensors if ".gamma" in key]
    if scales:
        raise WeightsError(
            f"converting {uri!r}",
            f"the format has no place for {', '.join(fold(scales))}",
            "convert to metaformer",
        )
    return {bare: tensors[key] for key, bare in blocks_only(tensors).items()}


def _open(uri: str, part: str | None) -> Source:
    source = open_source(uri if part is None or "#" in uri else f"{uri}#{part}")
    if source is None:
        raise unknown_scheme(parse_uri(uri))
    return source


def _print_names(title: str, names: list[str] | tuple[str, ...], why: str) -> None:
    if names:
        _say(f"  {title:<8} {len(names)}: {', '.join(fold(names))} ({why})")


def _say(text: str) -> None:
    """A line on standard output: names of tensors are a stranger's words."""
    print(printable(text))
