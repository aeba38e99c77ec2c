"""Training samples that differ: another moment, loudness, noise, and stripes left out.

Source: SpecAugment (arXiv 1904.08779) without time warping; noise and roll as in AST's (arXiv 2104.01778) loader.
Ours differs: what is left out becomes the mean (0 after normalising) instead of log energy 0.

Everything is drawn from torch's global generator.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Augment:
    """Each part does nothing at 0."""

    random_crop: bool
    """Of sounds that are too long, any part instead of the beginning."""
    gain: float
    """Loudness moves by up to so many decibels, either way."""
    noise: float
    """Uniform noise of up to that height on the normalised spectrogram, of another height for every sample."""
    roll: int
    """The spectrogram turns by up to so many frames, either way; what leaves one end enters at the other."""
    freq_mask: int
    """A stripe of up to so many mel bins is left out."""
    time_mask: int
    """A stripe of up to so many frames is left out, and never more than half of them."""

    def samples(self, samples: Float[Tensor, "C L"]) -> Float[Tensor, "C L"]:
        return samples * 10 ** (float(_uniform(-self.gain, self.gain)) / 20) if self.gain else samples

    def start(self, spare: int) -> int:
        """Where to begin in a sound that is `spare` samples too long."""
        return int(torch.randint(spare + 1, ())) if self.random_crop and spare > 0 else 0

    def spectrogram(self, values: Float[Tensor, "C M T"]) -> Float[Tensor, "C M T"]:
        """Normalised log energies; the same shape."""
        _, bins, frames = values.shape
        values = values.clone()
        for axis, size, most in ((1, bins, min(self.freq_mask, bins)), (2, frames, min(self.time_mask, frames // 2))):
            if most > 0:
                width = int(torch.randint(most + 1, ()))
                values.narrow(axis, int(torch.randint(size - width + 1, ())), width).zero_()
        if self.noise:
            values += torch.rand(values.shape) * _uniform(0.0, self.noise)
        if self.roll:
            values = values.roll(int(torch.randint(-self.roll, self.roll + 1, ())), dims=2)
        return values


def _uniform(low: float, high: float) -> Tensor:
    return torch.empty(()).uniform_(low, high)
