"""One cloud → tensors: reading, checking, sampling, augmenting, centring, scaling.

Source: the augmentation is PointNeXt's (arXiv 2206.04670).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float64

from metaformer.base import Preprocess
from metaformer.errors import DataError
from metaformer.types import Raw
from metaformer_plugin_pointcloud.augment import Augment
from metaformer_plugin_pointcloud.cloud import WIDTHS, PointSet, from_columns, shade
from metaformer_plugin_pointcloud.read import Limits, read_cloud

Feature = Literal["color", "normal", "intensity", "height", "xyz"]
AXES = {"x": 0, "y": 1, "z": 2}
LARGEST = 1e30
"""What lies beyond is damage or a code for "missing"."""
FAR = 1e6
"""Coordinates beyond would have no fraction worth the name in float32."""


def feature_width(features: tuple[Feature, ...]) -> int:
    """Columns of the feature tensor."""
    return sum({**WIDTHS, "height": 1, "xyz": 3}[name] for name in features)


@dataclass(frozen=True)
class Shape:
    """How clouds are brought to one form."""

    num_points: int
    keep_all: bool
    """Order and number stay (a dense prediction is made for them); more than `num_points` is an error."""
    sampling: Literal["random", "fps", "first"]
    center: Literal["centroid", "base", "none"]
    scale: Literal["unit_sphere", "none"]
    up: Literal["x", "y", "z"]
    start: Literal["first", "centroid"]


class CloudPreprocess(Preprocess):
    """Array [N, 3 + ...], a dictionary {points [N, 3], color, normal, intensity}, or a file of a cloud or a mesh →
    {points: float32 [n, 3], features: float32 [n, F], mask: bool [n], start: int64 []}, n <= num_points.

    Points with a coordinate that is NaN are left out, unless their number has to stay."""

    reads_files: ClassVar[bool] = True

    def __init__(
        self,
        shape: Shape,
        features: tuple[Feature, ...],
        columns: tuple[str, ...],
        color_max: float,
        limits: Limits,
        augment: Augment,
    ) -> None:
        self.shape, self.features, self.color_max = shape, features, color_max
        self.stored = tuple(name for name in features if name in ("color", "normal", "intensity"))
        self.columns = columns or self.stored
        self.limits, self.augment = limits, augment
        self.up = AXES[shape.up]

    def __call__(self, value: Any, train: bool) -> Raw:
        subject = f"a point cloud of {value}" if isinstance(value, Path) else "a point cloud"
        cloud = self._checked(self._read(value, train), subject)
        if not self.shape.keep_all:
            cloud = self._sampled(cloud, train)
        points = self._placed(cloud.points)
        dropped = False
        if train:
            points, dropped = self.augment(points, cloud.channels, self.up)
        if np.abs(points).max() > FAR:
            raise DataError(
                f"{subject} with coordinates up to {FAR:g}",
                f"{np.abs(points).max():g}",
                "set `center: centroid`, or bring it nearer to the origin",
            )
        return {
            "points": torch.from_numpy(points).float(),
            "features": torch.from_numpy(self._features(points, cloud, dropped)).float(),
            "mask": torch.ones(len(points), dtype=torch.bool),
            "start": torch.tensor(self._start(points)),
        }

    def _read(self, value: Any, train: bool) -> PointSet:
        if isinstance(value, Path):
            # Surfaces are sampled: anew each time in training, always alike otherwise.
            seed = int(np.random.randint(2**31)) if train else 0
            return read_cloud(value, self.limits, self.columns, self.color_max, seed)
        if isinstance(value, Mapping):
            return self._from_mapping(value)
        return from_columns(_array(value, "a point cloud"), self.columns, self.color_max, "a point cloud")

    def _from_mapping(self, value: Mapping[str, Any]) -> PointSet:
        if "points" not in value:
            raise DataError("a point cloud with `points`", f"keys {sorted(map(str, value))}", "give {points: [N, 3]}")
        found = from_columns(_array(value["points"], "points"), (), 1.0, "points")
        for name in self.stored:
            if value.get(name) is None:
                continue
            part = _array(value[name], name)
            part = part[:, None] if part.ndim == 1 else part
            if part.shape != (len(found), WIDTHS[name]):
                wanted = f"`{name}` of shape [{len(found)}, {WIDTHS[name]}]"
                raise DataError(wanted, f"shape {list(part.shape)}", "give one row per point")
            found.channels[name] = (
                part.astype(np.float64) if name == "normal" else shade(part, self.color_max, f"`{name}`")
            )
        return found

    def _checked(self, cloud: PointSet, subject: str) -> PointSet:
        absent = [name for name in self.stored if name not in cloud.channels]
        if absent:
            there = ", ".join(cloud.channels) or "none"
            raise DataError(f"{subject} with {', '.join(absent)}", f"{there}", "leave it out of `features`")
        cloud = PointSet(cloud.points, {name: cloud.channels[name] for name in self.stored})
        if len(cloud) > self.limits.points:
            raise DataError(f"{subject} of at most {self.limits.points} points", str(len(cloud)), "raise `max_points`")
        if np.isnan(cloud.points).any() and not self.shape.keep_all:
            cloud = cloud.pick(~np.isnan(cloud.points).any(axis=1))
        if not len(cloud):
            raise DataError(f"{subject} with points in it", "none", "leave the value out (a missing stream)")
        if self.shape.keep_all and len(cloud) > self.shape.num_points:
            raise DataError(
                f"{subject} of at most {self.shape.num_points} points, as each gets a prediction",
                str(len(cloud)),
                "raise `num_points`, or cut it into blocks",
            )
        for name, part in {"points": cloud.points, **cloud.channels}.items():
            odd = part[~(np.abs(part) <= LARGEST)]
            if odd.size:
                raise DataError(f"{subject} with {name} that are numbers up to {LARGEST:g}", f"{odd[0]:g}", "repair it")
        return cloud

    def _sampled(self, cloud: PointSet, train: bool) -> PointSet:
        most = self.shape.num_points
        if len(cloud) <= most:
            # In training the order is drawn too: where sampling of centres begins is an augmentation.
            return cloud.pick(np.random.permutation(len(cloud))) if train else cloud
        if self.shape.sampling == "first":
            return cloud.pick(slice(most))
        if self.shape.sampling == "fps":
            first = int(np.random.randint(len(cloud))) if train else 0
            return cloud.pick(farthest(cloud.points, most, first))
        order = (np.random if train else np.random.RandomState(0)).permutation(len(cloud))
        return cloud.pick(order[:most])

    def _placed(self, points: Float64[np.ndarray, "N 3"]) -> Float64[np.ndarray, "N 3"]:
        if self.shape.center != "none":
            middle = points.mean(axis=0)
            if self.shape.center == "base":
                middle[self.up] = points[:, self.up].min()
            points = points - middle
        if self.shape.scale == "unit_sphere":
            radius = np.linalg.norm(points, axis=1).max()
            points = points / (radius if radius > 0 else 1.0)
        return points

    def _features(self, points: Float64[np.ndarray, "N 3"], cloud: PointSet, dropped: bool) -> np.ndarray:
        columns = [np.zeros((len(points), 0))]
        for name in self.features:
            if name == "xyz":
                columns.append(points)
            elif name == "height":
                columns.append(points[:, [self.up]] - points[:, self.up].min())
            elif name == "normal":
                columns.append(cloud.channels[name])
            else:  # from -1 to 1; 0 where it was dropped
                columns.append(np.zeros_like(cloud.channels[name]) if dropped else 2 * cloud.channels[name] - 1)
        return np.concatenate(columns, axis=1)

    def _start(self, points: Float64[np.ndarray, "N 3"]) -> int:
        if self.shape.start == "first":
            return 0
        return int(((points - points.mean(axis=0)) ** 2).sum(axis=1).argmin())

    def blank(self) -> Raw:
        """One place that holds no point, so that it counts in no statistic; its class token stays."""
        return {**self._zeros(1), "mask": torch.zeros(1, dtype=torch.bool)}

    def example(self) -> Raw:
        return self._zeros(self.shape.num_points)

    def _zeros(self, count: int) -> Raw:
        return {
            "points": torch.zeros(count, 3),
            "features": torch.zeros(count, feature_width(self.features)),
            "mask": torch.ones(count, dtype=torch.bool),
            "start": torch.tensor(0),
        }


def farthest(points: Float64[np.ndarray, "N 3"], count: int, first: int) -> np.ndarray:
    """Farthest point sampling of one cloud of more than `count` points, as in `neighbours.farthest_points`."""
    far = np.full(len(points), np.inf)
    order = np.zeros(count, dtype=np.int64)
    for i in range(count):
        order[i] = first
        far = np.minimum(far, ((points - points[first]) ** 2).sum(axis=1))
        far[first] = -1.0
        first = int(far.argmax())
    return order


def _array(value: Any, subject: str) -> np.ndarray:
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().numpy()
    if isinstance(value, (list, tuple)):
        try:
            value = np.array(value, dtype=np.float64)
        except (ValueError, TypeError, OverflowError) as error:
            raise DataError(f"{subject} of numbers", str(error)[:200], "give every point as many numbers") from error
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "biuf":
        kind = f"an array of {value.dtype}" if isinstance(value, np.ndarray) else f"{value!r:.60}"
        raise DataError(subject, kind, "give an array [N, 3 + ...], {points: [N, 3], ...}, or a file's name")
    return value
