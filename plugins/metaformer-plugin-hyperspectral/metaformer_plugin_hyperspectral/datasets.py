"""Labelled pixels of a hyperspectral scene, each with its neighbourhood.

Source: SpectralFormer (arXiv 2107.02988) for neighbourhoods mirrored at the scene's edges, and for the published split
of Indian Pines.
Ours differs: the split by place, in which no pixel is seen in training and in validation.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from jaxtyping import Int64
from pydantic import Field

from metaformer.base import Dataset
from metaformer.errors import DataError, MetaformerError
from metaformer.files.package import package_data
from metaformer.types import Sample
from metaformer_plugin_hyperspectral.cube import LARGEST, read_labels
from metaformer_plugin_hyperspectral.scene import Scene
from metaformer_plugin_hyperspectral.split import at_random, checkerboard, few

PatchSize = Annotated[int, Field(gt=0, le=255)]
CLASSES = (
    *("alfalfa", "corn-notill", "corn-mintill", "corn", "grass-pasture", "grass-trees", "grass-pasture-mowed"),
    *("hay-windrowed", "oats", "soybean-notill", "soybean-mintill", "soybean-clean", "wheat", "woods"),
    *("buildings-grass-trees-drives", "stone-steel-towers"),
)
"""Of Indian Pines, 1 to 16 in the map that is published with the scene."""
OFFICIAL_TEST = {
    "corn-notill": 1384,
    "corn-mintill": 784,
    "corn": 184,
    "grass-pasture": 447,
    "grass-trees": 697,
    "hay-windrowed": 439,
    "soybean-notill": 918,
    "soybean-mintill": 2418,
    "soybean-clean": 564,
    "wheat": 162,
    "woods": 1244,
    "buildings-grass-trees-drives": 330,
    "stone-steel-towers": 45,
    "alfalfa": 39,
    "grass-pasture-mowed": 11,
    "oats": 5,
}
"""Classes in the order of SpectralFormer's table of Indian Pines, with their numbers of test pixels."""


class Pixels(Dataset):
    """{`stream`: float32 [patch_size, patch_size, bands] around a labelled pixel, `target`: class name}."""

    def __init__(
        self,
        scene: Scene,
        labels: Int64[np.ndarray, "R C"],
        names: tuple[str, ...],
        patch_size: int,
        stream: str,
        target: str,
        per_class: int | None = None,
        seed: int = 0,
    ) -> None:
        """`labels` are 0 outside of this split."""
        if patch_size % 2 == 0:
            raise MetaformerError("a neighbourhood around a pixel", f"patch_size {patch_size}", "give an odd number")
        if labels.max(initial=0) > len(names):
            raise DataError(f"labels up to {len(names)}", f"label {labels.max()}", "give one class name per label")
        self.scene, self.patch_size, self.stream, self.target = scene, patch_size, stream, target
        places = np.argwhere(labels > 0)
        if per_class is not None:
            places = few(places, labels[labels > 0], per_class, seed)
        self.places: Int64[np.ndarray, "N 2"] = places
        self.labels: Int64[np.ndarray, " N"] = labels[places[:, 0], places[:, 1]] - 1
        if not len(places):
            raise DataError(f"labelled pixels of {scene.path}", "none in this split", "choose another split rule")
        self.names = names
        self.classes = {target: names}

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> Sample:
        row, column = self.places[index]
        patch = self.scene.around(int(row), int(column), self.patch_size)
        return {self.stream: patch, self.target: self.names[self.labels[index]]}

    def sample_id(self, index: int) -> str:
        row, column = self.places[index]
        return f"{self.scene.path.name}:{row},{column}"

    def fingerprint(self) -> str:
        chosen = hashlib.sha256(np.concatenate([self.places, self.labels[:, None]], axis=1).tobytes())
        return f"{self.scene.path.name}:{self.scene.digest()}:{chosen.hexdigest()}:{self.patch_size}"


