"""An encoder with an expert per modality: the hooks."""

from __future__ import annotations

from collections.abc import Iterable

from metaformer import Component, hookimpl

METAFORMER_API = "1.0"


@hookimpl
def register_encoders() -> Iterable[Component]:
    return [
        Component(
            "experts",
            "metaformer_plugin_experts.encoder:ExpertsEncoder",
            "Shared attention, a feed-forward per modality and one for pairs, as in VLMo.",
        )
    ]
