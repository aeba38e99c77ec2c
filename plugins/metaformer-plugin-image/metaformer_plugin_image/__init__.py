"""Images for metaformer: hook implementations only; nothing heavy is imported here."""

from __future__ import annotations

from metaformer import Component, hookimpl

METAFORMER_API = "1.0"


@hookimpl
def register_tokenizers() -> list[Component]:
    return [
        Component(
            "image",
            "metaformer_plugin_image.tokenizer:ImageTokenizer",
            "Photographs and other pictures as square patches.",
        ),
        Component(
            "convolutional",
            "metaformer_plugin_image.convolutional:ConvolutionalTokenizer",
            "Pictures as the last feature map of a convolutional network of timm.",
        ),
    ]


@hookimpl
def register_datasets() -> list[Component]:
    return [
        Component(
            "digits",
            "metaformer_plugin_image.datasets:DigitsDataset",
            "1797 handwritten digits of 8x8 pixels, bundled with scikit-learn.",
        ),
        Component(
            "photo_crops",
            "metaformer_plugin_image.datasets:PhotoCropsDataset",
            "Rotated gray crops of two photographs bundled with scikit-learn: a task without labels.",
        ),
    ]