class SceneDataset(Pixels):
    """{`stream`: float32 [patch_size, patch_size, bands] around a labelled pixel, `target`: class name}.

    `cube` is a .mat, .hdr (ENVI), .tif or .npy file of [rows, columns, bands], `labels` one of [rows, columns] with
    classes from 1, and 0 for pixels without. ENVI scenes are mapped; others are read with the first sample.

    `rule` says which labelled pixels are whose. `blocks`: squares of `block` pixels, in turn for training and
    validation, without pixels whose neighbourhood reaches over an edge (or that are within `gap` of one): no pixel is
    in a training and in a validation sample. Both entries of a recipe must name the same block, gap and patch_size.
    `random`: `train_share` of every class. Neighbouring pixels are nearly equal, and with a patch_size above 1 they
    share most of their neighbourhood: such scores are far too good for any other place. `all`: every labelled pixel,
    where training and validation have maps of their own. `per_class`: at most that many training pixels of a class.
    """

    def __init__(
        self,
        *,
        cube: Path,
        labels: Path,
        split: Literal["train", "valid"],
        patch_size: PatchSize = 1,
        rule: Literal["blocks", "random", "all"] = "blocks",
        block: Annotated[int, Field(gt=0)] = 10,
        gap: Annotated[int, Field(ge=0)] = 0,
        train_share: Annotated[float, Field(gt=0, lt=1)] = 0.1,
        per_class: Annotated[int, Field(gt=0)] | None = None,
        seed: int = 0,
        class_names: tuple[str, ...] = (),
        cube_variable: str = "",
        labels_variable: str = "",
        max_values: Annotated[int, Field(gt=0)] = LARGEST,
        stream: str = "spectrum",
        target: str = "label",
    ) -> None:
        every = read_labels(labels, labels_variable, max_values)
        if rule == "blocks":
            train, valid = checkerboard(every.shape, block, patch_size // 2, gap)
        elif rule == "random":
            train, valid = at_random(every, train_share, seed)
        else:
            train = valid = every > 0
        names = class_names or tuple(str(label) for label in range(1, int(every.max()) + 1))
        own = np.where(train if split == "train" else valid, every, 0)
        scene = Scene(cube, cube_variable, max_values, every.shape)
        limit = per_class if split == "train" else None
        super().__init__(scene, own, names, patch_size, stream, target, limit, seed)


class IndianPines(Pixels):
    """The Indian Pines scene as shipped by tensorly (which is not imported): 145 x 145 pixels, 200 AVIRIS bands, 16
    classes of crops and land, 10249 labelled pixels, of which the split by place leaves out some.

    Package: tensorly, BSD-3-Clause. Data: CC-BY 3.0; cite M. F. Baumgardner, L. L. Biehl, D. A. Landgrebe (2015), 220
    Band AVIRIS Hyperspectral Image Data Set: June 12, 1992 Indian Pine Test Site 3, doi:10.4231/R7RX991C. The version
    with 200 bands leaves out those that water vapour absorbs.
    Split: squares of `block` pixels as in `hyperspectral_scene`. It is not the split of published results (see
    `indian_pines_official`), in which training and test pixels lie side by side; small classes may be all on one
    side: with block 10, oats is not in validation once a pixel at the edges is left out.
    """

    def __init__(
        self,
        *,
        split: Literal["train", "valid"],
        patch_size: PatchSize = 1,
        block: Annotated[int, Field(gt=0)] = 10,
        gap: Annotated[int, Field(ge=0)] = 0,
        stream: str = "spectrum",
        target: str = "label",
    ) -> None:
        folder = tensorly_folder()
        every = read_labels(folder / "Indian_pines_gt.npy")
        train, valid = checkerboard(every.shape, block, patch_size // 2, gap)
        own = np.where(train if split == "train" else valid, every, 0)
        scene = Scene(folder / "Indian_pines_corrected.npy", "", LARGEST, every.shape)
        super().__init__(scene, own, CLASSES, patch_size, stream, target)


class IndianPinesOfficial(Pixels):
    """Indian Pines with SpectralFormer's pixels for training (695) and testing (9671), as Meta-Transformer used it.

    `path` is the IndianPine.mat of SpectralFormer's code repository: `input` [rows, columns, bands], and the maps `TR`
    and `TE` of classes from 1. No pixel has a label in both, but they lie side by side, so that neighbourhoods
    (patch_size above 1) share pixels. Classes have names where the numbers of test pixels are those of the paper's
    table, and are called by number otherwise.
    """

    def __init__(
        self,
        *,
        path: Path,
        split: Literal["train", "valid"],
        patch_size: PatchSize = 1,
        max_values: Annotated[int, Field(gt=0)] = LARGEST,
        stream: str = "spectrum",
        target: str = "label",
    ) -> None:
        if not path.is_file():
            raise DataError(
                f"SpectralFormer's Indian Pines, {path}",
                "no such file",
                "get IndianPine.mat from the data of the SpectralFormer code repository",
            )
        train, test = (read_labels(path, name, max_values) for name in ("TR", "TE"))
        if train.shape != test.shape or ((train > 0) & (test > 0)).any():
            raise DataError(
                f"maps TR and TE in {path} that share no pixel",
                f"shapes {list(train.shape)} and {list(test.shape)}"
                if train.shape != test.shape
                else f"{((train > 0) & (test > 0)).sum()} pixels in both",
                "get the file again",
            )
        counts = np.bincount(test.ravel())[1:].tolist()
        known = counts == list(OFFICIAL_TEST.values())
        most = max(int(train.max()), int(test.max()))
        names = tuple(OFFICIAL_TEST) if known else tuple(str(label) for label in range(1, most + 1))
        scene = Scene(path, "input", max_values, train.shape)
        super().__init__(scene, train if split == "train" else test, names, patch_size, stream, target)


def tensorly_folder() -> Path:
    """Where the package keeps its data; found without importing it."""
    what = "the Indian Pines scene out of the tensorly package"
    return package_data(
        "tensorly",
        "datasets/data",
        what,
        "pip install 'metaformer-plugin-hyperspectral[samples]'",
        ["Indian_pines_gt.npy"],
    )
