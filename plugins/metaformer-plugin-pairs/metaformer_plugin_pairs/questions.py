"""VQA v2: questions about COCO's pictures, each answered by ten people.

Source: arXiv 1612.00837; soft scores min(1, n / 3) for an answer that n of ten people gave, as its evaluation counts;
answers that at least `min_count` training questions have, as in the published systems (nine: 3129 answers).
Ours differs: the evaluation's average over the ten subsets of nine people is left to its own code.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from metaformer.base import Dataset
from metaformer.errors import DataError
from metaformer.types import Sample
from metaformer_plugin_pairs.layout import digest, field, need_folder, read_json

GET = "download questions, annotations and pictures from visualqa.org"
_DIGITS = {"none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6",
           "seven": "7", "eight": "8", "nine": "9", "ten": "10"}  # fmt: skip
_ARTICLES = {"a", "an", "the"}


def normalize(answer: str) -> str:
    """An answer as answers are compared: lower case, no articles and punctuation, numbers as digits."""
    text = answer.lower().replace("\n", " ").replace("\t", " ").strip()
    text = re.sub(r"(?<=\d),(?=\d)", "", text)
    text = re.sub(r"[;/\[\]\"{}()=+\\_\-<>@`,?!]", " ", text)
    text = re.sub(r"\.(?!\d)", "", text)
    words = [_DIGITS.get(word, word) for word in text.split() if word not in _ARTICLES]
    return " ".join(words)


class VQAv2(Dataset):
    """`{image: file, question: text, answer: class, answer_scores: [float]}`; the test split has no answers.

    root: folder of the four JSON files and of `train2014/`, `val2014/`, `test2015/`. split: `train`, `val`,
    `train+val`, `test`. Classes are the normalised answers that at least `min_count` questions of the training files
    have, the most frequent first; with `with_val` those of the validation files count as well. `answer_scores` go with
    `binary_cross_entropy` and `scores: true`; questions of which no answer is a class have all zeros.
    answers: `each` makes a sample of every answer that was given to a question, `{image, question, answer: text,
    answer_weight}`, where the weight is the share of people who gave it: for models that say answers (ALBEF)."""

    def __init__(
        self,
        *,
        root: Path,
        split: Literal["train", "val", "train+val", "test"],
        min_count: Annotated[int, Field(gt=0)] = 9,
        with_val: bool = True,
        answers: Literal["class", "each"] = "class",
    ) -> None:
        self.root = Path(root)
        need_folder(self.root, "VQA v2", GET)
        counts: Counter[str] = Counter()
        for part in ("train", "val") if with_val else ("train",):
            for given in self._answers(part).values():
                counts[Counter(given).most_common(1)[0][0]] += 1
        kept = [answer for answer, n in sorted(counts.items(), key=lambda item: (-item[1], item[0])) if n >= min_count]
        if not kept:
            raise DataError(f"answers with min_count {min_count}", "none", "lower min_count")
        self.classes = {"answer": kept}
        self.index = {answer: i for i, answer in enumerate(kept)}
        self.samples: list[tuple[str, str, int, list[str]]] = []
        self.said: list[tuple[int, str, float]] = []
        """With `answers: each`: which of `samples`, an answer, and its share."""
        for part in split.split("+"):
            told = {} if part == "test" else self._answers(part)
            for question in self._questions(part):
                number = field(question, "question_id", int, f"the questions of {part}")
                image = field(question, "image_id", int, f"question {number}")
                folder = "test2015" if part == "test" else f"{part}2014"
                name = f"{folder}/COCO_{folder}_{image:012d}.jpg"
                text = field(question, "question", str, f"question {number}")
                self.samples.append((name, text, number, told.get(number, [])))
        if answers == "each":
            if split == "test":
                raise DataError("a sample of each answer", "the test split has no answers", "answers: class")
            for place, (*_, given) in enumerate(self.samples):
                self.said += [(place, answer, n / len(given)) for answer, n in Counter(given).items() if answer]

    def _questions(self, part: str) -> list[object]:
        year = "test2015" if part == "test" else f"{part}2014"
        path = self.root / f"v2_OpenEnded_mscoco_{year}_questions.json"
        return list(field(read_json(path, GET), "questions", list, str(path)))

    def _answers(self, part: str) -> dict[int, list[str]]:
        path = self.root / f"v2_mscoco_{part}2014_annotations.json"
        out = {}
        for entry in field(read_json(path, GET), "annotations", list, str(path)):
            number = field(entry, "question_id", int, str(path))
            given = field(entry, "answers", list, f"{path}, question {number}")
            out[number] = [normalize(field(a, "answer", str, f"{path}, question {number}")) for a in given]
            if not given:
                raise DataError(f"answers in {path}, question {number}", "none", f"get the file again: {GET}")
        return out

    def __len__(self) -> int:
        return len(self.said or self.samples)

    def __getitem__(self, index: int) -> Sample:
        if self.said:
            place, answer, share = self.said[index]
            image, question, *_ = self.samples[place]
            return {"image": image, "question": question, "answer": answer, "answer_weight": share}
        image, question, _, answers = self.samples[index]
        sample: Sample = {"image": image, "question": question}
        if answers:
            counts = Counter(answer for answer in answers if answer in self.index)
            scores = [0.0] * len(self.index)
            for answer, n in counts.items():
                scores[self.index[answer]] = min(1.0, n / 3)
            sample["answer_scores"] = scores
            if counts:
                sample["answer"] = counts.most_common(1)[0][0]
        return sample

    def sample_id(self, index: int) -> str:
        if self.said:
            place, answer, _ = self.said[index]
            return f"{self.samples[place][2]}-{answer}"
        return str(self.samples[index][2])

    def fingerprint(self) -> str:
        return f"vqa_v2:{digest(self.samples, self.classes, self.said)}"
