"""What a classical method reaches on `python_topics`: `python -m metaformer_plugin_text.baseline`."""

from __future__ import annotations

from collections import Counter

from metaformer_plugin_text.topics import PythonTopics

LENGTH = 100
"""Characters of a passage, as in recipes/starter/text.yaml."""


def main() -> None:
    """Prints the share of the largest class, and the accuracy of a logistic regression on TF-IDF words."""
    from sklearn.feature_extraction.text import TfidfVectorizer  # type: ignore[import-untyped]
    from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]
    from sklearn.pipeline import make_pipeline  # type: ignore[import-untyped]

    train, valid = PythonTopics(split="train", length=LENGTH), PythonTopics(split="valid", length=LENGTH)
    (x, y), (x_valid, y_valid) = (zip(*data.samples, strict=True) for data in (train, valid))
    largest = Counter(y).most_common(1)[0][0]
    model = make_pipeline(TfidfVectorizer(sublinear_tf=True), LogisticRegression(C=10, max_iter=1000)).fit(x, y)
    print(f"python_topics: {len(train)} train, {len(valid)} valid, {len(train.classes[train.target])} classes")
    print(f"majority class  {sum(label == largest for label in y_valid) / len(y_valid):.3f}")
    print(f"TF-IDF logistic {model.score(x_valid, y_valid):.3f}")


if __name__ == "__main__":
    main()
