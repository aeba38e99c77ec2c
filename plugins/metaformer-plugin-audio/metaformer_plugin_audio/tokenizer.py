"""Sound → tokens: patches of a log-mel spectrogram, as of a picture.

Source: AST (arXiv 2104.01778): 16x16 patches every 10 bins and 10 frames, bins first, one or two class tokens; also
Meta-Transformer's audio tokenizer (arXiv 2307.10802, appendix), whose published code differs from it (README).
Ours differs: frames past the end of a sound make no tokens, so that a batch may mix lengths (`padding: mask`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from metaformer.base import Tokenizer
from metaformer.errors import MetaformerError
from metaformer.layers.patches import PatchEmbedding, Positions, cut, grid_of
from metaformer.types import Raw, TokenBatch
from metaformer_plugin_audio.augment import Augment
from metaformer_plugin_audio.features import MelSpectrogram
from metaformer_plugin_audio.preprocess import AudioPreprocess, Padding

Size = Annotated[int, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]

STATISTICS: dict[str, tuple[float, float]] = {
    "audioset": (-4.2677393, 4.5689974),
    "speech_commands": (-6.845978, 5.5654526),
    "none": (0.0, 0.5),
}
"""Mean and deviation of log energies over a training set, as AST publishes them; values become (x - mean) / (2 std)."""


class AudioTokenizer(Tokenizer):
    """{values [B C M T], mask [B T]} → TokenBatch [B P+r*c D], grid (r, c): r patches along the mel bins, c in time.

    A sound of T frames has 1 + (T - patch) // stride columns; what is left of the last stride is not looked at.
    `patch_size` and `stride` are one number or (mel bins, frames); (mel_bins, n) makes a token of every n frames.
    `stem_norm`: a norm of the projected patches, as ImageBind has; its projection has no `bias`.
    """

    preprocess: AudioPreprocess

    def __init__(
        self,
        dim: int,
        *,
        sample_rate: Annotated[int, Field(ge=1000, le=192000)] = 16000,
        channels: Literal[1, 2] = 1,
        mel_bins: Size = 128,
        max_frames: Size = 1024,
        frame_length: Positive = 25.0,
        frame_shift: Positive = 10.0,
        patch_size: Size | tuple[Size, Size] = 16,
        stride: Size | tuple[Size, Size] | None = 10,
        class_tokens: Literal[0, 1, 2] = 1,
        positions: Positions = "learned",
        bias: bool = True,
        stem_norm: bool = False,
        padding: Padding = "mask",
        normalize: Literal["audioset", "speech_commands", "none"] = "audioset",
        mean: float | None = None,
        std: Positive | None = None,
        random_crop: bool = True,
        gain: NotNegative = 0.0,
        noise: NotNegative = 0.0,
        roll: Count = 0,
        freq_mask: Count = 0,
        time_mask: Count = 0,
        max_seconds: Positive = 60.0,
    ) -> None:
        super().__init__()
        patch = _pair(patch_size)
        step = patch if stride is None else _pair(stride)
        if step[0] > patch[0] or step[1] > patch[1]:
            raise MetaformerError(f"patches of {patch[0]}x{patch[1]}", f"stride {step} leaves gaps", "lower the stride")
        if (mean is None) != (std is None):
            raise MetaformerError("statistics of log energies", f"mean {mean}, std {std}", "give both or neither")
        spectrogram = MelSpectrogram(sample_rate, mel_bins, frame_length, frame_shift)
        if spectrogram.window < 2 or spectrogram.shift < 1:
            found = f"{spectrogram.window} samples, every {spectrogram.shift}"
            raise MetaformerError("frames of two samples at least", found, "raise frame_length and frame_shift")
        self.embed = PatchEmbedding(
            dim,
            channels=channels,
            patch=patch,
            shape=(mel_bins, max_frames),
            stride=step,
            bias=bias,
            class_tokens=class_tokens,
            positions=positions,
            stem_norm=stem_norm,
        )
        self.num_contents = channels * patch[0] * patch[1]
        self.patch, self.stride, self.max_frames = patch, step, max_frames
        preset = STATISTICS[normalize]
        self.preprocess = AudioPreprocess(
            spectrogram=spectrogram,
            channels=channels,
            max_frames=max_frames,
            min_frames=patch[1],
            mean=preset[0] if mean is None else mean,
            std=preset[1] if std is None else std,
            padding=padding,
            max_seconds=max_seconds,
            augment=Augment(random_crop, gain, noise, roll, freq_mask, time_mask),
        )

    def forward(self, raw: Raw) -> TokenBatch:
        # Positions belong to places of the whole spectrogram, so tokens are made for all of it, and cut afterwards.
        whole, short = self.embed.grid[1], self._grid(raw)[1]
        values = F.pad(raw["values"], (0, self.max_frames - raw["values"].shape[3]))
        patches = cut(values, self.patch, self.stride)
        tokens = self.embed.tokens(patches, self.embed.grid, self._columns(raw["mask"], whole))
        tokens = tokens._replace(modality=self.modality)
        return tokens if whole == short else self._cut(tokens, short)

    def contents(self, raw: Raw) -> Float[Tensor, "B P E"]:
        return cut(raw["values"], self.patch, self.stride)

    def _grid(self, raw: Raw) -> tuple[int, ...]:
        return grid_of(raw["values"].shape[2:], self.patch, self.stride)

    def _columns(self, mask: Bool[Tensor, "B T"], count: int) -> Bool[Tensor, "B P"]:
        """True for the patches that lie inside each sound, of `count` in each row of the spectrogram."""
        inside = torch.div(mask.sum(dim=1) - self.patch[1], self.stride[1], rounding_mode="floor").clamp(min=0)
        column = torch.arange(count, device=mask.device)
        return (column <= inside[:, None]).repeat(1, self.embed.grid[0])

    def _cut(self, tokens: TokenBatch, columns: int) -> TokenBatch:
        """The first columns of every row, behind the class tokens."""
        prefix, (rows, whole) = tokens.num_prefix, self.embed.grid
        place = torch.arange(rows * whole, device=tokens.x.device).view(rows, whole)[:, :columns].flatten() + prefix
        keep = torch.cat([torch.arange(prefix, device=tokens.x.device), place])
        positions = None if tokens.positions is None else tokens.positions[:, keep]
        return tokens._replace(
            x=tokens.x[:, keep], mask=tokens.mask[:, keep], positions=positions, grid=(rows, columns)
        )

    def translate(self, source: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Out of Hugging Face's AST (as are vision transformers with patches of this size) and ImageBind; ours as they
        are."""
        return self.embed.translate(source, "embed.")

    def describe(self) -> str:
        (rows, columns), mel = self.embed.grid, self.preprocess.spectrogram
        seconds = mel.samples(self.max_frames) / mel.rate
        return (
            f"sound at {mel.rate} Hz, {mel.mel_bins} mel bins in {self.patch[0]}x{self.patch[1]} patches every"
            f" {self.stride[0]}x{self.stride[1]}: at most {seconds:.2f} s = {rows * columns} tokens"
        )


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else size
