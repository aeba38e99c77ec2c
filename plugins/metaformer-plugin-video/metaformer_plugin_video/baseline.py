"""What classical methods reach on the bundled films: `python -m metaformer_plugin_video.baseline`."""

from __future__ import annotations

from collections import Counter
from typing import Any, get_args

import numpy as np
from jaxtyping import Float64, UInt8

from metaformer_plugin_video.clips import Task, TestClipsDataset

SAMPLES = {"train": 4096, "valid": 1024}


def main() -> None:
    """Prints, per task, the share of the largest class and what two classifiers make of frame differences."""
    from sklearn.ensemble import RandomForestClassifier  # type: ignore[import-untyped]
    from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]
    from sklearn.pipeline import make_pipeline  # type: ignore[import-untyped]
    from sklearn.preprocessing import StandardScaler  # type: ignore[import-untyped]

    for task in get_args(Task):
        (x, y), (valid_x, valid_y) = _rows("train", task), _rows("valid", task)
        share = Counter(valid_y).most_common(1)[0][1] / len(valid_y)
        print(f"{task}: {len(y)} train, {len(valid_y)} valid")
        print(f"  majority class       accuracy {share:.3f}")
        models = {
            "logistic regression": make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)),
            "random forest": RandomForestClassifier(200, random_state=0, n_jobs=1),
        }
        for name, model in models.items():
            model.fit(x, y)
            print(f"  {name:<20} accuracy {model.score(valid_x, valid_y):.3f}")


def _rows(split: Any, task: Any) -> tuple[Float64[np.ndarray, "N E"], list[str]]:
    data = TestClipsDataset(split=split, task=task, samples=SAMPLES[split])
    samples = [data[index] for index in range(len(data))]
    return np.stack([features(sample["video"]) for sample in samples]), [sample[task] for sample in samples]


def features(clip: UInt8[np.ndarray, "F H W"]) -> Float64[np.ndarray, " E"]:
    """How much each frame differs from each later one: mean absolute and signed differences in a 4x4 grid of places
    for neighbours, mean absolute ones for all pairs."""
    frames = clip.astype(np.float64)
    count, height, width = frames.shape
    tiles = (np.diff(frames, axis=0)).reshape(count - 1, 4, height // 4, 4, width // 4)
    pairs = [np.abs(frames[a] - frames[b]).mean() for a in range(count) for b in range(a + 1, count)]
    return np.concatenate([np.abs(tiles).mean(axis=(2, 4)).ravel(), tiles.mean(axis=(2, 4)).ravel(), pairs])


if __name__ == "__main__":
    main()
