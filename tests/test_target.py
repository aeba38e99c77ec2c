"""Targets: names to indices, missing values, errors that name the target."""

import math

import numpy as np
import pytest
import torch

from metaformer.data.target import encode_target, missing, stack_targets
from metaformer.errors import DataError
from metaformer.types import IGNORE, Target

CLASS, CLASSES = Target("class", 3), Target("classes", 3)
MULTI, VALUES = Target("multilabel", 3), Target("values", 2)
NAMES = ["cat", "dog", "eel"]


@pytest.mark.parametrize(
    ("value", "expected"),
    [("dog", 1), (2, 2), (np.int64(0), 0), (1.0, 1), (True, 1), (None, -100), ("", -100), (math.nan, -100)],
)
def test_class(value, expected):
    assert encode_target("y", CLASS, value, NAMES).item() == expected


@pytest.mark.parametrize("value", ["cow", 3, -1, 0.5, [1]])
def test_class_refuses(value):
    with pytest.raises(DataError, match="'y'"):
        encode_target("y", CLASS, value, NAMES)


def test_a_name_needs_a_list_of_classes():
    with pytest.raises(DataError, match="names no classes"):
        encode_target("y", CLASS, "cat", None)


def test_classes_per_token_are_padded():
    rows = [encode_target("y", CLASSES, v, NAMES) for v in ([0, 1], ["eel"], None)]
    assert stack_targets(CLASSES, rows).tolist() == [[0, 1], [2, IGNORE], [IGNORE, IGNORE]]


def test_multilabel_by_names_text_and_vector():
    assert encode_target("y", MULTI, ["cat", "eel"], NAMES).tolist() == [1, 0, 1]
    assert encode_target("y", MULTI, "dog; eel", NAMES).tolist() == [0, 1, 1]
    vector = encode_target("y", MULTI, [1, None, 0], NAMES)
    assert vector[0] == 1
    assert vector[1].isnan()
    with pytest.raises(DataError, match="0, 1 or missing"):
        encode_target("y", MULTI, [0.5, 0, 1], NAMES)


def test_values():
    assert encode_target("y", VALUES, ["1.5", 2], None).tolist() == [1.5, 2.0]
    assert encode_target("y", Target("values", 1), 3, None).tolist() == [3.0]
    for wrong in ([1], ["x", 1], [math.inf, 0]):
        with pytest.raises(DataError, match="'y'"):
            encode_target("y", VALUES, wrong, None)


def test_missing_is_what_losses_leave_out():
    assert missing(CLASS).item() == IGNORE
    assert torch.isnan(missing(MULTI)).all()
    assert missing(VALUES).shape == (2,)
