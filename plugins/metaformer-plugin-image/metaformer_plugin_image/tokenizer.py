"""Pictures → patch tokens: cut, project, add positions.

Source: ViT (arXiv 2010.11929), timm's `PatchEmbed`, class token and position conventions.
Ours differs: the patch projection is a reshape and a linear layer instead of a strided convolution: the same
numbers, faster in bf16 on CPUs. Pixels arrive as uint8 and are normalised here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import torch
from jaxtyping import Float, UInt8
from pydantic import Field
from torch import Tensor, nn

from metaformer.base import Tokenizer
from metaformer.errors import MetaformerError
from metaformer.types import Raw, TokenBatch
from metaformer_plugin_image.decode import MAX_PIXELS, PILLOW_LIMIT
from metaformer_plugin_image.positions import Grid, resize, sinusoid
from metaformer_plugin_image.preprocess import ImagePreprocess, Interpolation

Size = Annotated[int, Field(gt=0)]
Probability = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(gt=0, le=1)]
Preset = Literal["imagenet", "clip", "inception", "none"]

STATISTICS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "inception": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}
"""Mean and deviation of pixels in [0, 1], by the names timm and open_clip give them."""


class ImageTokenizer(Tokenizer):
    """`pixels` uint8 [B C H W] → TokenBatch [B P+h*w D]; P = 1 with a class token; grid (h, w).

    Parameters: `proj` (linear; its weight [D C*p*p] is a convolution's [D C p p] flattened), `class_token`
    [1 1 D], `positions` [1 P+h*w D]. Other sizes than `image_size` work too: positions are resized.

    To size: with `resize: crop` the shorter side becomes size / `crop_pct` and the centre is cut out; with
    `exact` both sides are resized. Pictures of the right size (digits) pass untouched under `exact`.
    In training: `augment: light` is a random crop (`crop_scale` of the area, `crop_ratio` width to height)
    and flips; `timm` adds `auto_augment` (timm's syntax, replaces `color_jitter` as there) and random
    erasing.
    `normalize` names pixel statistics; `mean` and `std` (one number per channel, for pixels in [0, 1])
    replace them; one channel takes the average of a preset's three. `max_pixels` caps what is decoded.
    """

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
        normalize: Preset = "imagenet",
        mean: tuple[float, ...] | None = None,
        std: tuple[Positive, ...] | None = None,
        resize: Literal["crop", "exact"] = "crop",
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
        self.patch_size, self.channels = patch_size, channels
        self.size = (image_size, image_size) if isinstance(image_size, int) else image_size
        self.grid = self._grid_of(*self.size)
        self.num_prefix = int(class_token)
        if positions == "sinusoidal" and dim % 4:
            raise MetaformerError("sinusoidal positions", f"width {dim}", "choose a width divisible by 4")
        for name, low, high in (("crop_scale", *crop_scale), ("crop_ratio", *crop_ratio)):
            if low > high:
                raise MetaformerError(f"{name} [{low}, {high}]", "the first is larger", "give [smallest, largest]")
        self.mean, self.std = _statistics(normalize, channels, mean, std)
        self.preprocess = ImagePreprocess(
            size=self.size,
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
        # The default initialisation is a convolution's of the same fan-in, which timm leaves as it is.
        self.proj = nn.Linear(channels * patch_size**2, dim, bias=bias)
        self.class_token = nn.Parameter(torch.zeros(1, 1, dim)) if class_token else None
        count = self.num_prefix + self.grid[0] * self.grid[1]
        self.positions = nn.Parameter(torch.zeros(1, count, dim)) if positions == "learned" else None
        self.sinusoidal = positions == "sinusoidal"
        if self.class_token is not None:
            nn.init.normal_(self.class_token, std=1e-6)
        if self.positions is not None:
            nn.init.trunc_normal_(self.positions, std=0.02)

    def forward(self, raw: Raw) -> TokenBatch:
        pixels = raw["pixels"]
        grid = self._grid_of(*pixels.shape[-2:])
        patches = self._normalize(cut(pixels, self.patch_size))
        x = self.proj(patches.flatten(2).to(self.proj.weight.dtype))
        if self.class_token is not None:
            x = torch.cat([self.class_token.expand(len(x), -1, -1).to(x.dtype), x], dim=1)
        mask = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
        if self.positions is not None:
            positions = resize(self.positions, self.grid, grid, self.num_prefix).expand_as(x)
        elif self.sinusoidal:
            positions = sinusoid(x.shape[2], grid, self.num_prefix).to(x).expand_as(x)
        else:
            return TokenBatch(x, mask, self.modality, grid=grid, num_prefix=self.num_prefix)
        x = x + positions
        return TokenBatch(x, mask, self.modality, grid=grid, num_prefix=self.num_prefix, positions=positions)

    def translate(self, source: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Out of timm's, Hugging Face's and open_clip's vision transformers; ours as they are."""
        from metaformer_plugin_image.weights import tokenizer_weights

        return source if "proj.weight" in source else tokenizer_weights(source, self)

    def describe(self) -> str:
        (height, width), (rows, columns), p = self.size, self.grid, self.patch_size
        prefix = " and a class token" if self.num_prefix else ""
        return f"{height}x{width}x{self.channels} pixels in {p}x{p} patches: {rows * columns} tokens{prefix}"

    def _grid_of(self, height: int, width: int) -> Grid:
        p = self.patch_size
        if height % p or width % p:
            raise MetaformerError(
                f"patches of {p}x{p} pixels",
                f"pictures of {height}x{width}",
                f"choose a multiple of {p}, such as {-(-height // p) * p}x{-(-width // p) * p}",
            )
        return height // p, width // p

    def _normalize(self, patches: UInt8[Tensor, "B T C P"]) -> Float[Tensor, "B T C P"]:
        # Constants, not buffers: a bf16 engine would round buffers, and with them every pixel.
        scale = torch.tensor([1 / (255 * s) for s in self.std], device=patches.device)[:, None]
        shift = torch.tensor([-m / s for m, s in zip(self.mean, self.std, strict=True)], device=patches.device)
        return torch.addcmul(shift[:, None], patches.float(), scale)


def cut(pixels: UInt8[Tensor, "B C H W"], patch_size: int) -> UInt8[Tensor, "B T C P"]:
    """Patches in reading order; P = patch_size² pixels of a patch, row by row."""
    b, c, height, width = pixels.shape
    rows, columns = height // patch_size, width // patch_size
    x = pixels.reshape(b, c, rows, patch_size, columns, patch_size).permute(0, 2, 4, 1, 3, 5)
    return x.reshape(b, rows * columns, c, patch_size**2)


def _statistics(
    preset: Preset, channels: int, mean: tuple[float, ...] | None, std: tuple[float, ...] | None
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    if mean is None and std is None:
        both = STATISTICS[preset]
        return both if channels == 3 else ((sum(both[0]) / 3,), (sum(both[1]) / 3,))
    if mean is None or std is None or len(mean) != channels or len(std) != channels:
        raise MetaformerError(
            f"pixel statistics for {channels} channel{'s' if channels > 1 else ''}",
            f"mean {mean}, std {std}",
            "give both `mean` and `std` with one number per channel, or neither",
        )
    return mean, std
