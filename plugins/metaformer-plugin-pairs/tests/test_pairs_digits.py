"""Questions and sentences about real digits: right, balanced, the same every time, no picture in both splits."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from metaformer_plugin_pairs.digits import NAMES, DigitEntailment, DigitPairs, DigitQuestions

KINDS = (DigitQuestions, DigitPairs, DigitEntailment)


@pytest.mark.parametrize("kind", KINDS)
def test_no_picture_is_in_both_splits(kind):
    train, valid = kind(split="train"), kind(split="valid")
    assert not set(train.index) & set(valid.index)
    assert len(set(train.index) | set(valid.index)) == 1797


def test_answers_are_right():
    data = DigitQuestions(split="valid")
    for i in range(len(data)):
        sample, label = data[i], int(data.labels[i % len(data.labels)])
        question, answer = sample["question"], sample["answer"]
        if question == "which digit is this?":
            assert answer == NAMES[label]
        elif "larger" in question:
            bound = NAMES.index(question.removeprefix("is it larger than ").removesuffix("?"))
            assert answer == ("yes" if label > bound else "no")
        else:
            assert answer == ("yes" if (label % 2 == 0) == ("even" in question) else "no")


def test_sentences_about_two_digits_are_right_and_balanced():
    data = DigitPairs(split="valid")
    counts = Counter()
    of = {image.tobytes(): int(label) for image, label in zip(data.images, data.labels, strict=True)}
    for i in range(len(data)):
        sample = data[i]
        left, right = (of[np.asarray(sample[side]).tobytes()] for side in ("left", "right"))
        says = {
            "the left digit is larger": left > right,
            "the right digit is larger": right > left,
            "both digits are the same": left == right,
        }[sample["sentence"]]
        assert str(says) == sample["label"]
        counts[sample["label"]] += 1
    assert abs(counts["True"] / len(data) - 0.5) < 0.05


def test_entailment_is_balanced_and_right():
    data = DigitEntailment(split="valid")
    counts = Counter(data[i]["label"] for i in range(len(data)))
    assert all(abs(count / len(data) - 1 / 3) < 0.05 for count in counts.values())
    for i in range(200):
        sample, label = data[i], int(data.labels[i % len(data.labels)])
        named = sample["sentence"] == f"this is a {NAMES[label]}"
        assert named == (sample["label"] == "entailment")


def test_yes_and_no_say_nothing_by_themselves():
    data = DigitQuestions(split="train")
    answers = Counter(data[i]["answer"] for i in range(len(data)) if data[i]["question"] == "is it even?")
    assert abs(answers["yes"] / sum(answers.values()) - 0.5) < 0.05


@pytest.mark.parametrize("kind", KINDS)
def test_samples_are_the_same_every_time(kind):
    one, other = kind(split="valid"), kind(split="valid")
    assert repr(one[17]) == repr(other[17])
    assert one.fingerprint() == other.fingerprint() != kind(split="valid", seed=1).fingerprint()
