"""Point cloud tokenizer: every token is a group of neighbouring points.

Source: Meta-Transformer (arXiv 2307.10802), point cloud branch, after Pix4Point (arXiv 2208.12259); dense places read
from three centres by inverse distance, as in PointNet++ (arXiv 1706.02413), section 3.4.
Ours differs: `embed.py` says where the stems do; nothing here draws encoder weights anew (the released code does, so
that its frozen encoder is a random one: the control `random` is that run).
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from metaformer.base import Tokenizer
from metaformer.errors import MetaformerError
from metaformer.types import Dense, Raw, TokenBatch
from metaformer_plugin_pointcloud.augment import Augment
from metaformer_plugin_pointcloud.embed import Cloud, Norm, PatchStem, ProgressiveStem, Relative
from metaformer_plugin_pointcloud.neighbours import nearest, take
from metaformer_plugin_pointcloud.preprocess import CloudPreprocess, Feature, Shape, feature_width
from metaformer_plugin_pointcloud.read import Limits

Share = Annotated[float, Field(ge=0, le=1)]
Factor = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(gt=0)]


class PointCloudTokenizer(Tokenizer):
    """{points [B N 3], features [B N F], mask [B N], start [B]} → tokens [B T D]: a class token, and one per group.

    Groups have a centre, found by farthest point sampling, and its `neighbours` nearest points. A cloud of fewer
    points than groups has a group per point. Positions [B T D] are a small net's of the centres."""

    preprocess: CloudPreprocess
    class_token: Float[Tensor, "1 D"] | None
    class_position: Float[Tensor, "1 D"] | None

    def __init__(
        self,
        dim: int,
        *,
        num_points: Count = 1024,
        num_groups: Count | None = None,
        ratio: Annotated[float, Field(gt=0, le=1)] = 0.25,
        neighbours: Count = 32,
        stem: Literal["patch", "progressive"] = "patch",
        widths: tuple[Count, Count, Count] = (128, 256, 512),
        norm: Norm = "batch",
        features: tuple[Feature, ...] = (),
        relative: Relative | None = None,
        sampling: Literal["random", "fps", "first"] = "random",
        start: Literal["first", "centroid"] = "first",
        center: Literal["centroid", "base", "none"] = "centroid",
        scale: Literal["unit_sphere", "none"] = "unit_sphere",
        up: Literal["x", "y", "z"] = "z",
        columns: tuple[Literal["color", "normal", "intensity", "skip"], ...] = (),
        color_max: Factor = 1.0,
        meshes: Literal["surface", "vertices"] = "surface",
        surface_points: Count = 10_000,
        max_points: Count = 2_000_000,
        rotate: Annotated[float, Field(ge=0, le=180)] = 0.0,
        zoom: tuple[Factor, Factor] = (1.0, 1.0),
        zoom_axes: Literal["together", "each"] = "together",
        shift: Annotated[float, Field(ge=0)] = 0.0,
        jitter: Annotated[float, Field(ge=0)] = 0.0,
        drop_color: Share = 0.0,
        class_token: bool = True,
        dense: bool = False,
        detail_dim: Annotated[int, Field(ge=0)] = 0,
    ) -> None:
        super().__init__()
        relative = relative or ("dp_df" if stem == "progressive" else "dp_fj" if features else "dp")
        _check(features, relative, stem, num_groups, ratio, zoom, dense, detail_dim)
        shape = Shape(num_points, dense, sampling, center, scale, up, start)
        limits = Limits(max_points, surface_points if meshes == "surface" else None)
        augment = Augment(rotate, tuple(zoom), zoom_axes == "each", shift, jitter, drop_color)
        self.preprocess = CloudPreprocess(shape, tuple(features), tuple(columns), color_max, limits, augment)
        self.dense = dense
        self.num_prefix = int(class_token)
        channels = feature_width(tuple(features))
        if stem == "patch":
            self.stem: PatchStem | ProgressiveStem = PatchStem(
                channels,
                dim,
                widths=tuple(widths),
                num_groups=num_groups,
                ratio=ratio,
                neighbours=neighbours,
                relative=relative,
                norm=norm,
            )
        else:
            self.stem = ProgressiveStem(
                channels, dim, stages=_stages(ratio), neighbours=neighbours, relative=relative, norm=norm
            )
        self.position = nn.Sequential(nn.Linear(3, 128), nn.GELU(), nn.Linear(128, dim))
        for name in ("class_token", "class_position"):
            self.register_parameter(name, nn.Parameter(torch.randn(1, dim) * 0.02) if class_token else None)
        # What a place has of its own, beside what its centres know: where it is from the nearest one, and features.
        self.detail = (
            nn.Sequential(nn.Linear(6 + channels, detail_dim), nn.GELU(), nn.Linear(detail_dim, detail_dim))
            if detail_dim
            else None
        )
        self.num_contents = 9

    def forward(self, raw: Raw) -> TokenBatch:
        cloud = _cloud(raw)
        x, centres = self.stem(cloud)
        positions = self.position(centres.points.to(self.position[0].weight.dtype)).to(x.dtype)
        mask = centres.mask
        x = x + positions
        if self.class_token is not None and self.class_position is not None:
            first = self.class_position.expand(len(x), 1, -1).to(x.dtype)
            positions = torch.cat([first, positions], dim=1)
            x = torch.cat([self.class_token.to(x.dtype) + first, x], dim=1)
            mask = F.pad(mask, (1, 0), value=True)
        grid = (x.shape[1] - self.num_prefix,)
        tokens = TokenBatch(x, mask, self.modality, grid=grid, num_prefix=self.num_prefix, positions=positions)
        return tokens._replace(dense=self._dense(cloud, centres)) if self.dense else tokens

    def _dense(self, cloud: Cloud, centres: Cloud) -> Dense:
        """Each point reads the three nearest centres, by inverse distance; as many as there are of fewer."""
        index, found, square = nearest(cloud.points, centres.points, centres.mask, 3)
        # 1e-8 as in PointNet++: a point on a centre reads that one alone.
        near = torch.where(found, 1 / (square + 1e-8), 0.0)
        weight = near / near.sum(dim=-1, keepdim=True).clamp(min=1e-12)
        detail = None
        if self.detail is not None:
            offset = cloud.points - take(centres.points, index[..., 0])
            own = torch.cat([cloud.points, offset, cloud.features], dim=-1)
            detail = self.detail(own.to(self.detail[0].weight.dtype))
        return Dense(index, weight, cloud.mask, detail)

    @torch.no_grad()
    def contents(self, raw: Raw) -> Float[Tensor, "B P E"]:
        """What each group is made of, in whatever order its points come: the mean of their offsets [3] and the six
        entries of the offsets' second moments, in units of the cloud's mean group size; zero where masked.

        Offsets are of the last stage's neighbours."""
        groups = self.stem.groups(_cloud(raw))
        there = groups.found.unsqueeze(-1)
        count = there.sum(dim=2).clamp(min=1)
        square = (groups.offsets.square().sum(-1, keepdim=True) * there).sum((1, 2)) / there.sum((1, 2)).clamp(min=1)
        unit = square.sqrt().clamp(min=1e-6)[:, None, None]
        offsets = groups.offsets / unit * there
        mean = offsets.sum(dim=2) / count
        i, j = torch.triu_indices(3, 3, device=offsets.device)
        moments = (offsets[..., i] * offsets[..., j]).sum(dim=2) / count
        return torch.cat([mean, moments], dim=-1)

    def describe(self) -> str:
        most = self.preprocess.shape.num_points
        what = "".join(f", {name}" for name in self.preprocess.features)
        return (
            f"pointcloud: at most {most} points{what} in {self.stem.count(most)} groups of {self.stem.k},"
            f" {'patch' if isinstance(self.stem, PatchStem) else f'{len(self.stem.nets)} stages'}"
            f"{', a prediction per point' if self.dense else ''}"
        )


