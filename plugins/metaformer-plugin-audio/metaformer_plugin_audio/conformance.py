"""The cases of this plugin, which `metaformer plugins check` and the tests run."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from metaformer.testing import Check, dataset_checks, tokenizer_checks

RNG = np.random.default_rng(0)
SOUNDS: list[Any] = [
    RNG.normal(0, 0.1, 6000),
    {"samples": RNG.normal(0, 0.1, (1500, 1)).astype(np.float32), "rate": 11025},
    {"samples": np.zeros(1, np.int16), "rate": 16000},
    RNG.integers(-9000, 9000, (9000, 1), dtype=np.int16),
]
TWO_CHANNELS = [*SOUNDS, RNG.normal(0, 0.1, (3000, 2))]
BAD = [
    None,
    5,
    "no path",
    b"",
    b"RIFF",
    np.zeros(0),
    np.zeros((4, 4, 4)),
    np.full(9, np.nan),
    np.full(9, 1e30),
    np.zeros(16000 * 3),
    [["a"]],
    {"samples": [0.0]},
    {"samples": [0.0], "rate": 0},
    {"samples": np.zeros(9, bool), "rate": 16000},
]
SMALL = {"mel_bins": 32, "max_frames": 40, "max_seconds": 2.0}
CHANGED = {**SMALL, "gain": 6.0, "noise": 0.1, "roll": 4, "freq_mask": 8, "time_mask": 8}
ZEROS = {
    **SMALL,
    "channels": 2,
    "patch_size": (32, 4),
    "stride": None,
    "class_tokens": 0,
    "positions": "sinusoidal",
    "padding": "zeros",
}

WORDS = ("backward", "bed", "zero")
CLIPS = "filename,fold,target,category,esc10,src_file,take\n" + "".join(
    f"{fold}-{n}-A-{kind}.wav,{fold},{kind},{name},False,{n},A\n"
    for fold in (1, 2, 3)
    for n in (7, 8)
    for kind, name in ((10, "rain"), (0, "dog"))
)


def write_tone(path: Path, pitch: float, seconds: float = 0.3, rate: int = 16000) -> None:
    """A sine in a WAV file of 16 bits."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.3 * np.sin(2 * np.pi * pitch * np.arange(int(seconds * rate)) / rate), rate)


def speech_commands(root: Path) -> Mapping[str, Any]:
    """A folder as speech_commands_v0.02.tar.gz unpacks: ten clips of each of three words."""
    for number, word in enumerate(WORDS):
        for clip in range(10):
            write_tone(root / word / f"0{clip}a_nohash_0.wav", 300.0 * (number + 1) + 5 * clip)
    write_tone(root / "_background_noise_" / "doing_the_dishes.wav", 50.0)
    (root / "_background_noise_" / "README.md").write_text("noise")
    (root / "validation_list.txt").write_text("".join(f"{word}/0{n}a_nohash_0.wav\n" for word in WORDS for n in (1, 2)))
    (root / "testing_list.txt").write_text("".join(f"{word}/03a_nohash_0.wav\n" for word in WORDS))
    (root / "LICENSE").write_text("CC BY 4.0")
    return {"root": root}


def esc50(root: Path, table: str = CLIPS) -> Mapping[str, Any]:
    """A folder as the ESC-50 archive unpacks: four clips in each of three folds."""
    (root / "meta").mkdir(parents=True)
    (root / "meta" / "esc50.csv").write_text(table)
    for line in CLIPS.splitlines()[1:]:
        write_tone(root / "audio" / line.partition(",")[0], 400.0, 0.1, 44100)
    return {"root": root}


def checks() -> Iterator[Check]:
    """The tokenizer, the published folders, and the bundled set where pygame-ce is there."""
    yield from tokenizer_checks(("audio", CHANGED), SOUNDS, bad=BAD)
    yield from tokenizer_checks(("audio", ZEROS), TWO_CHANNELS, bad=BAD)
    yield from dataset_checks(("speech_commands", {"split": "train"}), limit=4, files=speech_commands)
    yield from dataset_checks(("esc50", {"split": "train"}), limit=3, files=esc50)
    if importlib.util.find_spec("pygame"):
        yield from dataset_checks(("game_sounds", {"split": "valid"}), limit=5)
        direction = {"split": "valid", "task": "direction", "seconds": 0.5}
        yield from dataset_checks(("game_sounds", direction), limit=5)
