"""What classical methods reach on the starter's split: `python -m metaformer_plugin_hyperspectral.baseline`."""

from __future__ import annotations

from collections import Counter

import numpy as np

from metaformer_plugin_hyperspectral.datasets import IndianPines


def main() -> None:
    """Prints the share of the largest class, and accuracies of a support vector machine and a random forest, on the
    pixel alone and on its neighbourhood of 3 x 3 pixels."""
    from sklearn.ensemble import RandomForestClassifier  # type: ignore[import-untyped]
    from sklearn.pipeline import make_pipeline  # type: ignore[import-untyped]
    from sklearn.preprocessing import StandardScaler  # type: ignore[import-untyped]
    from sklearn.svm import SVC  # type: ignore[import-untyped]

    train, valid = IndianPines(split="train", patch_size=3), IndianPines(split="valid", patch_size=3)
    largest = Counter(train.labels.tolist()).most_common(1)[0][0]
    print(f"indian_pines: {len(train)} train, {len(valid)} valid")
    print(f"  majority class                accuracy {(valid.labels == largest).mean():.3f}")
    forest = RandomForestClassifier(200, random_state=0)
    forest.fit(_features(train, alone=True), train.labels)
    print(f"  random forest, pixel alone    accuracy {forest.score(_features(valid, alone=True), valid.labels):.3f}")
    for alone in (True, False):
        machine = make_pipeline(StandardScaler(), SVC(C=100.0))
        machine.fit(_features(train, alone), train.labels)
        what = "pixel alone" if alone else "3 x 3 pixels"
        score = machine.score(_features(valid, alone), valid.labels)
        print(f"  support vectors, {what:12} accuracy {score:.3f}")


def _features(data: IndianPines, alone: bool) -> np.ndarray:
    patches = np.stack([data[i][data.stream] for i in range(len(data))])
    return patches[:, 1, 1] if alone else patches.reshape(len(patches), -1)


if __name__ == "__main__":
    main()
