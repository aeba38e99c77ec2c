"""Infrared pictures and spectra as modalities: the hooks."""

from __future__ import annotations

from collections.abc import Iterable

from metaformer import Component, hookimpl

METAFORMER_API = "1.0"


@hookimpl
def register_tokenizers() -> Iterable[Component]:
    package = "metaformer_plugin_infrared"
    return [
        Component(
            "infrared",
            f"{package}.tokenizer:InfraredTokenizer",
            "Thermal and other infrared pictures in physical units, as square patches.",
        ),
        Component(
            "spectrum",
            f"{package}.spectrum:SpectrumTokenizer",
            "Infrared spectra on a common axis, as patches of neighbouring wavelengths.",
        ),
    ]


@hookimpl
def register_datasets() -> Iterable[Component]:
    spectra, pictures = "metaformer_plugin_infrared.spectra", "metaformer_plugin_infrared.pictures"
    return [
        Component("tecator", f"{spectra}:TecatorDataset", "Near-infrared spectra of meat and its fat, out of sktime."),
        Component("coffee_spectra", f"{spectra}:CoffeeDataset", "Mid-infrared spectra of coffee, out of chemotools."),
        Component("regdb", f"{pictures}:RegDbDataset", "RegDB: persons seen by a visible and a thermal camera."),
        Component(
            "nir_fields",
            f"{pictures}:NirFieldsDataset",
            "Fields in one near-infrared band (reflected, not thermal), out of tensorly.",
        ),
    ]
