"""X-ray pictures as a modality: the hooks."""

from __future__ import annotations

from collections.abc import Iterable

from metaformer import Component, hookimpl

METAFORMER_API = "1.0"


@hookimpl
def register_tokenizers() -> Iterable[Component]:
    return [
        Component(
            "xray",
            "metaformer_plugin_xray.tokenizer:XrayTokenizer",
            "X-ray pictures, DICOM or plain, windowed, as square patches.",
        )
    ]


@hookimpl
def register_datasets() -> Iterable[Component]:
    chests, slices = "metaformer_plugin_xray.chests", "metaformer_plugin_xray.slices"
    return [
        Component("tb_chest", f"{chests}:TuberculosisDataset", "The TB Chest Radiography Database, two classes."),
        Component("chestxray14", f"{chests}:ChestXray14Dataset", "NIH ChestX-ray14, fourteen findings at once."),
        Component("chexpert", f"{chests}:CheXpertDataset", "CheXpert, fourteen findings, some of them uncertain."),
        Component(
            "ct_patches",
            f"{slices}:CtPatchesDataset",
            "Pieces of three CT slices bundled with pydicom, with a hole to be guessed: a task without labels.",
        ),
    ]
