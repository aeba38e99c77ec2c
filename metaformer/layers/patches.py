"""Patches of any number of axes → tokens: cut, project, class tokens, positions.

Source: ViT (arXiv 2010.11929) and its kin: AST (arXiv 2104.01778) cuts spectrograms with overlap, VideoMAE
(arXiv 2203.12602) cuts tubelets.
Ours differs: the projection is a reshape and a linear layer instead of a strided convolution: the same numbers,
faster in bf16 on CPUs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Literal

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn
from torch.nn import functional as F

from metaformer.errors import MetaformerError, WeightsError
from metaformer.layers.positions import Grid, fit_positions, grid_sinusoid, resize, sinusoid
from metaformer.types import TokenBatch

Positions = Literal["learned", "sinusoidal", "none"]
"""`sinusoidal`: on a grid of two axes MAE's, else one line of sines over all patches in reading order, as VideoMAE."""
Resizing = Literal["bicubic", "bilinear"]
"""How learned positions come to another grid: `bicubic` as in timm; `bilinear` with the corners kept, as in ViLT, where
each sample of a padded batch gets those of its own grid."""


def grid_of(shape: Sequence[int], patch: Sequence[int], stride: Sequence[int] | None = None) -> Grid:
    """Patches along each axis. Without `stride` they do not overlap and must divide the shape."""
    sizes = list(zip(shape, patch, stride or patch, strict=True))
    if stride is None and any(size % part for size, part, _ in sizes):
        fitting = "x".join(str(-(-size // part) * part) for size, part, _ in sizes)
        raise MetaformerError(f"patches of {_times(patch)}", f"values of {_times(shape)}", f"choose {fitting}")
    if any(size < part for size, part, _ in sizes):
        raise MetaformerError(f"patches of {_times(patch)}", f"values of {_times(shape)}", "choose smaller patches")
    return tuple((size - part) // step + 1 for size, part, step in sizes)


def cut(
    values: Shaped[Tensor, "B C *S"], patch: Sequence[int], stride: Sequence[int] | None = None
) -> Shaped[Tensor, "B T K"]:
    """Patches in reading order; K = C·prod(patch) numbers each, as a convolution's weight [D C *patch] has them."""
    return cut_channels(values, patch, stride).flatten(2)


def cut_channels(
    values: Shaped[Tensor, "B C *S"], patch: Sequence[int], stride: Sequence[int] | None = None
) -> Shaped[Tensor, "B T C P"]:
    """`cut` with the channels on an axis of their own."""
    axes = len(patch)
    for axis, (size, step) in enumerate(zip(patch, stride or patch, strict=True), start=2):
        values = values.unfold(axis, size, step)
    grid, parts = range(2, 2 + axes), range(2 + axes, 2 + 2 * axes)
    x = values.permute(0, *grid, 1, *parts)
    return x.reshape(x.shape[0], prod(x.shape[1 : 1 + axes]), x.shape[1 + axes], prod(patch))


class PatchEmbedding(nn.Module):
    """values [B C *S] → TokenBatch [B n+T D]: n class tokens, then one token per patch, row by row.

    Parameters: `proj` (linear; its weight [D, C·prod(patch)] is a convolution's flattened), `class_token` [1 n D],
    `positions` [1 n+T D], and `norm` with `stem_norm`: of the projected patches, as in ImageBind. Values of another
    shape than `shape` work too: learned positions are resized.
    """

    def __init__(
        self,
        dim: int,
        *,
        channels: int,
        patch: tuple[int, ...],
        shape: tuple[int, ...],
        stride: tuple[int, ...] | None = None,
        bias: bool = True,
        class_tokens: int = 1,
        positions: Positions = "learned",
        resizing: Resizing = "bicubic",
        stem_norm: bool = False,
    ) -> None:
        super().__init__()
        self.channels, self.patch, self.shape, self.stride = channels, patch, shape, stride
        self.corners = resizing == "bilinear"
        self.grid = grid_of(shape, patch, stride)
        self.num_prefix = class_tokens
        if positions == "sinusoidal" and len(patch) == 2 and dim % 4:
            raise MetaformerError("sinusoidal positions", f"width {dim}", "choose a width divisible by 4")
        # The default initialisation is a convolution's of the same fan-in, which timm leaves as it is.
        self.proj = nn.Linear(channels * prod(patch), dim, bias=bias)
        self.norm = nn.LayerNorm(dim) if stem_norm else None
        self.class_token = nn.Parameter(torch.zeros(1, class_tokens, dim)) if class_tokens else None
        count = class_tokens + prod(self.grid)
        self.positions = nn.Parameter(torch.zeros(1, count, dim)) if positions == "learned" else None
        self.sinusoidal = positions == "sinusoidal"
        if self.class_token is not None:
            nn.init.normal_(self.class_token, std=1e-6)
        if self.positions is not None:
            nn.init.trunc_normal_(self.positions, std=0.02)

    def forward(self, values: Float[Tensor, "B C *S"], mask: Bool[Tensor, "B T"] | None = None) -> TokenBatch:
        """`mask`: which patches are real, all where it is None."""
        grid = grid_of(values.shape[2:], self.patch, self.stride)
        return self.tokens(cut(values, self.patch, self.stride), grid, mask)

    def tokens(
        self, patches: Float[Tensor, "B T K"], grid: Grid, mask: Bool[Tensor, "B T"] | None = None, crop: bool = False
    ) -> TokenBatch:
        """Patches that have been cut already. `crop`: a smaller grid has the places of the nominal one's first corner,
        instead of all of them closer together; with `resizing` bilinear each sample has those of its own grid."""
        x = self.proj(patches.to(self.proj.weight.dtype))
        if self.norm is not None:
            x = self.norm(x)
        own = _grids(mask.view(len(mask), *grid)) if crop and self.corners and mask is not None else None
        if mask is None:
            mask = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
        if self.class_token is not None:
            x = torch.cat([self.class_token.expand(len(x), -1, -1).to(x.dtype), x], dim=1)
            mask = torch.cat([mask.new_ones(len(mask), self.num_prefix), mask], dim=1)
        positions = self.places(grid, x, crop) if own is None else self._own_places(own, grid, x)
        if positions is not None:
            x = x + positions
        return TokenBatch(x, mask, "", grid=grid, num_prefix=self.num_prefix, positions=positions)

    def places(self, grid: Grid, x: Float[Tensor, "B T D"], crop: bool = False) -> Float[Tensor, "B T D"] | None:
        """What is added to `x` for its places on `grid`, if anything."""
        if self.positions is not None and crop:
            prefix, rest = self.positions[:, : self.num_prefix], self.positions[:, self.num_prefix :]
            corner = rest.reshape(1, *self.grid, -1)[(slice(None), *(slice(size) for size in grid))]
            return torch.cat([prefix, corner.flatten(1, -2)], dim=1).expand_as(x)
        if self.positions is not None:
            return resize(self.positions, self.grid, grid, self.num_prefix, self.corners).expand_as(x)
        if not self.sinusoidal:
            return None
        if len(grid) == 2:
            table = grid_sinusoid(x.shape[2], (grid[0], grid[1]), self.num_prefix)
        else:
            line = sinusoid(prod(grid), x.shape[2])
            table = torch.cat([line.new_zeros(self.num_prefix, x.shape[2]), line])[None]
        return table.to(x).expand_as(x)

    def _own_places(self, own: Sequence[Grid], grid: Grid, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"] | None:
        """Each sample's places for the grid `own` that it has in the first corner of `grid`; 0 elsewhere."""
        if self.positions is None:
            return self.places(grid, x)
        tables = {}
        for size in set(own):
            table = resize(self.positions, self.grid, size, self.num_prefix, corners=True)[0]
            patches = table[self.num_prefix :].reshape(*size, -1)
            room = [amount for full, used in zip(grid[::-1], size[::-1], strict=True) for amount in (0, full - used)]
            patches = F.pad(patches, [0, 0, *room]).flatten(0, len(grid) - 1)
            tables[size] = torch.cat([table[: self.num_prefix], patches])
        return torch.stack([tables[size] for size in own])

    def translate(self, source: Mapping[str, Tensor], prefix: str = "") -> Mapping[str, Tensor]:
        """Out of timm's, Hugging Face's (ViT, ViLT, CLIP, AST, VideoMAE), open_clip's and ImageBind's models; our own
        names as they are.

        Positions are resized to the grid. One channel takes the sum over three, as in timm, and a patch of a picture
        the sum over the frames of one of a film, which is the same picture in all of them. A class token that we
        lack is left out with its position; a missing bias is 0. Anything else that does not fit is a WeightsError.
        `prefix` is what a tokenizer's state dict has before our names."""
        if f"{prefix}proj.weight" in source:
            return source
        return {f"{prefix}{name}": tensor for name, tensor in _published(source, self).items()}


def _grids(real: Bool[Tensor, "B ..."]) -> list[Grid]:
    """How far each sample's patches reach along every axis, 1 at least."""
    axes = range(1, real.ndim)
    sides = [real.movedim(axis, 1).flatten(2).any(dim=2).sum(dim=1).clamp(min=1).tolist() for axis in axes]
    return list(zip(*sides, strict=True))


@dataclass(frozen=True)
class Layout:
    """Where a library keeps the parts; the keys may stand behind any prefix."""

    name: str
    weight: str
    bias: str | None
    class_tokens: tuple[str, ...]
    positions: str
    norm: str | None = None


LAYOUTS = (
    Layout("timm", "patch_embed.proj.weight", "patch_embed.proj.bias", ("cls_token",), "pos_embed"),
    Layout(
        "Hugging Face",
        "embeddings.patch_embeddings.projection.weight",
        "embeddings.patch_embeddings.projection.bias",
        ("embeddings.cls_token", "embeddings.distillation_token"),
        "embeddings.position_embeddings",
    ),
    Layout(
        "Hugging Face CLIP",
        "embeddings.patch_embedding.weight",
        None,
        ("embeddings.class_embedding",),
        "embeddings.position_embedding.weight",
    ),
    Layout("open_clip", "conv1.weight", None, ("class_embedding",), "positional_embedding"),
    *(
        Layout(
            "ImageBind",
            f"{stem}.{proj}.weight",
            None,
            ("cls_token",),
            "pos_embedding_helper.pos_embed",
            f"{stem}.norm_layer",
        )
        for stem, proj in (("rgbt_stem", "proj.1"), ("rgbt_stem", "proj"), ("depth_stem", "proj"))
    ),
)


def _published(source: Mapping[str, Tensor], ours: PatchEmbedding) -> dict[str, Tensor]:
    layout, prefix = _layout(source)
    weight = source[prefix + layout.weight]
    if ours.channels == 1 and weight.shape[1] == 3:
        weight = weight.sum(dim=1, keepdim=True)
    if layout.name == "ImageBind" and weight.ndim == len(ours.patch) + 3:
        weight = weight.sum(dim=2)
    dim = ours.proj.out_features
    want = (dim, ours.channels, *ours.patch)
    if tuple(weight.shape) != want:
        found = f"{layout.name}: {prefix + layout.weight} is {list(weight.shape)}"
        raise WeightsError(f"patch projection [D C *patch] = {list(want)}", found, "match width and patch size")
    out = {"proj.weight": weight.flatten(1)}
    bias = source.get(prefix + layout.bias) if layout.bias else None
    if ours.proj.bias is not None:
        out["proj.bias"] = weight.new_zeros(dim) if bias is None else bias
    elif bias is not None:
        raise WeightsError("a projection without bias", f"{prefix}{layout.bias}", "set the tokenizer's `bias: true`")
    norm = {part: source.get(f"{prefix}{layout.norm}.{part}") for part in ("weight", "bias")}
    if (norm["weight"] is None) != (ours.norm is None):
        found = f"{'none' if norm['weight'] is None else prefix + str(layout.norm)} in the weights"
        asked = f"{'no' if ours.norm is None else 'a'} norm of the projected patches"
        raise WeightsError(asked, found, f"set the tokenizer's stem_norm: {str(ours.norm is None).lower()}")
    out |= {f"norm.{part}": tensor for part, tensor in norm.items() if tensor is not None}
    theirs = [source[prefix + key].reshape(1, 1, dim) for key in layout.class_tokens if prefix + key in source]
    if ours.class_token is not None:
        if len(theirs) < ours.num_prefix:
            found = f"{len(theirs)} of {', '.join(prefix + key for key in layout.class_tokens)} in the weights"
            raise WeightsError(f"{ours.num_prefix} class tokens", found, "set the tokenizer's knob to what there is")
        out["class_token"] = torch.cat(theirs[: ours.num_prefix], dim=1)
    if ours.positions is not None:
        key = prefix + layout.positions
        if key not in source:
            raise WeightsError(f"tensor {key}", "not in the weights", "set `positions` to sinusoidal or none")
        places = source[key].reshape(1, -1, dim)
        moved = fit_positions(places, ours.grid, ours.num_prefix, max(len(theirs), 1))
        if moved is None:
            found = f"{places.shape[1]} positions"
            raise WeightsError(f"positions that fit a grid of {_times(ours.grid)}", found, "change the size or stride")
        out["positions"] = moved
    return out


def _layout(source: Mapping[str, Tensor]) -> tuple[Layout, str]:
    for layout in LAYOUTS:
        prefixes = [
            prefix
            for key in source
            if (prefix := key.removesuffix(layout.weight)) != key and (not prefix or prefix.endswith("."))
        ]
        if len(prefixes) > 1:
            found = ", ".join(prefix + layout.weight for prefix in prefixes[:4])
            raise WeightsError("one patch projection", found, "name the part of one of them after a #")
        if prefixes:
            return layout, prefixes[0]
    known = ", ".join(layout.name for layout in LAYOUTS)
    some = ", ".join(list(source)[:4]) or "nothing"
    raise WeightsError("a patch projection", f"none among {len(source)} tensors ({some}, ...)", f"known: {known}")


def _times(sizes: Sequence[int]) -> str:
    return "x".join(map(str, sizes))
