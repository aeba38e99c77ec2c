"""Bridges between streams of any modalities: the hooks."""

from __future__ import annotations

from collections.abc import Iterable

from metaformer import Component, hookimpl

METAFORMER_API = "1.0"


@hookimpl
def register_bridges() -> Iterable[Component]:
    return [
        Component(
            "fusion",
            "metaformer_plugin_fusion.fusion:FusionBridge",
            "One stream reads another by cross-attention, as in ALBEF and BLIP.",
        ),
        Component(
            "concatenate",
            "metaformer_plugin_fusion.concatenate:ConcatenateBridge",
            "Streams one after the other, or their vectors side by side.",
        ),
    ]
