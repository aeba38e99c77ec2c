"""What classical methods reach on the bundled sets: `python -m metaformer_plugin_timeseries.baseline`."""

from __future__ import annotations

from collections import Counter
from typing import Literal

import numpy as np

from metaformer_plugin_timeseries.datasets import AeonDataset
from metaformer_plugin_timeseries.forecast import PressureDataset

SPLITS: tuple[Literal["train", "valid"], ...] = ("train", "valid")

LENGTH = 32
"""Steps that every series is resampled to."""


def main() -> None:
    """Prints, per set, the share of the largest class and a logistic regression's on resampled values."""
    from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]
    from sklearn.pipeline import make_pipeline  # type: ignore[import-untyped]
    from sklearn.preprocessing import StandardScaler  # type: ignore[import-untyped]

    _voices()
    _forecast()
    names: tuple[Literal["italy_power_demand", "basic_motions", "japanese_vowels"], ...]
    names = ("italy_power_demand", "basic_motions", "japanese_vowels")
    for name in names:
        train, valid = AeonDataset(name=name, split="train"), AeonDataset(name=name, split="valid")
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
        model.fit(_features(train), train.labels)
        largest = Counter(train.labels or ()).most_common(1)[0][0]
        share = np.mean([label == largest for label in valid.labels or ()])
        print(f"{name}: {len(train)} train, {len(valid)} valid")
        print(f"  majority class       accuracy {share:.3f}")
        print(f"  logistic regression  accuracy {model.score(_features(valid), valid.labels):.3f}")


def _voices() -> None:
    """Retrieval of one half of an utterance's cepstra by the other."""
    from sklearn.cross_decomposition import CCA  # type: ignore[import-untyped]

    parts = [AeonDataset(name="japanese_vowels", split=split) for split in SPLITS]
    means = [np.stack([series.mean(axis=0) for series in part.series]) for part in parts]
    model = CCA(n_components=6, max_iter=2000).fit(means[0][:, :6], means[0][:, 6:])
    low, high = model.transform(means[1][:, :6], means[1][:, 6:])
    low, high = (half / np.linalg.norm(half, axis=1, keepdims=True) for half in (low, high))
    scores = low @ high.T
    own = np.diag(scores)[:, None]
    print(f"halves of japanese_vowels: {len(parts[0])} train, {len(parts[1])} valid; recall at 1 and 10, both ways")
    print(f"  chance                         {1 / len(own):.4f} {10 / len(own):.4f}")
    ranks = np.concatenate([(scores > own).sum(axis=1), (own < scores.T).sum(axis=1)])
    print(f"  canonical correlation of means {np.mean(ranks < 1):.4f} {np.mean(ranks < 10):.4f}")


def _forecast() -> None:
    """The next 24 steps of the blood pressure."""
    from sklearn.linear_model import Ridge  # type: ignore[import-untyped]

    train, valid = PressureDataset(split="train"), PressureDataset(split="valid", step=4)
    past, future = (np.stack([valid[i][key].ravel() for i in range(len(valid))]) for key in ("series", "future"))
    known = [np.stack([train[i][key].ravel() for i in range(len(train))]) for key in ("series", "future")]
    guesses = {
        "mean of the training part": np.zeros_like(future),
        "the last value": np.repeat(past[:, -1:], future.shape[1], axis=1),
        "ridge regression": Ridge(alpha=1.0).fit(*known).predict(past),
    }
    print(f"pressure: {len(train)} train, {len(valid)} valid windows; mean squared and absolute error, R2")
    for name, guess in guesses.items():
        error = guess - future
        spread = ((future - future.mean(axis=0)) ** 2).sum(axis=0)
        r2 = np.mean(1 - (error**2).sum(axis=0) / spread)
        print(f"  {name:<26} {np.mean(error**2):.4f} {np.mean(np.abs(error)):.4f} {r2:.4f}")


def _features(data: AeonDataset) -> np.ndarray:
    rows = []
    for series in data.series:
        place = np.linspace(0, len(series) - 1, LENGTH)
        rows.append(np.concatenate([np.interp(place, np.arange(len(series)), c) for c in series.T]))
    return np.stack(rows)


if __name__ == "__main__":
    main()
