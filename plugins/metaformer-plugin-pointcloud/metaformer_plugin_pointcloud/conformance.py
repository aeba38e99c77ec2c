"""The cases of this plugin, which `metaformer plugins check` and the tests run."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from metaformer.testing import Check, dataset_checks, head_checks, tokenizer_checks

RNG = np.random.default_rng(0)
BARE = [RNG.normal(size=(n, 3)) for n in (1, 7, 40, 90)]
COLORED = [{"points": p, "color": RNG.integers(0, 256, (len(p), 3), dtype=np.uint8)} for p in BARE]
BAD: list[Any] = ["no path", 5, np.zeros((0, 3)), np.zeros((4, 2)), np.full((3, 3), np.nan), np.full((3, 3), 1e31)]
BAD += [[[1, 2], [3]], b"ply", {"color": np.zeros((3, 3))}, np.zeros((2, 3), dtype=complex)]
BAD_COLORED = [*BAD, np.zeros((97, 6)), {"points": np.zeros((3, 3))}]
SMALL = {"num_points": 64, "neighbours": 8, "widths": (8, 12, 16)}
PATCH = {**SMALL, "num_groups": 12, "rotate": 180.0, "zoom": (0.7, 1.5), "zoom_axes": "each", "shift": 0.2}
PROGRESSIVE = {
    **SMALL,
    "num_points": 96,
    "stem": "progressive",
    "ratio": 0.0625,
    "features": ("color", "height", "xyz"),
    "norm": "layer",
    "dense": True,
    "jitter": 0.01,
    "drop_color": 0.5,
}
OFF = "OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 {z}\n3 0 1 2\n"


def meshes(root: Path) -> Mapping[str, Any]:
    """ModelNet40.zip: meshes of two classes."""
    for name in ("chair", "night_stand"):
        for split in ("train", "test"):
            (root / name / split).mkdir(parents=True)
            for i in range(2):
                (root / name / split / f"{name}_000{i}.off").write_text(OFF.format(z=i))
    return {"root": root}


def resampled(root: Path) -> Mapping[str, Any]:
    """ModelNet-40 as resampled points with normals."""
    names = {"train": ["chair_0001", "night_stand_0002"], "test": ["chair_0003"]}
    (root / "modelnet40_shape_names.txt").write_text("chair\nnight_stand\n")
    for split, models in names.items():
        (root / f"modelnet40_{split}.txt").write_text("\n".join(models))
        for model in models:
            folder = root / model.rpartition("_")[0]
            folder.mkdir(exist_ok=True)
            np.savetxt(folder / f"{model}.txt", RNG.normal(size=(30, 6)), fmt="%.4f", delimiter=",")
    return {"root": root}


def scans(root: Path) -> Mapping[str, Any]:
    """An h5 file of ScanObjectNN."""
    import h5py

    with h5py.File(root / "test_objectdataset.h5", "w") as file:
        file["data"], file["label"] = RNG.normal(size=(4, 20, 3)).astype(np.float32), np.array([0, 14, 3, 3])
    return {"path": root / "test_objectdataset.h5"}


def room(count: int = 60) -> Float64[np.ndarray, "N 7"]:
    """Places, colours and classes of points."""
    points, color = RNG.uniform(0, 3, (count, 3)), RNG.integers(0, 256, (count, 3))
    return np.concatenate([points, color, RNG.integers(0, 13, (count, 1))], axis=1)


def rooms(root: Path) -> Mapping[str, Any]:
    """S3DIS as a table per room."""
    for name in ("Area_1_office_1", "Area_5_office_2", "Area_5_hallway_1"):
        np.save(root / f"{name}.npy", room().astype(np.float32))
    return {"root": root}


def annotations(root: Path) -> Mapping[str, Any]:
    """S3DIS as published: a file per object."""
    for area in (1, 5):
        folder = root / f"Area_{area}" / "office_1" / "Annotations"
        folder.mkdir(parents=True)
        for name in ("chair_1", "stairs_1", "wall_2"):
            np.savetxt(folder / f"{name}.txt", room()[:, :6], fmt="%.3f")
    return {"root": root}


def parts(root: Path) -> Mapping[str, Any]:
    """ShapeNetPart: two shapes."""
    (root / "synsetoffset2category.txt").write_text("Airplane\t02691156\nChair\t03001627\n")
    (root / "train_test_split").mkdir()
    models = ["shape_data/02691156/1a-b", "shape_data/03001627/2c"]
    (root / "train_test_split" / "shuffled_train_file_list.json").write_text(json.dumps(models))
    for model in models:
        _, synset, name = model.split("/")
        (root / synset).mkdir()
        rows = np.concatenate([RNG.normal(size=(12, 6)), RNG.integers(0, 50, (12, 1))], axis=1)
        np.savetxt(root / synset / f"{name}.txt", rows, fmt="%.5f")
    return {"root": root}


def checks() -> Iterator[Check]:
    """The tokenizer, the head, the published layouts, and what the packages that are there bring."""
    yield from tokenizer_checks(("pointcloud", PATCH), BARE, bad=BAD)
    yield from tokenizer_checks(("pointcloud", PROGRESSIVE), COLORED, bad=BAD_COLORED)
    yield from head_checks(("cloud_classification", {"num_classes": 5, "hidden": (16, 8)}))
    yield from dataset_checks(("modelnet40", {"split": "train"}), limit=4, files=meshes)
    yield from dataset_checks(("modelnet40", {"split": "test"}), limit=4, files=resampled)
    yield from dataset_checks(("s3dis", {"split": "valid", "points": 16, "crops": 3}), limit=4, files=rooms)
    yield from dataset_checks(("s3dis", {"split": "train", "points": 16, "crops": 3}), limit=4, files=annotations)
    yield from dataset_checks(("shapenetpart", {"split": "train"}), limit=4, files=parts)
    if importlib.util.find_spec("h5py"):
        yield from dataset_checks(("scanobjectnn", {}), limit=4, files=scans)
    if importlib.util.find_spec("matplotlib"):
        yield from dataset_checks(("terrain", {"split": "valid", "samples": 32}), limit=4)
    if importlib.util.find_spec("skimage"):
        yield from dataset_checks(("motorcycle_scene", {"split": "valid", "samples": 32}), limit=4)
