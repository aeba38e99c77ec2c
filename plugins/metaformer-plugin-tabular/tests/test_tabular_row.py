"""Cells: what is a number, what is a category, what is missing, and what is an error."""

from __future__ import annotations

import math
import pickle
from datetime import date
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
import torch
from metaformer_plugin_tabular.row import MISSING, UNKNOWN, RowPreprocess

from metaformer.errors import DataError

COLUMNS = RowPreprocess(["age", "height"], {"colour": ("red", "green", "3", "true")})


def number(cell: Any) -> float:
    return COLUMNS({"age": cell}, train=False)["numeric"][0].item()


def category(cell: Any) -> int:
    return int(COLUMNS({"colour": cell}, train=False)["categories"][0].item())


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        (3, 3.0),
        ("3", 3.0),
        (" -1.5e3 ", -1500.0),
        (True, 1.0),
        (np.float32(0.5), 0.5),
        (np.int64(7), 7.0),
        (torch.tensor(2.5), 2.5),
        (1_700_000_000.25, 1_700_000_000.25),
    ],
)
def test_numbers(cell: Any, expected: float) -> None:
    assert number(cell) == expected


@pytest.mark.parametrize("cell", [None, "", "  ", "NA", "nan", math.nan, np.float64("nan"), "?"])
def test_missing_numbers(cell: Any) -> None:
    assert math.isnan(number(cell))


@pytest.mark.parametrize(
    "cell", ["tall", "1,5", math.inf, "-inf", 1e31, "1e999", 10**400, [1], date(2020, 1, 1), b"3", Decimal(1), 1j]
)
def test_what_is_no_finite_number_is_refused_with_the_columns_name(cell: Any) -> None:
    with pytest.raises(DataError, match="'age'") as caught:
        number(cell)
    assert caught.value.found
    assert caught.value.do


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("red", 2),
        (" green ", 3),
        (3, 4),
        (3.0, 4),
        ("3", 4),
        (True, 5),
        ("blue", UNKNOWN),
        (4, UNKNOWN),
        (2.5, UNKNOWN),
        (None, MISSING),
        ("", MISSING),
        (math.nan, MISSING),
        ("NA", MISSING),
    ],
)
def test_categories(cell: Any, expected: int) -> None:
    assert category(cell) == expected


def test_a_category_may_be_spelled_like_a_missing_value() -> None:
    pre = RowPreprocess([], {"country": ("NA", "DE")})
    assert pre({"country": "NA"}, train=False)["categories"].tolist() == [2]


@pytest.mark.parametrize("cell", [["red"], {"red": 1}, b"red", date(2020, 1, 1)])
def test_what_is_no_category_is_refused_with_the_columns_name(cell: Any) -> None:
    with pytest.raises(DataError, match="'colour'"):
        category(cell)


def test_row_by_name_and_by_order_agree() -> None:
    by_name = COLUMNS({"colour": "red", "height": "1.8", "age": 3, "unused": object()}, train=False)
    for row in ([3, 1.8, "red"], (3, 1.8, "red"), np.array([3, 1.8, "red"], dtype=object)):
        in_order = COLUMNS(row, train=False)
        assert all(torch.equal(by_name[key], in_order[key]) for key in by_name)


def test_absent_columns_are_missing_but_not_all_of_them() -> None:
    raw = COLUMNS({"age": 1}, train=False)
    assert raw["numeric"].isnan().tolist() == [False, True]
    assert raw["categories"].tolist() == [MISSING]
    with pytest.raises(DataError, match="Age"):
        COLUMNS({"Age": 1, "Height": 2}, train=False)


@pytest.mark.parametrize("value", [[1, 2], [1, 2, "red", 4], "1,2,red", b"row", 5, {1, 2, 3}])
def test_what_is_no_row_is_refused(value: Any) -> None:
    with pytest.raises(DataError):
        COLUMNS(value, train=False)


def test_cell_dropout_hides_in_training_only_and_by_the_global_generator() -> None:
    pre = RowPreprocess([f"c{i}" for i in range(200)], {f"k{i}": ("a",) for i in range(200)}, cell_dropout=0.3)
    row = [1.0] * 200 + ["a"] * 200
    assert not pre(row, train=False)["numeric"].isnan().any()
    np.random.seed(0)
    one = pre(row, train=True)
    np.random.seed(0)
    again = pickle.loads(pickle.dumps(pre))(row, train=True)
    assert one["numeric"].isnan().equal(again["numeric"].isnan())
    assert torch.equal(one["categories"], again["categories"])
    assert 0.2 < one["numeric"].isnan().double().mean() < 0.4
    assert set(one["categories"].tolist()) == {MISSING, UNKNOWN, 2}
