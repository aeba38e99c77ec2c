"""What trivial and classical methods reach on the bundled sounds: `python -m metaformer_plugin_audio.baseline`."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch

from metaformer_plugin_audio.features import MelSpectrogram
from metaformer_plugin_audio.game_sounds import GameSounds

MEL = MelSpectrogram(rate=11025, mel_bins=128, frame_length=25.0, frame_shift=5.0)
"""As in recipes/starter/audio.yaml."""
TASKS: tuple[tuple[Literal["clip", "direction"], float], ...] = (("clip", 0.06), ("direction", 0.5))


def main() -> None:
    """Prints, per task, a guess's accuracy and that of classical models on mean and deviation of each mel bin, and the
    statistics of the training set's log energies, which the tokenizer wants as `mean` and `std`."""
    from sklearn.ensemble import RandomForestClassifier  # type: ignore[import-untyped]
    from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]
    from sklearn.pipeline import make_pipeline  # type: ignore[import-untyped]
    from sklearn.preprocessing import StandardScaler  # type: ignore[import-untyped]

    models = {
        "logistic regression": make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)),
        "random forest": RandomForestClassifier(300, random_state=0),
    }
    for task, seconds in TASKS:
        x, y = _features(GameSounds(split="train", task=task, seconds=seconds))
        there, labels = _features(GameSounds(split="valid", task=task, seconds=seconds))
        print(f"game_sounds, {task}, windows of {seconds:g} s: {len(y)} train, {len(labels)} valid")
        print(f"  log energies of train: mean {x.mean():.3f}, deviation {x.std():.3f}")
        print(f"  a guess              accuracy {1 / len(set(labels)):.3f} (all classes are equally large)")
        short, long = _summary(x), _summary(there)
        for name, model in models.items():
            model.fit(short, y)
            print(f"  {name:20} accuracy {model.score(long, labels):.3f}")


def _features(data: GameSounds) -> tuple[np.ndarray, list[str]]:
    """Log energies [N, mel_bins, frames] of a set, and its labels."""
    samples = [data[index] for index in range(len(data))]
    sounds = [torch.from_numpy(sample["audio"]["samples"].copy())[None] for sample in samples]
    return np.stack([MEL(sound - sound.mean())[0].numpy() for sound in sounds]), [sample["label"] for sample in samples]


def _summary(x: np.ndarray) -> np.ndarray:
    """Mean, deviation and slope in time of each bin."""
    time = np.linspace(-1, 1, x.shape[2])
    return np.concatenate([x.mean(axis=2), x.std(axis=2), (x * time).mean(axis=2)], axis=1)


if __name__ == "__main__":
    main()
