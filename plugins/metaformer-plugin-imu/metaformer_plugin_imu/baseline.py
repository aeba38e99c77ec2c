"""What classical methods reach on the bundled sets: `python -m metaformer_plugin_imu.baseline`."""

from __future__ import annotations

from collections import Counter

import numpy as np

from metaformer_plugin_imu.archive import ArchiveMotions, BasicMotions, PickupGesture

LENGTH = 32
"""Steps that every recording is resampled to."""


def main() -> None:
    """Prints, per set, the share of the largest class, a logistic regression's on resampled values, and a random
    forest's on mean, deviation, range and mean change of every channel."""
    from sklearn.ensemble import RandomForestClassifier  # type: ignore[import-untyped]
    from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]
    from sklearn.pipeline import make_pipeline  # type: ignore[import-untyped]
    from sklearn.preprocessing import StandardScaler  # type: ignore[import-untyped]

    for kind in (BasicMotions, PickupGesture):
        train, valid = kind(split="train"), kind(split="valid")
        largest = Counter(train.labels).most_common(1)[0][0]
        print(f"{kind.__name__}: {len(train)} train, {len(valid)} valid")
        print(f"  majority class       accuracy {np.mean([label == largest for label in valid.labels]):.3f}")
        linear = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
        linear.fit(_resampled(train), train.labels)
        print(f"  logistic regression  accuracy {linear.score(_resampled(valid), valid.labels):.3f}")
        forest = RandomForestClassifier(500, random_state=0)
        forest.fit(_summaries(train), train.labels)
        print(f"  random forest        accuracy {forest.score(_summaries(valid), valid.labels):.3f}")


def _resampled(data: ArchiveMotions) -> np.ndarray:
    rows = []
    for series in data.series:
        place = np.linspace(0, len(series) - 1, LENGTH)
        rows.append(np.concatenate([np.interp(place, np.arange(len(series)), c) for c in series.T]))
    return np.stack(rows)


def _summaries(data: ArchiveMotions) -> np.ndarray:
    return np.stack(
        [
            np.concatenate([s.mean(0), s.std(0), np.ptp(s, axis=0), np.abs(np.diff(s, axis=0)).mean(0)])
            for s in data.series
        ]
    )


if __name__ == "__main__":
    main()
