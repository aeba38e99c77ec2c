"""The core's own components, registered through the core's entry point, like those of any plugin."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from metaformer.hookspecs import Component, hookimpl

if TYPE_CHECKING:
    import torch

METAFORMER_API = "1.0"


@hookimpl
def register_encoders() -> list[Component]:
    return [
        Component(
            "transformer",
            "metaformer.encoders.transformer:TransformerEncoder",
            "The standard transformer encoder.",
        ),
        Component("identity", "metaformer.encoders.identity:IdentityEncoder", "Hands tokens on unchanged."),
    ]


@hookimpl
def register_heads() -> list[Component]:
    return [
        Component("classification", "metaformer.heads.classification:ClassificationHead", "One class per sample."),
        Component("regression", "metaformer.heads.regression:RegressionHead", "Numbers per sample."),
        Component("projection", "metaformer.heads.projection:ProjectionHead", "A unit-length embedding per sample."),
        Component(
            "token_classification",
            "metaformer.heads.token_classification:TokenClassificationHead",
            "One class per token.",
        ),
        Component("segmentation", "metaformer.heads.segmentation:SegmentationHead", "One class per point or pixel."),
        Component("language", "metaformer.heads.language:LanguageHead", "A word per token."),
        Component("forecast", "metaformer.heads.forecast:ForecastHead", "The next steps of a series."),
    ]


@hookimpl
def register_objectives() -> list[Component]:
    module = "metaformer.objectives.supervised"
    return [
        Component("cross_entropy", f"{module}:CrossEntropy", "Classes that exclude one another."),
        Component("binary_cross_entropy", f"{module}:BinaryCrossEntropy", "Labels that do not exclude one another."),
        Component("regression", f"{module}:Regression", "Distance to target numbers."),
        Component("masked_patches", "metaformer.objectives.masked:MaskedPatches", "Guess the patches that are hidden."),
        Component("contrastive", "metaformer.objectives.contrastive:Contrastive", "Tell pairs from other pairs."),
        Component("matching", "metaformer.objectives.matching:Matching", "Tell right pairs from wrong ones."),
        Component(
            "masked_language",
            "metaformer.objectives.masked_language:MaskedLanguage",
            "Guess hidden words.",
        ),
        Component("language", "metaformer.objectives.language:Language", "Each word of a text, given those before."),
        Component("ranking", "metaformer.objectives.ranking:Ranking", "Answers by how likely they are to be said."),
        Component("zero_shot", "metaformer.objectives.zero_shot:ZeroShot", "Classes by sentences about them."),
    ]


@hookimpl
def register_metrics() -> list[Component]:
    module = "metaformer.metrics.standard"
    return [
        Component(
            "accuracy",
            f"{module}:Accuracy",
            "Share of right classes; `accuracy@5` counts the five likeliest.",
        ),
        Component("f1", f"{module}:F1", "Harmonic mean of precision and recall."),
        Component("auroc", f"{module}:AUROC", "Area under the receiver operating characteristic."),
        Component("mae", f"{module}:MAE", "Mean absolute error."),
        Component("rmse", f"{module}:RMSE", "Root of the mean squared error."),
        Component("r2", f"{module}:R2", "Share of the variance explained."),
        Component("mse", f"{module}:MSE", "Mean squared error."),
        Component("iou", f"{module}:IoU", "Mean over classes of intersection over union."),
        Component("average_precision", f"{module}:AveragePrecision", "Area under precision over recall."),
        Component("score", f"{module}:Score", "Mean score of the class that is said, as VQA counts."),
        Component("median_rank", "metaformer.metrics.retrieval:MedianRank", "Retrieval: the median partner's place."),
        Component("recall", "metaformer.metrics.retrieval:Recall", "Retrieval: partners among the nearest `recall@5`."),
    ]


@hookimpl
def register_datasets() -> list[Component]:
    return [
        Component("manifest", "metaformer.data.manifest:ManifestDataset", "Rows of a CSV, JSONL or Parquet table."),
        Component("imagefolder", "metaformer.data.folder:FolderDataset", "One folder of files per class."),
        Component(
            "described", "metaformer.data.described:DescribedDataset", "Labelled samples with sentences about them."
        ),
        Component("huggingface", "metaformer.data.huggingface:HuggingFaceDataset", "A Hugging Face data set."),
        Component("webdataset", "metaformer.data.webdataset:WebDataset", "Samples in tar shards."),
    ]


@hookimpl
def load_weights(uri: str) -> Mapping[str, torch.Tensor] | None:
    from metaformer.weights.uri import open_weights

    return open_weights(uri)
