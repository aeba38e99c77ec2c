"""Samples → the tokenizer's rate → a log-mel spectrogram.

Source: Kaldi's filter bank features by torchaudio's `compliance.kaldi`, as AST (arXiv 2104.01778) and Meta-Transformer
use them: HTK's compatible order, Hanning windows, no dither, no energy, samples of full scale 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import torch
import torchaudio.compliance.kaldi as kaldi  # type: ignore[import-untyped]
from jaxtyping import Float
from torch import Tensor
from torchaudio.transforms import Resample  # type: ignore[import-untyped]

KERNEL = 2**21
"""Weights that a resampling filter may have. Two rates without a common divisor would ask for billions."""


@dataclass(frozen=True)
class MelSpectrogram:
    """[C, samples] at `rate` Hz → log energies [C, mel_bins, frames].

    A bin narrower than the Fourier transform's resolution (some of the lowest of 128) always holds the floor."""

    rate: int
    mel_bins: int
    frame_length: float
    """Milliseconds; so is `frame_shift`."""
    frame_shift: float

    @property
    def window(self) -> int:
        """Samples of a frame, as Kaldi rounds."""
        return int(self.rate * self.frame_length * 0.001)

    @property
    def shift(self) -> int:
        return int(self.rate * self.frame_shift * 0.001)

    def samples(self, frames: int) -> int:
        """How many samples make so many frames."""
        return (frames - 1) * self.shift + self.window

    def __call__(self, samples: Float[Tensor, "C L"]) -> Float[Tensor, "C M T"]:
        """T = 1 + (L - window) // shift; L must hold one window at least."""
        channels = [
            kaldi.fbank(
                channel[None],
                sample_frequency=float(self.rate),
                frame_length=self.frame_length,
                frame_shift=self.frame_shift,
                num_mel_bins=self.mel_bins,
                window_type="hanning",
                htk_compat=True,
                use_energy=False,
                dither=0.0,
            )
            for channel in samples
        ]
        return torch.stack(channels).transpose(1, 2).contiguous()


def resample(samples: Float[Tensor, "C L"], old: int, new: int) -> Float[Tensor, "C K"]:
    """Band-limited; K = ceil(L · new / old). Ratios of usual rates are exact, of odd ones to a millionth."""
    if old == new:
        return samples
    ratio = Fraction(old, new)
    largest = max(1, math.isqrt(int(KERNEL / max(ratio, 1 / ratio))))
    near = ratio.limit_denominator(largest) if ratio > 1 else 1 / (1 / ratio).limit_denominator(largest)
    moved: Tensor = _resampler(near.numerator, near.denominator)(samples)
    return moved


@lru_cache(maxsize=8)
def _resampler(old: int, new: int) -> Resample:
    """Filters take longer to make than to use; a data set has few rates."""
    return Resample(old, new)
