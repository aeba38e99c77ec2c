"""Real handwritten digits with made-up questions and sentences: the shapes of VQA, NLVR2 and SNLI-VE without a
download.

Source of the pictures: scikit-learn's `load_digits` (package under BSD-3-Clause), the test part of *Optical Recognition
of Handwritten Digits*, E. Alpaydin and C. Kaynak, UCI Machine Learning Repository, 1998. The questions are made by
rule from the labels: what is measured is reading the digit and the sentence, not language as people use it.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from metaformer.base import Dataset
from metaformer.errors import DataError
from metaformer.types import Sample

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
Split = Literal["train", "valid"]


class _Digits(Dataset):
    """Pictures uint8 [8 8] and labels of one split: every fifth picture of a class validates."""

    kind: str

    def __init__(self, split: Split, per_picture: int, seed: int) -> None:
        try:
            from sklearn.datasets import load_digits
        except ImportError as error:
            do = "pip install 'metaformer-plugin-pairs[samples]'"
            raise DataError(self.kind, "scikit-learn is not installed", do) from error
        digits: Any = load_digits()
        labels = np.asarray(digits.target, dtype=np.int64)
        rank = np.zeros(len(labels), dtype=np.int64)
        for label in range(10):
            at = labels == label
            rank[at] = np.arange(at.sum())
        self.index = np.flatnonzero((rank % 5 == 4) == (split == "valid"))
        self.images = np.rint(np.asarray(digits.images)[self.index] * (255 / 16)).astype(np.uint8)
        self.labels = labels[self.index]
        self.per_picture, self.seed, self.split = per_picture, seed, split

    def __len__(self) -> int:
        return len(self.labels) * self.per_picture

    def _draw(self, index: int) -> tuple[int, np.random.Generator]:
        """The picture of a sample, and what its sentence is drawn with: the same in every epoch and process."""
        return index % len(self.labels), np.random.default_rng([self.seed, self.split == "valid", index])

    def sample_id(self, index: int) -> str:
        return f"{self.kind}-{self.index[index % len(self.labels)]:04d}-{index // len(self.labels)}"

    def fingerprint(self) -> str:
        data = hashlib.sha256(self.images.tobytes() + self.labels.tobytes()).hexdigest()
        return f"{self.kind}:{self.split}:{self.per_picture}:{self.seed}:{data}"


class DigitQuestions(_Digits):
    """`{image, question, answer}`: "which digit is this?" (ten answers), "is it larger than five?", "is it even?" (yes
    or no, as often), in equal parts. Twelve answers; without the picture one in three is right at best, about."""

    kind = "digit_questions"
    classes = {"answer": [*NAMES, "no", "yes"]}

    def __init__(self, *, split: Split, per_picture: Annotated[int, Field(gt=0)] = 3, seed: int = 0) -> None:
        super().__init__(split, per_picture, seed)

    def __getitem__(self, index: int) -> Sample:
        at, draw = self._draw(index)
        label = int(self.labels[at])
        question, answer = "which digit is this?", NAMES[label]
        kind = int(draw.integers(3))
        if kind == 1:
            larger = bool(draw.integers(2))
            bounds = [n for n in range(-1, 10) if (label > n) == larger and 0 <= n <= 9]
            if bounds:
                question = f"is it larger than {NAMES[int(draw.choice(bounds))]}?"
                answer = "yes" if larger else "no"
        elif kind == 2:
            even = bool(draw.integers(2))
            question = f"is it {'even' if even else 'odd'}?"
            answer = "yes" if (label % 2 == 0) == even else "no"
        return {"image": self.images[at], "question": question, "answer": answer}


class DigitPairs(_Digits):
    """`{left, right, sentence, label: "False" | "True"}`: two pictures of a split, and a sentence about both that is
    true in half of all samples."""

    kind = "digit_pairs"
    classes = {"label": ["False", "True"]}

    def __init__(self, *, split: Split, per_picture: Annotated[int, Field(gt=0)] = 3, seed: int = 0) -> None:
        super().__init__(split, per_picture, seed)

    def __getitem__(self, index: int) -> Sample:
        at, draw = self._draw(index)
        true = bool(draw.integers(2))
        if draw.integers(2):
            other = int(draw.choice(np.flatnonzero(self.labels != self.labels[at])))
            larger = "left" if (self.labels[at] > self.labels[other]) == true else "right"
            sentence = f"the {larger} digit is larger"
        else:
            same = (self.labels == self.labels[at]) == true
            same[at] = False
            other = int(draw.choice(np.flatnonzero(same)))
            sentence = "both digits are the same"
        return {"left": self.images[at], "right": self.images[other], "sentence": sentence, "label": str(true)}


class DigitEntailment(_Digits):
    """`{image, sentence, label: "contradiction" | "entailment" | "neutral"}`: a third each. Neutral sentences say what
    no picture of a digit shows."""

    kind = "digit_entailment"
    classes = {"label": ["contradiction", "entailment", "neutral"]}

    def __init__(self, *, split: Split, per_picture: Annotated[int, Field(gt=0)] = 3, seed: int = 0) -> None:
        super().__init__(split, per_picture, seed)

    def __getitem__(self, index: int) -> Sample:
        at, draw = self._draw(index)
        label = int(self.labels[at])
        kind = self.classes["label"][int(draw.integers(3))]
        said = label if kind != "contradiction" else int(draw.choice([n for n in range(10) if n != label]))
        sentence = f"this is a {NAMES[said]}"
        if kind == "neutral":
            sentence = f"this {NAMES[int(draw.integers(10))]} was written by a {draw.choice(['tall', 'short'])} person"
            sentence = sentence.replace(sentence.split()[1], "digit", 1)
        return {"image": self.images[at], "sentence": sentence, "label": kind}
