"""What classical methods reach on the bundled digits: `python -m metaformer_plugin_image.baseline`."""

from __future__ import annotations

import numpy as np

from metaformer_plugin_image.datasets import DigitsDataset


def main() -> None:
    """Prints the share of the largest class, a logistic regression's and a support vector machine's on pixels."""
    from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]
    from sklearn.svm import SVC  # type: ignore[import-untyped]

    train, valid = DigitsDataset(split="train"), DigitsDataset(split="valid")
    pixels = [data.images.reshape(len(data), -1) / 255 for data in (train, valid)]
    print(f"digits: {len(train)} train, {len(valid)} valid")
    largest = np.bincount(train.labels).argmax()
    print(f"  majority class       accuracy {np.mean(valid.labels == largest):.3f}")
    for name, model in (("logistic regression", LogisticRegression(max_iter=2000)), ("support vectors", SVC())):
        model.fit(pixels[0], train.labels)
        print(f"  {name:<20} accuracy {model.score(pixels[1], valid.labels):.3f}")


if __name__ == "__main__":
    main()
