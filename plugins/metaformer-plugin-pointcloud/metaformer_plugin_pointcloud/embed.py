"""Groups of neighbouring points → one vector each, at once or in stages.

Source: Meta-Transformer (arXiv 2307.10802), point cloud branch: `PatchStem` is its PointPatchEmbed (ModelNet-40),
`ProgressiveStem` its P3Embed (ScanObjectNN, S3DIS, ShapeNetPart); both come from Pix4Point (arXiv 2208.12259).
Ours differs: a 1x1 convolution is a linear layer; the layer that reads a group's maximum beside each of its points is
two layers that are added, which is the same map; clouds of a batch may have different sizes.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from metaformer_plugin_pointcloud.neighbours import farthest_points, nearest, take
from metaformer_plugin_pointcloud.norm import MaskedBatchNorm

Norm = Literal["batch", "layer"]
Relative = Literal["dp", "dp_df", "dp_fj"]
"""What a group's net reads of a neighbour: its offset from the centre; with its features, minus the centre's
(`dp_df`) or as they are (`dp_fj`)."""


class Cloud(NamedTuple):
    """Points of a batch, where they are and what is known of them."""

    points: Float[Tensor, "B N 3"]
    mask: Bool[Tensor, "B N"]
    features: Float[Tensor, "B N F"]
    start: Int[Tensor, " B"]
    """Index of the point where sampling begins."""


class Groups(NamedTuple):
    """Centres out of a cloud, and each one's neighbours in it."""

    centres: Int[Tensor, "B G"]
    mask: Bool[Tensor, "B G"]
    neighbours: Int[Tensor, "B G K"]
    found: Bool[Tensor, "B G K"]
    """False where a cloud has fewer than K points; such a place repeats the nearest."""
    offsets: Float[Tensor, "B G K 3"]
    """Neighbour minus centre."""


def group(cloud: Cloud, counts: Int[Tensor, " B"], most: int, k: int) -> Groups:
    """`counts` centres of each cloud (at most `most`) by farthest point sampling, each with `k` neighbours."""
    centres = farthest_points(cloud.points, cloud.mask, most, cloud.start)
    mask = torch.arange(most, device=counts.device) < counts[:, None]
    places = take(cloud.points, centres)
    neighbours, found, _ = nearest(places, cloud.points, cloud.mask, k)
    offsets = take(cloud.points, neighbours) - places.unsqueeze(2)
    return Groups(centres, mask, neighbours, found & mask.unsqueeze(-1), offsets)


class PointNet(nn.Module):
    """[B G K C] → [B G D]: linear layers on every neighbour, a maximum over the group in the middle and at the end.

    C → a → b, maximum beside → c → D, for `widths` (a, b, c). `last_norm`: norm and ReLU after the last layer.
    """

    def __init__(self, channels: int, widths: tuple[int, int, int], dim: int, norm: Norm, last_norm: bool) -> None:
        super().__init__()
        a, b, c = widths
        # A bias in front of a batch norm would have no effect. Layer norm needs it: without, it would take a group's
        # size away.
        bias = norm == "layer"
        self.first = nn.Linear(channels, a, bias=bias)
        self.first_norm = _norm(norm, a)
        self.second = nn.Linear(a, b)
        self.third = nn.Linear(b, c, bias=bias)
        self.third_of_max = nn.Linear(b, c, bias=False)
        self.third_norm = _norm(norm, c)
        self.last = nn.Linear(c, dim, bias=bias or not last_norm)
        self.last_norm = _norm(norm, dim) if last_norm else None

    def forward(self, x: Float[Tensor, "B G K C"], found: Bool[Tensor, "B G K"]) -> Float[Tensor, "B G D"]:
        x = self.second(F.relu(_normalize(self.first_norm, self.first(x), found)))
        # Places without a neighbour repeat the nearest: no maximum changes by them.
        x = self.third(x) + self.third_of_max(x.amax(dim=2, keepdim=True))
        x = self.last(F.relu(_normalize(self.third_norm, x, found)))
        if self.last_norm is not None:
            x = F.relu(_normalize(self.last_norm, x, found))
        return x.amax(dim=2)


