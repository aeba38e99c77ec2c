"""One sound → a normalised log-mel spectrogram, in a data worker.

Source: AST (arXiv 2104.01778) and Meta-Transformer (arXiv 2307.10802): mean off, Kaldi's log-mel features, the
beginning of what is too long, (x - mean) / (2 std).
Ours differs: sounds keep their own length unless asked to be filled up.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from metaformer.base import Preprocess
from metaformer.types import Raw
from metaformer_plugin_audio.augment import Augment
from metaformer_plugin_audio.features import MelSpectrogram, resample
from metaformer_plugin_audio.read import read_sound

Padding = Literal["mask", "zeros"]


@dataclass(frozen=True)
class AudioPreprocess(Preprocess):
    """A path, bytes, an array or a mapping (see `read_sound`) → {values [C, mel_bins, T], mask: bool [T]}.

    T is at least `min_frames`, as shorter sounds are followed by silence, and at most `max_frames`.
    """

    reads_files: ClassVar[bool] = True

    spectrogram: MelSpectrogram
    channels: int
    max_frames: int
    min_frames: int
    """Frames of one patch."""
    mean: float
    std: float
    padding: Padding
    """`zeros`: all sounds are filled up to `max_frames` with log energy 0 before normalising, and nothing is masked."""
    max_seconds: float
    augment: Augment

    def __call__(self, value: Any, train: bool) -> Raw:
        array, rate = read_sound(value, self.channels, self.max_seconds, self.spectrogram.rate)
        samples = resample(torch.from_numpy(array).T.contiguous(), rate, self.spectrogram.rate)
        samples = samples - samples.mean(dim=1, keepdim=True)
        values = self.normalized(self._cut(samples, train))
        if train:
            values = self.augment.spectrogram(values)
        if self.padding == "zeros":
            values = F.pad(values, (0, self.max_frames - values.shape[2]), value=-self.mean / (2 * self.std))
        return self._raw(values)

    def normalized(self, samples: Float[Tensor, "C L"]) -> Float[Tensor, "C M T"]:
        return (self.spectrogram(samples) - self.mean) / (2 * self.std)

    def _cut(self, samples: Float[Tensor, "C L"], train: bool) -> Float[Tensor, "C K"]:
        """Not shorter than one patch, and not longer than `max_frames`."""
        least, most = (self.spectrogram.samples(frames) for frames in (self.min_frames, self.max_frames))
        length = samples.shape[1]
        if train:
            samples = self.augment.samples(samples)
            start = self.augment.start(length - most)
            samples = samples[:, start:]
        return F.pad(samples[:, :most], (0, max(least - length, 0)))

    def blank(self) -> Raw:
        return self._zeros(self.max_frames if self.padding == "zeros" else self.min_frames)

    def example(self) -> Raw:
        return self._zeros(self.max_frames)

    def _zeros(self, frames: int) -> Raw:
        return self._raw(torch.zeros(self.channels, self.spectrogram.mel_bins, frames))

    def _raw(self, values: Float[Tensor, "C M T"]) -> Raw:
        return {"values": values, "mask": torch.ones(values.shape[2], dtype=torch.bool)}
