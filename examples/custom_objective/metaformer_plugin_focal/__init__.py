"""What the plugin offers: read at every command, so nothing heavy is imported here."""

from __future__ import annotations

from metaformer import Component, hookimpl

METAFORMER_API = "1.0"


@hookimpl
def register_objectives() -> list[Component]:
    return [
        Component(
            "focal", "metaformer_plugin_focal.focal:FocalLoss", "Cross-entropy that looks away from easy samples."
        )
    ]
