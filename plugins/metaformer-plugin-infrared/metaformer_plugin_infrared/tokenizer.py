"""Infrared pictures → patch tokens.

Source: Meta-Transformer (arXiv 2307.10802), which repeats the thermal channel and cuts patches of 16, as of
photographs.
Ours differs: levels stay 16 bits and in physical units until they are scaled here, as floats.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from metaformer.base import Tokenizer
from metaformer.errors import MetaformerError
from metaformer.files.picture import MAX_PIXELS, PILLOW_LIMIT
from metaformer.layers.patches import PatchEmbedding, cut, grid_of
from metaformer.layers.pixels import Preset, pixel_statistics, standardize
from metaformer.types import Raw, TokenBatch
from metaformer_plugin_infrared.preprocess import InfraredPreprocess

Size = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(gt=0, le=1)]
Percentile = Annotated[float, Field(ge=0, le=100)]


class InfraredTokenizer(Tokenizer):
    """`pixels` float32 [B 1 H W] from 0 to 1 → TokenBatch [B P+h*w D]; P = 1 with a class token; grid (h, w).

    `scale` turns stored levels into a physical unit: `unit` (0 to 1 over what the type holds), `levels` (as they are),
    `centikelvin` and `decikelvin` (to degrees Celsius), or [gain, offset]. `normalize: image` spreads every picture
    between its own `percentiles`, which shows shapes and loses how warm things are; `fixed` between the two ends of
    `range`, in the unit of `scale`, keeps it. Both stop at 0 and 1.
    `channels`: the one channel is repeated to 3 for stems that were trained on colour, whose `statistics` it gets.
    In training `augment: light` cuts random boxes (`crop_scale` of the area) and mirrors with probability `hflip`.
    `stem_norm`: a norm of the projected patches, as ImageBind has for heat and depth.
    """

    preprocess: InfraredPreprocess

    def __init__(
        self,
        dim: int,
        *,
        image_size: Size | tuple[Size, Size] = 224,
        patch_size: Size = 16,
        channels: Literal[1, 3] = 3,
        class_token: bool = True,
        positions: Literal["learned", "sinusoidal", "none"] = "learned",
        bias: bool = True,
        stem_norm: bool = False,
        scale: Literal["unit", "levels", "centikelvin", "decikelvin"] | tuple[float, float] = "unit",
        normalize: Literal["image", "fixed"] = "image",
        range: tuple[float, float] | None = None,
        percentiles: tuple[Percentile, Percentile] = (1.0, 99.0),
        statistics: Preset = "imagenet",
        resize: Literal["crop", "exact"] = "exact",
        crop_pct: Share = 1.0,
        augment: Literal["none", "light"] = "none",
        crop_scale: tuple[Share, Share] = (0.5, 1.0),
        hflip: Annotated[float, Field(ge=0, le=1)] = 0.5,
        max_pixels: Annotated[int, Field(gt=0, le=PILLOW_LIMIT)] = MAX_PIXELS,
    ) -> None:
        super().__init__()
        size = (image_size, image_size) if isinstance(image_size, int) else image_size
        span = range or (0.0, 1.0)
        for name, low, high in (("range", *span), ("percentiles", *percentiles)):
            if low >= high:
                raise MetaformerError(f"{name} [{low:g}, {high:g}]", "no span", "give [low, high]")
        if crop_scale[0] > crop_scale[1]:
            raise MetaformerError(f"crop_scale {list(crop_scale)}", "the first is larger", "give [smallest, largest]")
        if normalize == "fixed" and range is None and scale != "unit":
            raise MetaformerError("`normalize: fixed`", "no `range`", "give the two ends in the unit of `scale`")
        self.mean, self.std = pixel_statistics(statistics, channels)
        self.embed = PatchEmbedding(
            dim,
            channels=channels,
            patch=(patch_size, patch_size),
            shape=size,
            bias=bias,
            class_tokens=int(class_token),
            positions=positions,
            stem_norm=stem_norm,
        )
        self.num_contents = patch_size**2
        self.preprocess = InfraredPreprocess(
            size=size,
            scale=scale,
            normalize=normalize,
            span=span,
            percentiles=percentiles,
            resize=resize,
            crop_pct=crop_pct,
            augment=augment,
            crop_scale=crop_scale,
            hflip=hflip,
            max_pixels=max_pixels,
        )

    def forward(self, raw: Raw) -> TokenBatch:
        levels = cut(raw["pixels"], self.embed.patch)[:, :, None]
        patches = standardize(levels, self.mean, self.std).flatten(2)
        grid = grid_of(raw["pixels"].shape[-2:], self.embed.patch)
        return self.embed.tokens(patches, grid)._replace(modality=self.modality)

    def contents(self, raw: Raw) -> Float[Tensor, "B P E"]:
        """The levels of each patch, row by row, from -1 to 1."""
        return cut(raw["pixels"], self.embed.patch) * 2 - 1

    def translate(self, source: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Out of timm's, Hugging Face's and open_clip's vision transformers, and ImageBind; ours as they are."""
        return self.embed.translate(source, "embed.")

    def describe(self) -> str:
        (height, width), p, pre = self.preprocess.size, self.embed.patch[0], self.preprocess
        low, high = pre.span
        how = f"{low:g} to {high:g}" if pre.normalize == "fixed" else "each picture's own span"
        scale = pre.scale if isinstance(pre.scale, str) else f"{pre.scale[0]:g} x + {pre.scale[1]:g}"
        count = self.embed.num_prefix + self.embed.grid[0] * self.embed.grid[1]
        return f"infrared: {height}x{width} levels ({scale}, {how}) in {p}x{p} patches = {count} tokens"
