"""What classical methods reach on the bundled tables: `python -m metaformer_plugin_tabular.baseline`."""

from __future__ import annotations

import numpy as np

from metaformer_plugin_tabular.datasets import BreastCancer, Diabetes, Table, Wine


def main() -> None:
    """Prints, per table, the trivial answer and a linear model's on standardised columns."""
    train: Table
    valid: Table
    for table in (BreastCancer, Wine):
        train, valid = table(split="train"), table(split="valid")
        largest = np.bincount(train.labels).argmax()
        print(f"{table.__name__}: {len(train)} train, {len(valid)} valid")
        print(f"  majority class       accuracy {(valid.labels == largest).mean():.3f}")
        print(f"  logistic regression  accuracy {_score(train, valid):.3f}")
    train, valid = Diabetes(split="train"), Diabetes(split="valid")
    print(f"Diabetes: {len(train)} train, {len(valid)} valid")
    print(f"  mean of training     MAE {np.abs(valid.labels - train.labels.mean()).mean():.1f}")
    print(f"  ridge regression     R2 {_score(train, valid):.3f}")


def _score(train: Table, valid: Table) -> float:
    from sklearn.linear_model import LogisticRegression, Ridge  # type: ignore[import-untyped]
    from sklearn.pipeline import make_pipeline  # type: ignore[import-untyped]
    from sklearn.preprocessing import StandardScaler  # type: ignore[import-untyped]

    model = LogisticRegression(max_iter=1000) if train.labels.dtype.kind == "i" else Ridge()
    return float(make_pipeline(StandardScaler(), model).fit(train.cells, train.labels).score(valid.cells, valid.labels))


if __name__ == "__main__":
    main()
