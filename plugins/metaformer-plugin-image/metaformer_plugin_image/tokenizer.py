"""Pictures → patch tokens: cut, project, add positions.

Source: ViT (arXiv 2010.11929), timm's `PatchEmbed`, class token and position conventions: see
`metaformer.layers.patches`. Pixels arrive as uint8 and are normalised here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from metaformer.base import Tokenizer
from metaformer.files.picture import MAX_PIXELS, PILLOW_LIMIT
from metaformer.layers.patches import PatchEmbedding, Positions, Resizing, cut_channels, grid_of
from metaformer.layers.pixels import Preset, pixel_statistics, standardize
from metaformer.types import Raw, TokenBatch
from metaformer_plugin_image.preprocess import ImagePreprocess, Interpolation

Size = Annotated[int, Field(gt=0)]
Probability = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(gt=0, le=1)]


class ImageTokenizer(Tokenizer):
    """`pixels` uint8 [B C H W] → TokenBatch [B P+h*w D]; P = 1 with a class token; grid (h, w).

    Other sizes than `image_size` work too: positions are resized, in the way `positions_resize` says; `positions_size`
    is the size of the pictures they are for, by default `image_size`.

    To size: with `resize: crop` the shorter side becomes size / `crop_pct` and the centre is cut out; with
    `exact` both sides are resized; with `keep` nothing is cut off and the shape stays: a picture larger than
    `image_size` is shrunk to fit into it, sides are rounded to whole patches, and batches are padded (as in
    NaViT, arXiv 2307.06304: patches know their row and column, whatever the size). Pictures of the right size
    (digits) pass untouched under `exact`.
    In training: `augment: light` is a random crop (`crop_scale` of the area, `crop_ratio` width to height)
    and flips; `timm` adds `auto_augment` (timm's syntax, replaces `color_jitter` as there) and random
    erasing.
    `normalize` names pixel statistics; `mean` and `std` (one number per channel, for pixels in [0, 1])
    replace them; one channel takes the average of a preset's three. `max_pixels` caps what is decoded.
    `stem_norm`: a norm of the projected patches, as ImageBind has for heat and depth.
    """

    def __init__(
        self,
        dim: int,
        *,
        image_size: Size | tuple[Size, Size] = 224,
        patch_size: Size = 16,
        channels: Literal[1, 3] = 3,
        class_token: bool = True,
        positions: Positions = "learned",
        positions_size: Size | tuple[Size, Size] | None = None,
        positions_resize: Resizing = "bicubic",
        bias: bool = True,
        stem_norm: bool = False,
        normalize: Preset = "imagenet",
        mean: tuple[float, ...] | None = None,
        std: tuple[Positive, ...] | None = None,
        resize: Literal["crop", "exact", "keep"] = "crop",
        crop_pct: Share = 0.875,
        interpolation: Interpolation = "bicubic",
        augment: Literal["none", "light", "timm"] = "none",
        crop_scale: tuple[Share, Share] = (0.08, 1.0),
        crop_ratio: tuple[Positive, Positive] = (3 / 4, 4 / 3),
        hflip: Probability = 0.5,
        vflip: Probability = 0.0,
        color_jitter: Annotated[float, Field(ge=0)] = 0.4,
        auto_augment: str | None = "rand-m9-mstd0.5-inc1",
        erase: Probability = 0.0,
        erase_fill: Literal["mean", "noise"] = "noise",
        max_pixels: Annotated[int, Field(gt=0, le=PILLOW_LIMIT)] = MAX_PIXELS,
    ) -> None:
        super().__init__()
        self.size = (image_size, image_size) if isinstance(image_size, int) else image_size
        patch = (patch_size, patch_size)
        shape = self.size
        if positions_size is not None:
            grid_of(self.size, patch)  # the other size is looked at by the embedding
            shape = (positions_size, positions_size) if isinstance(positions_size, int) else positions_size
        self.embed = PatchEmbedding(
            dim,
            channels=channels,
            patch=patch,
            shape=shape,
            bias=bias,
            class_tokens=int(class_token),
            positions=positions,
            resizing=positions_resize,
            stem_norm=stem_norm,
        )
        self.num_contents = channels * patch_size**2
        self.mean, self.std = pixel_statistics(normalize, channels, mean, std)
        self.keep = resize == "keep"
        self.preprocess = ImagePreprocess(
            size=self.size,
            patch_size=patch_size,
            channels=channels,
            mean=self.mean,
            std=self.std,
            resize=resize,
            crop_pct=crop_pct,
            interpolation=interpolation,
            augment=augment,
            crop_scale=crop_scale,
            crop_ratio=crop_ratio,
            hflip=hflip,
            vflip=vflip,
            color_jitter=color_jitter,
            auto_augment=auto_augment,
            erase=erase,
            erase_fill=erase_fill,
            max_pixels=max_pixels,
        )

    def forward(self, raw: Raw) -> TokenBatch:
        grid = grid_of(raw["pixels"].shape[-2:], self.embed.patch)
        mask = raw["real"].flatten(1) if self.keep else None
        return self.embed.tokens(self.contents(raw), grid, mask, crop=self.keep)._replace(modality=self.modality)

    def contents(self, raw: Raw) -> Float[Tensor, "B P E"]:
        return standardize(cut_channels(raw["pixels"], self.embed.patch), self.mean, self.std, 255.0).flatten(2)

    def translate(self, source: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Out of timm's, Hugging Face's and open_clip's vision transformers; ours as they are."""
        return self.embed.translate(source, "embed.")

    def describe(self) -> str:
        (height, width), p = self.size, self.embed.patch[0]
        rows, columns = grid_of(self.size, self.embed.patch)
        prefix = " and a class token" if self.embed.num_prefix else ""
        return f"{height}x{width}x{self.embed.channels} pixels in {p}x{p} patches: {rows * columns} tokens{prefix}"
