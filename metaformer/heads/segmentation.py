"""A class for every place: points of a cloud, pixels of a picture.

Source: feature propagation of PointNet++ (arXiv 1706.02413) for points; a linear decoder, then bilinear upsampling, as
in Segmenter (arXiv 2105.05633), for pixels.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from metaformer.base import Head
from metaformer.errors import MetaformerError
from metaformer.layers.init import init_transformer
from metaformer.types import Dense, TokenBatch

Size = Annotated[int, Field(gt=0)]


class SegmentationHead(Head):
    """TokenBatch [B T D] → logits [B N C].

    N places: those of `tokens.dense` where the tokenizer gives them; else the H·W pixels of `image_size`, row by row,
    read from the grid of patches. `detail_dim` is the width of what the tokenizer knows of each place alone.
    """

    predicts: ClassVar[Literal["classes"]] = "classes"

    def __init__(
        self,
        dim: int,
        *,
        num_classes: Annotated[int, Field(gt=0)],
        hidden: Size = 128,
        image_size: tuple[Size, Size] | None = None,
        detail_dim: Annotated[int, Field(ge=0)] = 0,
        drop: Annotated[float, Field(ge=0, lt=1)] = 0.0,
    ) -> None:
        super().__init__()
        self.size, self.image_size, self.detail_dim = num_classes, image_size, detail_dim
        self.norm = nn.LayerNorm(dim)
        self.project = nn.Linear(dim, hidden)
        self.detail = nn.Linear(detail_dim, hidden) if detail_dim else None
        self.drop = nn.Dropout(drop)
        self.linear = nn.Linear(hidden, num_classes)
        init_transformer(self)

    def forward(self, tokens: TokenBatch) -> Float[Tensor, "B N C"]:
        x = self.project(self.norm(tokens.x[:, tokens.num_prefix :]))
        places = self._spread(x, tokens.dense) if tokens.dense is not None else self._upsample(x, tokens.grid)
        return self.linear(self.drop(F.gelu(places)))

    def _spread(self, x: Float[Tensor, "B T E"], dense: Dense) -> Float[Tensor, "B N E"]:
        if (0 if dense.detail is None else dense.detail.shape[2]) != self.detail_dim:
            width = "none" if dense.detail is None else str(dense.detail.shape[2])
            raise MetaformerError(
                f"head segmentation with detail_dim {self.detail_dim}", f"details of width {width}", "make them equal"
            )
        b, n, k = dense.source.shape
        index = dense.source.reshape(b, n * k, 1).expand(-1, -1, x.shape[2])
        near = x.gather(1, index).view(b, n, k, -1)
        out = (near * dense.weight.unsqueeze(-1).to(x.dtype)).sum(dim=2)
        if self.detail is not None and dense.detail is not None:
            out = out + self.detail(dense.detail.to(x.dtype))
        return torch.where(dense.mask.unsqueeze(-1), out, out.new_zeros(()))

    def _upsample(self, x: Float[Tensor, "B T E"], grid: tuple[int, ...] | None) -> Float[Tensor, "B N E"]:
        if self.image_size is None:
            return x
        if grid is None or len(grid) != 2:
            raise MetaformerError("head segmentation with image_size", f"tokens on the grid {grid}", "leave it out")
        plane = x.mT.reshape(x.shape[0], x.shape[2], *grid)
        return F.interpolate(plane, size=self.image_size, mode="bilinear", align_corners=False).flatten(2).mT
