"""Point clouds as a modality: the hooks."""

from __future__ import annotations

from collections.abc import Iterable

from metaformer import Component, hookimpl

METAFORMER_API = "1.0"


@hookimpl
def register_tokenizers() -> Iterable[Component]:
    return [
        Component(
            "pointcloud",
            "metaformer_plugin_pointcloud.tokenizer:PointCloudTokenizer",
            "Point clouds of any size, as groups of neighbouring points.",
        )
    ]


@hookimpl
def register_heads() -> Iterable[Component]:
    return [
        Component(
            "cloud_classification",
            "metaformer_plugin_pointcloud.head:CloudClassificationHead",
            "One class per sample, from class token, maximum and mean through a small net.",
        )
    ]


@hookimpl
def register_datasets() -> Iterable[Component]:
    package = "metaformer_plugin_pointcloud"
    return [
        Component("terrain", f"{package}.scenes:TerrainDataset", "Blocks of a real landscape, out of matplotlib."),
        Component(
            "motorcycle_scene",
            f"{package}.scenes:MotorcycleDataset",
            "Blocks of a coloured scene from a stereo pair, out of scikit-image.",
        ),
        Component("modelnet40", f"{package}.modelnet:ModelNetDataset", "ModelNet-40, as meshes or resampled points."),
        Component("scanobjectnn", f"{package}.scanobjectnn:ScanObjectDataset", "ScanObjectNN's h5 files."),
        Component("s3dis", f"{package}.s3dis:S3disDataset", "Rooms of S3DIS, a class per point."),
        Component("shapenetpart", f"{package}.shapenetpart:ShapeNetPartDataset", "ShapeNetPart, a part per point."),
    ]
