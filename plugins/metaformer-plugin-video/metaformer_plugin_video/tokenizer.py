"""Clips → tubelet tokens: cut in time and space, project, add positions.

Source: VideoMAE (arXiv 2203.12602), tubelets of 2x16x16 and one line of fixed sines over all of them; ViViT (arXiv
2103.15691) for tubelets, frames by themselves (`tubelet: 1`) and learned positions; TimeSformer (arXiv 2102.05095) for
positions of space and time apart.
Ours differs: pixels arrive as uint8 and are normalised here; a class token is a knob for any of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor, nn

from metaformer.base import Tokenizer
from metaformer.errors import MetaformerError, WeightsError
from metaformer.layers.patches import PatchEmbedding, cut_channels
from metaformer.layers.pixels import Preset, pixel_statistics, standardize
from metaformer.types import Raw, TokenBatch
from metaformer_plugin_video.backend import versions
from metaformer_plugin_video.preprocess import VideoPreprocess
from metaformer_plugin_video.source import Backend, Limits

Size = Annotated[int, Field(gt=0)]
Probability = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(gt=0, le=1)]
FLAT = ("projection.weight", "patch_embed.proj.weight", "patch_embedding.weight", "conv1.weight")
"""How names of patch projections end."""


class VideoTokenizer(Tokenizer):
    """{pixels uint8 [B F C H W], mask bool [B F]} → TokenBatch [B P+F'hw D]; grid (F', h, w), F' = num_frames/tubelet.

    Which frames: `sampling: dense` takes `num_frames` frames, every `stride`-th or `frame_rate` per second, from a
    random place in training and the middle in evaluation; `segments` takes one out of each of `num_frames` parts of the
    video. Of a video that is too short, `short: repeat` shows the last frame again, `mask` masks the tubelets that
    are missing.
    Where: `resize`, `crop_pct`, and in training `augment: light`: one random crop and flip for the whole clip.
    What a file may cost: `max_pixels` of a frame, `max_frames` of the video, `time_limit` in seconds.
    `positions`: `sinusoidal` (VideoMAE's), `learned` (one for each tubelet), `factorized` (learned, one for each place
    and one for each time, added), `none`.
    """

    preprocess: VideoPreprocess

    def __init__(
        self,
        dim: int,
        *,
        num_frames: Size = 16,
        image_size: Size | tuple[Size, Size] = 224,
        patch_size: Size = 16,
        tubelet: Size = 2,
        channels: Literal[1, 3] = 3,
        class_token: bool = False,
        positions: Literal["sinusoidal", "learned", "factorized", "none"] = "sinusoidal",
        sampling: Literal["dense", "segments"] = "dense",
        stride: Size = 4,
        frame_rate: Positive | None = None,
        short: Literal["repeat", "mask"] = "repeat",
        normalize: Preset = "imagenet",
        mean: tuple[float, ...] | None = None,
        std: tuple[Positive, ...] | None = None,
        resize: Literal["crop", "exact"] = "crop",
        crop_pct: Share = 1.0,
        augment: Literal["none", "light"] = "none",
        crop_scale: tuple[Share, Share] = (0.5, 1.0),
        crop_ratio: tuple[Positive, Positive] = (3 / 4, 4 / 3),
        hflip: Probability = 0.5,
        decoder: Backend = "auto",
        max_pixels: Annotated[int, Field(gt=0, le=2**28)] = Limits.max_pixels,
        max_frames: Size = Limits.max_frames,
        time_limit: Positive = Limits.time_limit,
    ) -> None:
        super().__init__()
        size = (image_size, image_size) if isinstance(image_size, int) else image_size
        for name, low, high in (("crop_scale", *crop_scale), ("crop_ratio", *crop_ratio)):
            if low > high:
                raise MetaformerError(f"{name} [{low}, {high}]", "the first is larger", "give [smallest, largest]")
        if sampling == "segments" and frame_rate is not None:
            raise MetaformerError("a frame rate", "sampling: segments", "leave one of them out")
        self.mean, self.std = pixel_statistics(normalize, channels, mean, std)
        self.patch = (tubelet, patch_size, patch_size)
        self.embed = PatchEmbedding(
            dim,
            channels=channels,
            patch=self.patch,
            shape=(num_frames, *size),
            class_tokens=int(class_token),
            positions="none" if positions == "factorized" else positions,
        )
        self.grid = self.embed.grid
        self.num_contents = self.embed.proj.in_features
        factorized = positions == "factorized"
        self.time = nn.Parameter(torch.empty(1, self.grid[0], 1, dim)) if factorized else None
        self.space = nn.Parameter(torch.empty(1, 1, self.grid[1] * self.grid[2], dim)) if factorized else None
        for table in (self.time, self.space):
            if table is not None:
                nn.init.trunc_normal_(table, std=0.02)
        self.preprocess = VideoPreprocess(
            size=size,
            channels=channels,
            num_frames=num_frames,
            tubelet=tubelet,
            sampling=sampling,
            stride=stride,
            frame_rate=frame_rate,
            short=short,
            resize=resize,
            crop_pct=crop_pct,
            augment=augment,
            crop_scale=crop_scale,
            crop_ratio=crop_ratio,
            hflip=hflip,
            decoder=decoder,
            limits=Limits(max_pixels, max_frames, float(time_limit)),
        )

    def forward(self, raw: Raw) -> TokenBatch:
        tubes = self._mask(raw["mask"])
        mask = tubes.repeat_interleave(self.grid[1] * self.grid[2], dim=1)
        tokens = self.embed.tokens(self.contents(raw), self.grid, mask)._replace(modality=self.modality)
        if self.time is None or self.space is None:
            return tokens
        table = (self.time + self.space).flatten(1, 2)
        positions = nn.functional.pad(table, (0, 0, tokens.num_prefix, 0)).expand_as(tokens.x)
        return tokens._replace(x=tokens.x + positions, positions=positions)

    def contents(self, raw: Raw) -> Float[Tensor, "B P E"]:
        """The normalised pixels of each tubelet, channel by channel, frame by frame, row by row."""
        pixels = raw["pixels"]
        missing = self.grid[0] * self.patch[0] - pixels.shape[1]
        if missing:
            # All batches have the same grid, whatever the longest of their videos.
            pixels = nn.functional.pad(pixels, (0, 0, 0, 0, 0, 0, 0, missing))
        return standardize(cut_channels(pixels.transpose(1, 2), self.patch), self.mean, self.std, 255.0).flatten(2)

    def translate(self, source: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Out of Hugging Face's VideoMAE and ViViT; ours as they are. A picture model's patches [D C p p] become
        tubelets by repetition over time, divided by their number, which on a still film gives that model's tokens
        (I3D, arXiv 1705.07750)."""
        if "embed.proj.weight" in source:
            return source
        theirs = {key: _inflated(key, value, self.patch[0]) for key, value in source.items()}
        if self.time is not None:
            found = "published models have none"
            raise WeightsError("positions of space and time apart", found, "set `positions` to sinusoidal or learned")
        return self.embed.translate(theirs, "embed.")

    def describe(self) -> str:
        frames, (height, width), p = self.preprocess.num_frames, self.preprocess.size, self.preprocess
        every = f"{p.frame_rate:g} per second" if p.frame_rate else f"every {p.stride}."
        which = "one of each segment" if p.sampling == "segments" else every
        count = self.grid[0] * self.grid[1] * self.grid[2] + self.embed.num_prefix
        tubelets = "x".join(map(str, self.patch))
        return (
            f"video: {frames} frames ({which}) of {height}x{width}x{p.channels} in tubelets of {tubelets} = {count}"
            f" tokens, files decoded by {versions(p.decoder)}"
        )

    def _mask(self, mask: Bool[Tensor, "B F"]) -> Bool[Tensor, "B N"]:
        """True for the tubelets a clip has; `preprocess` fills the last of them."""
        tubes = mask[:, :: self.patch[0]]
        return nn.functional.pad(tubes, (0, self.grid[0] - tubes.shape[1]), value=False)


def _inflated(key: str, value: Tensor, tubelet: int) -> Tensor:
    """Patch projections [D C p p] to [D C t p p]; anything else as it is."""
    if value.ndim != 4 or not key.endswith(FLAT):
        return value
    return value.unsqueeze(2).expand(-1, -1, tubelet, -1, -1) / tubelet
