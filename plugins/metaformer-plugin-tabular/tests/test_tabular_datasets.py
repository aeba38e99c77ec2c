"""Bundled tables: the whole of each set, split once, classes in order."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from metaformer_plugin_tabular.datasets import BreastCancer, Diabetes, Table, Wine

from metaformer.types import Sample

pytest.importorskip("sklearn")

SIZES = [(BreastCancer, 569, 30), (Wine, 178, 13), (Diabetes, 442, 10)]


@pytest.mark.parametrize(("table", "rows", "columns"), SIZES)
def test_splits_partition_the_set(table: type[BreastCancer], rows: int, columns: int) -> None:
    train, valid = table(split="train"), table(split="valid")
    assert sorted([*train.rows, *valid.rows]) == list(range(rows))
    assert abs(len(valid) - rows / 5) < 2
    assert len(train.columns) == columns == len(train[0]["row"])
    assert train.fingerprint() == table(split="train").fingerprint() != valid.fingerprint()


@pytest.mark.parametrize("table", [BreastCancer, Wine])
def test_classes_keep_their_shares(table: type[BreastCancer]) -> None:
    train, valid = table(split="train"), table(split="valid")
    shares = [np.bincount(split.labels) / len(split) for split in (train, valid)]
    np.testing.assert_allclose(shares[0], shares[1], atol=0.02)
    assert len(train.classes["label"]) == len(shares[0])


def test_samples_are_those_of_scikit_learn() -> None:
    from sklearn.datasets import load_breast_cancer

    found, data = load_breast_cancer(), BreastCancer(split="valid", stream="cells", target="kind")
    sample: Sample = data[7]
    row = data.rows[7]
    assert sample["cells"] == dict(zip(found.feature_names, found.data[row], strict=True))
    assert sample["kind"] == found.target[row]
    assert data.classes["kind"] == ("malignant", "benign")
    assert data.sample_id(7) == f"row {row}"


def test_diabetes_has_its_own_units() -> None:
    data: Table = Diabetes(split="train")
    ages = [data[i]["row"]["age"] for i in range(len(data))]
    assert 18 < min(ages) < max(ages) < 80
    assert {data[i]["row"]["sex"] for i in range(len(data))} == {1.0, 2.0}
    assert data.labels.max() > 300
    assert isinstance(data[0]["progression"], float)


def test_pickles_to_workers() -> None:
    data = Wine(split="train")
    assert pickle.loads(pickle.dumps(data))[3] == data[3]