class PatchStem(nn.Module):
    """One grouping, and a net over it. `counts`: a share of the points, or a fixed number."""

    def __init__(
        self,
        channels: int,
        dim: int,
        *,
        widths: tuple[int, int, int],
        num_groups: int | None,
        ratio: float,
        neighbours: int,
        relative: Relative,
        norm: Norm,
    ) -> None:
        super().__init__()
        self.num_groups, self.ratio, self.k, self.relative = num_groups, ratio, neighbours, relative
        self.net = PointNet(_width(relative, channels), widths, dim, norm, last_norm=False)

    def forward(self, cloud: Cloud) -> tuple[Float[Tensor, "B G D"], Cloud]:
        """Vectors, and the centres as a cloud, features as they were."""
        groups = self.groups(cloud)
        x = self.net(_inputs(cloud, groups, self.relative, self.net.first.weight.dtype), groups.found)
        return x, _centres(cloud, groups, take(cloud.features, groups.centres))

    def groups(self, cloud: Cloud) -> Groups:
        """Without the net: indices are into `cloud`."""
        sizes = cloud.mask.sum(dim=1)
        most = self.count(cloud.mask.shape[1])
        counts = (
            sizes.clamp(max=most)
            if self.num_groups
            else (sizes.double() * self.ratio).long().clamp(min=1).minimum(sizes)
        )
        return group(cloud, counts, most, self.k)

    def count(self, points: int) -> int:
        """Groups of a cloud of so many points."""
        return min(self.num_groups, points) if self.num_groups else max(1, int(points * self.ratio))


class ProgressiveStem(nn.Module):
    """Stages that each keep a quarter of the points; the width doubles and ends at `dim`."""

    def __init__(
        self, channels: int, dim: int, *, stages: int, neighbours: int, relative: Relative, norm: Norm
    ) -> None:
        super().__init__()
        self.k, self.relative = neighbours, relative
        self.nets = nn.ModuleList()
        for stage in range(stages):
            width = dim // 2 ** (stages - 1 - stage)
            widths = (width, width, 2 * width)
            self.nets.append(PointNet(_width(relative, channels), widths, width, norm, last_norm=True))
            channels = width

    def forward(self, cloud: Cloud) -> tuple[Float[Tensor, "B G D"], Cloud]:
        """As `PatchStem`; the centres carry the vectors."""
        for net in self.nets:
            groups = self._stage(cloud)
            x = net(_inputs(cloud, groups, self.relative, net.first.weight.dtype), groups.found)
            cloud = _centres(cloud, groups, x)
        return x, cloud

    def groups(self, cloud: Cloud) -> Groups:
        """The last stage's, without the nets: indices are into the points of the stage before."""
        for _ in self.nets:
            groups = self._stage(cloud)
            cloud = _centres(cloud, groups, take(cloud.features, groups.centres))
        return groups

    def _stage(self, cloud: Cloud) -> Groups:
        sizes = cloud.mask.sum(dim=1)
        counts = (sizes // 4).clamp(min=1).minimum(sizes)
        return group(cloud, counts, self.quarter(cloud.mask.shape[1]), self.k)

    def quarter(self, points: int) -> int:
        return max(1, points // 4)

    def count(self, points: int) -> int:
        """Groups of a cloud of so many points."""
        for _ in self.nets:
            points = self.quarter(points)
        return points


def _width(relative: Relative, channels: int) -> int:
    return 3 if relative == "dp" else 3 + channels


def _inputs(cloud: Cloud, groups: Groups, relative: Relative, dtype: torch.dtype) -> Float[Tensor, "B G K C"]:
    if relative == "dp":
        return groups.offsets.to(dtype)
    features = take(cloud.features, groups.neighbours)
    if relative == "dp_df":
        features = features - take(cloud.features, groups.centres).unsqueeze(2)
    return torch.cat([groups.offsets.to(dtype), features.to(dtype)], dim=-1)


def _centres(cloud: Cloud, groups: Groups, features: Float[Tensor, "B G F"]) -> Cloud:
    # Sampling orders points by distance, and the next stage starts where this one did.
    return Cloud(take(cloud.points, groups.centres), groups.mask, features, torch.zeros_like(cloud.start))


def _norm(kind: Norm, channels: int) -> MaskedBatchNorm | nn.LayerNorm:
    return MaskedBatchNorm(channels) if kind == "batch" else nn.LayerNorm(channels)


def _normalize(norm: nn.Module, x: Float[Tensor, "B G K C"], found: Bool[Tensor, "B G K"]) -> Float[Tensor, "B G K C"]:
    return norm(x, found) if isinstance(norm, MaskedBatchNorm) else norm(x)
