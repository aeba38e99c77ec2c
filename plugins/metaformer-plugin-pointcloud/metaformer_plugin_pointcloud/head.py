"""The head of published point cloud classifiers: several ways to pool, side by side, and a small net.

Source: Meta-Transformer's released settings for ModelNet-40, after PointNeXt (arXiv 2206.04670): class token, maximum
and mean, then 256 and 256 with batch norm, ReLU and dropout of a half.
Ours differs: samples that lack the stream count in no batch statistic.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from metaformer.base import Head, masked_mean
from metaformer.errors import MetaformerError
from metaformer.types import TokenBatch
from metaformer_plugin_pointcloud.norm import MaskedBatchNorm


class CloudClassificationHead(Head):
    """TokenBatch [B T D] → logits [B C]. `max` and `mean` are over the tokens after the prefix."""

    predicts: ClassVar[Literal["class"]] = "class"

    def __init__(
        self,
        dim: int,
        *,
        num_classes: Annotated[int, Field(gt=0)],
        pools: tuple[Literal["cls", "max", "mean"], ...] = ("cls", "max", "mean"),
        hidden: tuple[Annotated[int, Field(gt=0)], ...] = (256, 256),
        drop: Annotated[float, Field(ge=0, lt=1)] = 0.5,
    ) -> None:
        super().__init__()
        if not pools or len(set(pools)) != len(pools):
            raise MetaformerError("pools of a head", f"{list(pools)}", "name one or several of cls, max, mean")
        self.size, self.pools, self.drop = num_classes, tuple(pools), drop
        widths = [dim * len(pools), *hidden]
        self.layers = nn.ModuleList(nn.Linear(a, b, bias=False) for a, b in pairwise(widths))
        self.norms = nn.ModuleList(MaskedBatchNorm(width) for width in hidden)
        self.linear = nn.Linear(widths[-1], num_classes)

    def forward(self, tokens: TokenBatch) -> Float[Tensor, "B C"]:
        there = tokens.present
        x = torch.cat([self._pool(tokens, pool) for pool in self.pools], dim=1)
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = F.dropout(F.relu(norm(layer(x), there)), self.drop, self.training)
        return self.linear(x)

    def _pool(self, tokens: TokenBatch, pool: str) -> Float[Tensor, "B D"]:
        n = tokens.num_prefix
        if pool == "cls":
            return tokens.x[:, 0]
        x, mask = tokens.x[:, n:], tokens.mask[:, n:]
        if x.shape[1] == 0:
            return torch.zeros_like(tokens.x[:, 0])
        if pool == "mean":
            return masked_mean(x, mask)
        top = x.masked_fill(~mask.unsqueeze(-1), torch.finfo(x.dtype).min).amax(dim=1)
        return top.masked_fill(~mask.any(dim=1, keepdim=True), 0.0)
