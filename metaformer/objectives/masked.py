"""Masked prediction: what was in the patches that the encoder could not see?

Source: SimMIM (arXiv 2111.09886), with targets normalised per patch as in MAE (arXiv 2111.06377); the bottleneck as in
RetroMAE (arXiv 2205.12035).
Ours differs: for every modality whose tokenizer says what its tokens are made of, not only pictures.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import numpy as np
import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from metaformer.base import Objective
from metaformer.errors import MetaformerError
from metaformer.layers.init import init_transformer
from metaformer.types import Batch, TokenBatch

if TYPE_CHECKING:
    from metaformer.model import MetaFormer


class MaskedPatches(Objective):
    """A share of a stream's real patches is replaced by one learned vector, positions stay; a linear layer on the
    encoder's output guesses their contents. Loss: mean squared error over the hidden patches.

    `standardize` brings the contents of each patch to mean 0 and deviation 1 (patches of one number stay).
    `bottleneck` adds, times that weight, the error of a second guess, which knows only the class token's output and
    the place: without it nobody asks the class token for anything."""

    def __init__(
        self,
        widths: Mapping[str, int],
        contents: Mapping[str, int],
        *,
        stream: str,
        mask_ratio: Annotated[float, Field(gt=0, lt=1)] = 0.5,
        standardize: bool = False,
        bottleneck: Annotated[float, Field(ge=0)] = 0.0,
    ) -> None:
        super().__init__()
        if stream not in contents:
            raise MetaformerError(f"objective masked_patches of stream {stream!r}", f"streams: {', '.join(contents)}")
        if not contents[stream]:
            found = f"the tokenizer of {stream!r} does not say what its tokens are made of (num_contents 0)"
            raise MetaformerError("objective masked_patches", found, "choose another stream or objective")
        self.stream, self.mask_ratio = stream, mask_ratio
        self.standardize = standardize and contents[stream] > 1
        self.uses, self.targets = (stream,), {}
        self.hidden = nn.Parameter(torch.zeros(1, 1, widths[stream]))
        self.norm = nn.LayerNorm(widths[stream])
        self.guess = nn.Linear(widths[stream], contents[stream])
        self.bottleneck = bottleneck
        dim = widths[stream]
        self.unpack = (
            nn.Sequential(nn.Linear(2 * dim, dim), nn.GELU(), nn.Linear(dim, contents[stream])) if bottleneck else None
        )
        init_transformer(self)
        nn.init.trunc_normal_(self.hidden, std=0.02)

    def forward(self, model: MetaFormer, batch: Batch) -> dict[str, Tensor]:
        tokens = model.tokens(batch, self.stream)
        tokenizer = model.tokenizer(self.stream)
        n = tokens.num_prefix
        hide = self._draw(tokens.mask[:, n:])
        whole = F.pad(hide, (n, 0), value=False).unsqueeze(-1)
        places = torch.zeros_like(tokens.x) if tokens.positions is None else tokens.positions.expand_as(tokens.x)
        x = torch.where(whole, self.hidden.to(tokens.x.dtype) + places, tokens.x)
        seen: TokenBatch = model.encode([tokens.with_x(x)], model.routes[self.stream].encoder)
        guess = self.guess(self.norm(seen.x[:, n:])).float()
        goal = tokenizer.contents(batch.streams[self.stream]).float().detach()
        if self.standardize:
            goal = (goal - goal.mean(dim=2, keepdim=True)) / (goal.var(dim=2, keepdim=True) + 1e-6).sqrt()
        error = ((guess - goal) ** 2).mean(dim=2)
        count = hide.sum().clamp(min=1)
        losses = {"masked": (error * hide).sum() / count}
        if self.unpack is not None:
            if n == 0 or tokens.positions is None:
                found = f"stream {self.stream!r} has no class token, or no positions"
                raise MetaformerError("objective masked_patches with a bottleneck", found, "set `bottleneck: 0`")
            whole_sample = self.norm(seen.x[:, :1]).expand(-1, goal.shape[1], -1)
            second = self.unpack(torch.cat([whole_sample, places[:, n:].to(whole_sample.dtype)], dim=2)).float()
            losses["bottleneck"] = self.bottleneck * (((second - goal) ** 2).mean(dim=2) * hide).sum() / count
        return losses

    def _draw(self, real: Bool[Tensor, "B P"]) -> Bool[Tensor, "B P"]:
        """Which patches to hide: `mask_ratio` of each row's real ones, rounded up. In evaluation one draw for all rows,
        always the same: a sample's loss must not depend on the batch it is in."""
        if self.training:
            draw = torch.rand(real.shape)
        else:
            # numpy's numbers come one after the other: padding adds some and changes none.
            draw = torch.from_numpy(np.random.default_rng(0).random(real.shape[1])).expand(real.shape)
        draw = draw.to(real.device)
        order: Float[Tensor, "B P"] = draw.masked_fill(~real, 2.0).argsort(dim=1).argsort(dim=1)
        count = (real.sum(dim=1, keepdim=True) * self.mask_ratio).ceil()
        return (order < count) & real
