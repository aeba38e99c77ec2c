"""What classical methods reach on the bundled sets: `python -m metaformer_plugin_timeseries.baseline`."""

from __future__ import annotations

from collections import Counter
from typing import Literal

import numpy as np

from metaformer_plugin_timeseries.datasets import AeonDataset

LENGTH = 32
"""Steps that every series is resampled to."""


def main() -> None:
    """Prints, per set, the share of the largest class and a logistic regression's on resampled values."""
    from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]
    from sklearn.pipeline import make_pipeline  # type: ignore[import-untyped]
    from sklearn.preprocessing import StandardScaler  # type: ignore[import-untyped]

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


def _features(data: AeonDataset) -> np.ndarray:
    rows = []
    for series in data.series:
        place = np.linspace(0, len(series) - 1, LENGTH)
        rows.append(np.concatenate([np.interp(place, np.arange(len(series)), c) for c in series.T]))
    return np.stack(rows)


if __name__ == "__main__":
    main()
