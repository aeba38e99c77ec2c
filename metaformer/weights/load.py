"""Filling a module from a weights URI: all is checked before anything is copied; a receipt is left."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from metaformer.encoders.transformer import TransformerEncoder
from metaformer.errors import WeightsError
from metaformer.weights.fit import (
    ANCHOR,
    Fit,
    Resize,
    check_shapes,
    compare_facts,
    fit_layout,
    fit_plain,
    joined_shape,
    matches,
    short,
)
from metaformer.weights.receipt import Receipt
from metaformer.weights.source import Source, open_source, select
from metaformer.weights.uri import parse_uri, unknown_scheme

Opener = Callable[[str], Mapping[str, Tensor] | None]
"""The hook `load_weights` of the plugins, for schemes the core does not know."""
Translate = Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]


def load_into(
    module: nn.Module,
    uri: str,
    *,
    name: str,
    allow_missing: Sequence[str] = (),
    base: Path | None = None,
    resize: Mapping[str, Resize] | None = None,
    plugins: Opener | None = None,
    translate: Translate | None = None,
) -> Receipt:
    """Copy the tensors behind `uri` into `module`, in place, and say what was done.

    `name` is the component as a recipe calls it (`encoders.shared`); `allow_missing` are globs over parameter
    names, with or without it. `resize` maps such globs to functions for tensors whose shape may differ.
    `translate` turns the source's tensors into ones with the module's own names, for modules that know how.
    Modules with blocks named like ours take any known layout; others must find their own names in the source.
    Raises WeightsError with every fault at once, and then nothing has been copied.
    """
    source = _open(uri, base, name, plugins)
    asked = f"{name}: weights {uri!r}"
    if translate is not None:
        source = replace(source, tensors=dict(translate(source.tensors)))
    targets = _targets(module, asked)
    _refuse_idle_globs(allow_missing, name, targets, asked)
    fit = fit_layout(source, targets, name, asked) if ANCHOR in targets else fit_plain(source, targets)
    if isinstance(module, TransformerEncoder):
        compare_facts(fit, module, source.facts, name)
    kept = [key for key in fit.missing if matches(key, name, allow_missing)]
    lost = [key for key in fit.missing if key not in kept]
    if lost:
        fit.faults.append(f"missing {len(lost)} of {len(targets)}: {short(lost)}")
        fit.fixes.append("if they may keep their initial values, list them in allow_missing")
    resized = check_shapes(fit, source, targets, name, resize or {})
    if fit.faults:
        raise WeightsError(asked, "\n         ".join(fit.faults), "\n         ".join(dict.fromkeys(fit.fixes)))
    cast = _copy(fit, source, targets, resized, asked)
    files = source.digests()
    return Receipt(
        name=name,
        uri=uri,
        layout=fit.layout,
        digest=source.digest(files),
        files=files,
        mapped=fit.mapped,
        resized={key: (joined_shape(fit, source, key), tuple(targets[key].shape)) for key in resized},
        missing=tuple(kept),
        unused=fit.unused,
        unknown=tuple(fit.unknown),
        cast=cast,
        notes=tuple(fit.notes),
    )


def _open(uri: str, base: Path | None, name: str, plugins: Opener | None) -> Source:
    source = open_source(uri, base, default_part=name)
    if source is not None:
        return source
    parsed = parse_uri(uri)
    tensors = plugins(uri) if plugins is not None else None
    if tensors is None:
        raise unknown_scheme(parsed)
    return Source(parsed, select(tensors, parsed.part, uri) if parsed.part else dict(tensors))


def _targets(module: nn.Module, asked: str) -> dict[str, Tensor]:
    targets = dict(module.state_dict(keep_vars=True))
    if not targets:
        raise WeightsError(asked, "the component has no parameters", "leave `weights` out")
    if any(tensor.is_meta for tensor in targets.values()):
        raise WeightsError(asked, "the component has shapes but no memory yet (meta device)", "build it on a device")
    return targets


def _refuse_idle_globs(globs: Sequence[str], name: str, targets: Mapping[str, Tensor], asked: str) -> None:
    idle = [glob for glob in globs if not any(matches(key, name, [glob]) for key in targets)]
    if idle:
        raise WeightsError(
            asked,
            f"allow_missing {', '.join(idle)} matches no parameter; there are {short(list(targets))}",
            "correct the glob or leave it out",
        )


@torch.no_grad()
def _copy(
    fit: Fit, source: Source, targets: Mapping[str, Tensor], resized: Mapping[str, Resize], asked: str
) -> dict[str, str]:
    """Check all values, then copy; returns which types changed."""
    ready = {key: _value(fit, source, key, targets[key], resized.get(key), asked) for key in fit.mapped}
    cast: dict[str, str] = {}
    for key, tensor in ready.items():
        if tensor.dtype != targets[key].dtype:
            cast[key] = f"{_type(tensor)} → {_type(targets[key])}"
        targets[key].copy_(tensor)
    return cast


def _value(fit: Fit, source: Source, key: str, target: Tensor, resize: Resize | None, asked: str) -> Tensor:
    parts = [source.tensors[part] for part in fit.mapped[key]]
    tensor = parts[0] if len(parts) == 1 else torch.cat(parts)
    if resize is not None:
        tensor = resize(tensor, tuple(target.shape))
    if tensor.is_floating_point() != target.is_floating_point():
        raise WeightsError(asked, f"{key} is {_type(tensor)} in the source, {_type(target)} here", "name other weights")
    # A pass over the values is cheap beside the digest, and a spoiled file would train to nonsense.
    if tensor.is_floating_point() and not torch.isfinite(tensor.to(target.dtype)).all():
        raise WeightsError(asked, f"{key} is not finite in the source, or not as {_type(target)}", "name other weights")
    return tensor


def _type(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
