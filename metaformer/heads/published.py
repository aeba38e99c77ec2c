"""Published heads that stand alone: one linear layer, or the two of a small MLP.

Source: state dicts of ALBEF, ALIGN, ImageBind, ViLT, VLMo and BERT.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from metaformer.errors import WeightsError


def linears(source: Mapping[str, Tensor]) -> list[str]:
    """Prefixes of all linear layers, such as `fc.`, in order; empty text at the top level."""
    return [key.removesuffix("weight") for key in source if _is(key, "weight") and source[key].ndim == 2]


def norms(source: Mapping[str, Tensor]) -> list[str]:
    """Prefixes of all norms with a weight and a bias."""
    return [
        prefix
        for key in source
        if _is(key, "weight") and source[key].ndim == 1 and (prefix := key.removesuffix("weight")) + "bias" in source
    ]


def layer(source: Mapping[str, Tensor], prefix: str, ours: str) -> dict[str, Tensor]:
    """Weight and bias at a prefix, by our name for the layer; what is absent is left out."""
    parts = ("weight", "bias")
    return {f"{ours}.{part}": source[prefix + part] for part in parts if prefix + part in source}


def bare_linear(source: Mapping[str, Tensor], asked: str) -> dict[str, Tensor]:
    """The only linear layer as `linear`, and the only norm, if there is one, as `norm`. Raises WeightsError where there
    is anything else."""
    matrices, scales = linears(source), norms(source)
    taken = {prefix + part for prefix in (*matrices, *scales) for part in ("weight", "bias")}
    rest = [key for key in source if key not in taken]
    if len(matrices) != 1 or len(scales) > 1 or rest:
        some = ", ".join([*rest, *(key for key in source if key not in rest)][:4]) or "nothing"
        found = f"{len(matrices)} linear layers among {len(source)} tensors ({some}, ...)"
        raise WeightsError(asked, found, "name the part that is the head after a #")
    out = layer(source, matrices[0], "linear")
    return out | (layer(source, scales[0], "norm") if scales else {})


def _is(key: str, part: str) -> bool:
    return key == part or key.endswith(f".{part}")
