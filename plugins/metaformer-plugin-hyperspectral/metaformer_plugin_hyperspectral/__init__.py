"""Hyperspectral pixels as a modality: the hooks."""

from __future__ import annotations

from collections.abc import Iterable

from metaformer import Component, hookimpl

METAFORMER_API = "1.0"


@hookimpl
def register_tokenizers() -> Iterable[Component]:
    return [
        Component(
            "hyperspectral",
            "metaformer_plugin_hyperspectral.tokenizer:HyperspectralTokenizer",
            "A pixel's spectrum with its neighbourhood, one token per band or group of bands.",
        )
    ]


@hookimpl
def register_datasets() -> Iterable[Component]:
    module = "metaformer_plugin_hyperspectral.datasets"
    return [
        Component("hyperspectral_scene", f"{module}:SceneDataset", "Labelled pixels of one scene, split by place."),
        Component("indian_pines", f"{module}:IndianPines", "The Indian Pines scene that ships inside tensorly."),
        Component(
            "indian_pines_official",
            f"{module}:IndianPinesOfficial",
            "Indian Pines with the 695 training and 9671 test pixels of SpectralFormer.",
        ),
    ]
