"""X-ray pictures → patch tokens.

Source: ViT (arXiv 2010.11929), as Meta-Transformer (arXiv 2307.10802) used it for chest radiographs; `torchxrayvision`
normalises as that library does, to -1024 to 1024.
Ours differs: the picture travels as one gray channel of floats, so that more than 8 bits survive, and is repeated here.
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
from metaformer.layers.pixels import pixel_statistics, standardize
from metaformer.types import Raw, TokenBatch
from metaformer_plugin_xray.preprocess import XrayPreprocess

Size = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(gt=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Preset = Literal["imagenet", "clip", "inception", "torchxrayvision", "none"]


class XrayTokenizer(Tokenizer):
    """`pixels` float32 [B 1 H W] from 0 to 1 → TokenBatch [B P+h*w D]; P = 1 with a class token; grid (h, w).

    `window`: `auto` shows a DICOM file as it asks (its table, or its first window; without one all of its levels),
    and spreads what is in plain pictures of more than 8 bits; `full` takes all that the bits can hold;
    [centre, width] in units of the levels, such as [-600, 1500] for lungs in CT. `frame`: which of several, from 0.
    `channels`: the gray picture is repeated to 3 for stems that were trained on colour.
    In training: `rotate` degrees either way, `shift` as a share of the size, `zoom` from and to, each drawn
    uniformly; `hflip` is a probability, and 0 because a mirrored chest has its heart on the right, which is a finding
    (situs inversus). All are off unless they are set.
    `resize: crop` keeps the shape and cuts the centre out, after the shorter side became size / `crop_pct`; `exact`
    stretches. `max_pixels` of the file's frame.
    """

    preprocess: XrayPreprocess

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
        window: Literal["auto", "full"] | tuple[float, Positive] = "auto",
        frame: Annotated[int, Field(ge=0)] = 0,
        normalize: Preset = "imagenet",
        resize: Literal["crop", "exact"] = "crop",
        crop_pct: Share = 1.0,
        rotate: Annotated[float, Field(ge=0, le=180)] = 0.0,
        shift: Annotated[float, Field(ge=0, lt=1)] = 0.0,
        zoom: tuple[Positive, Positive] = (1.0, 1.0),
        hflip: Annotated[float, Field(ge=0, le=1)] = 0.0,
        max_pixels: Annotated[int, Field(gt=0, le=PILLOW_LIMIT)] = MAX_PIXELS,
    ) -> None:
        super().__init__()
        size = (image_size, image_size) if isinstance(image_size, int) else image_size
        if zoom[0] > zoom[1]:
            raise MetaformerError(f"zoom {list(zoom)}", "the first is larger", "give [smallest, largest]")
        self.mean, self.std = pixel_statistics(normalize, channels)
        self.normalize = normalize
        self.embed = PatchEmbedding(
            dim,
            channels=channels,
            patch=(patch_size, patch_size),
            shape=size,
            bias=bias,
            class_tokens=int(class_token),
            positions=positions,
        )
        self.num_contents = patch_size**2
        self.preprocess = XrayPreprocess(
            size=size,
            window=window,
            frame=frame,
            resize=resize,
            crop_pct=crop_pct,
            rotate=rotate,
            shift=shift,
            zoom=zoom,
            hflip=hflip,
            max_pixels=max_pixels,
        )

    def forward(self, raw: Raw) -> TokenBatch:
        gray = cut(raw["pixels"], self.embed.patch)[:, :, None]
        patches = standardize(gray, self.mean, self.std).flatten(2)
        grid = grid_of(raw["pixels"].shape[-2:], self.embed.patch)
        return self.embed.tokens(patches, grid)._replace(modality=self.modality)

    def contents(self, raw: Raw) -> Float[Tensor, "B P E"]:
        """The gray of each patch, row by row, from -1 to 1, whatever `normalize` says."""
        return cut(raw["pixels"], self.embed.patch) * 2 - 1

    def translate(self, source: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Out of timm's, Hugging Face's and open_clip's vision transformers; ours as they are."""
        return self.embed.translate(source, "embed.")

    def describe(self) -> str:
        (height, width), p, window = self.preprocess.size, self.embed.patch[0], self.preprocess.window
        count = self.embed.num_prefix + self.embed.grid[0] * self.embed.grid[1]
        how = window if isinstance(window, str) else f"{window[0]:g} +- {window[1] / 2:g}"
        return (
            f"xray: {height}x{width} gray pixels, window {how}, as {self.embed.channels} channels ({self.normalize})"
            f" in {p}x{p} patches = {count} tokens"
        )