def _cloud(raw: Raw) -> Cloud:
    return Cloud(raw["points"].float(), raw["mask"], raw["features"].float(), raw["start"])


def _stages(ratio: float) -> int:
    """How often a quarter is kept."""
    return round(math.log(1 / ratio, 4))


def _check(
    features: tuple[Feature, ...],
    relative: Relative,
    stem: str,
    num_groups: int | None,
    ratio: float,
    zoom: tuple[float, float],
    dense: bool,
    detail_dim: int,
) -> None:
    """Raises MetaformerError for knobs that contradict each other."""
    if relative == "dp" and features:
        raise MetaformerError(f"features {', '.join(features)}", "relative: dp reads none", "set it to dp_df or dp_fj")
    if relative != "dp" and not features and stem == "patch":
        raise MetaformerError(f"relative: {relative}", "no features", "name some in `features`, or leave it out")
    if stem == "progressive":
        if relative == "dp" and ratio < 0.25:
            raise MetaformerError(
                "stem: progressive with relative: dp", "later stages would not read the earlier ones", "set dp_df"
            )
        if num_groups is not None:
            raise MetaformerError("stem: progressive", "num_groups", "it keeps a quarter per stage: set `ratio`")
        if not math.isclose(ratio, 0.25 ** max(_stages(ratio), 1)):
            raise MetaformerError("stem: progressive", f"ratio {ratio:g}", "set it to 0.25, 0.0625, 0.015625 ...")
    if zoom[0] > zoom[1]:
        raise MetaformerError("zoom: [smallest, largest]", f"{list(zoom)}", "turn them around")
    if detail_dim and not dense:
        raise MetaformerError(f"detail_dim: {detail_dim}", "dense: false", "set dense: true, or leave it out")
