"""Moments of the six sounds that ship inside pygame-ce as examples: a bundled set, so that audio can be tried offline.

Source: pygame/examples/data in pygame-ce (LGPL-2.1 package, the sounds carry no notice of their own), mono at 11025 Hz:
boom 1.13 s, car_door 0.34 s, house_lo 7.10 s (music), punch 0.37 s, secosmic_lo 3.27 s (music), whiff 0.53 s.
pygame is located and its files are read; it is not imported.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from jaxtyping import Float32, Int64
from pydantic import Field

from metaformer.base import Dataset
from metaformer.errors import DataError
from metaformer.files.package import package_data
from metaformer.types import Sample
from metaformer_plugin_audio.read import read_sound

CLIPS = ("boom", "car_door", "house_lo", "punch", "secosmic_lo", "whiff")
MUSIC = ("house_lo", "secosmic_lo")
DIRECTIONS = ("forwards", "backwards")
BLOCKS = {"train": ((0.0, 0.28), (0.5, 0.78)), "valid": ((0.3, 0.48), (0.8, 1.0))}
"""Where the parts lie in each clip, as shares of its length: in turns, as the beginning of a bang says little about its
end, and with gaps of a fiftieth that are in neither."""


class GameSounds(Dataset):
    """{`stream`: {"samples": float32 [L], "rate": 11025}, `target`: class name}: windows of `seconds` out of each clip.

    `task: clip`: which of the six clips is it from? `task: direction`: does the music play forwards or backwards
    (house_lo and secosmic_lo only, every window both ways)? Each clip gives `windows` windows at equal distances, which
    overlap heavily in the short ones. `train` and `valid` take turns in every clip (56 and 38 % of it) with gaps
    between: no sample is in both. What it is NOT: recordings of their own for `valid`. Both parts are of the same six
    recordings, so accuracy says that a moment can be placed, not that a kind of sound is known.
    """

    def __init__(
        self,
        *,
        split: Literal["train", "valid"],
        task: Literal["clip", "direction"] = "clip",
        seconds: Annotated[float, Field(gt=0.01, le=0.5)] = 0.06,
        windows: Annotated[int, Field(gt=1)] = 100,
        stream: str = "audio",
        target: str = "label",
    ) -> None:
        folder = examples()
        self.task, self.windows, self.stream, self.target = task, windows, stream, target
        self.names = CLIPS if task == "clip" else MUSIC
        self.classes = {target: CLIPS if task == "clip" else DIRECTIONS}
        self.sounds: list[Float32[np.ndarray, " L"]] = []
        self.starts: list[Int64[np.ndarray, " W"]] = []
        digest = hashlib.sha256(f"{split} {task} {seconds} {windows}".encode())
        for name in self.names:
            samples, self.rate = read_sound(folder / f"{name}.wav", 1, 60.0, 11025)
            digest.update(samples.tobytes())
            self.length = round(seconds * self.rate)
            self.sounds.append(samples[:, 0])
            self.starts.append(self._starts(name, len(samples), split))
        self.hash = digest.hexdigest()

    def _starts(self, name: str, length: int, split: str) -> Int64[np.ndarray, " W"]:
        """Where the windows of a clip begin: at equal distances among all places that its blocks allow."""
        blocks = [(round(first * length), round(last * length)) for first, last in BLOCKS[split]]
        places = np.concatenate([np.arange(first, max(first, last - self.length + 1)) for first, last in blocks])
        if not len(places):
            found = f"blocks of {max(last - first for first, last in blocks) / self.rate:.3f} s of {name} in {split}"
            raise DataError(f"windows of {self.length / self.rate:g} s", found, "lower `seconds`")
        return places[np.linspace(0, len(places) - 1, self.windows).round().astype(np.int64)]

    def __len__(self) -> int:
        return len(self.names) * self.windows * (2 if self.task == "direction" else 1)

    def __getitem__(self, index: int) -> Sample:
        name, window, back = self._place(index)
        start = self.starts[name][window]
        samples = self.sounds[name][start : start + self.length]
        sound = {"samples": samples[::-1].copy() if back else samples, "rate": self.rate}
        return {self.stream: sound, self.target: DIRECTIONS[back] if self.task == "direction" else CLIPS[name]}

    def sample_id(self, index: int) -> str:
        name, window, back = self._place(index)
        return f"{self.names[name]}:{window}" + (":backwards" if back else "")

    def fingerprint(self) -> str:
        """sha256 over the samples of the clips and the knobs."""
        return f"sha256:{self.hash}"

    def _place(self, index: int) -> tuple[int, int, int]:
        """Clip, window and direction."""
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        place, back = divmod(index, 2) if self.task == "direction" else (index, 0)
        return place // self.windows, place % self.windows, back


def examples() -> Path:
    """Where pygame keeps its examples' sounds."""
    what = "the sounds among pygame-ce's examples"
    return package_data(
        "pygame",
        "examples/data",
        what,
        "pip install 'metaformer-plugin-audio[samples]'",
        [f"{name}.wav" for name in CLIPS],
    )
