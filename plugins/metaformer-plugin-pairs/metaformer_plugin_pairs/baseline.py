"""What can be had without a model: `python -m metaformer_plugin_pairs.baseline`.

The most frequent answer, the most frequent answer to the very same sentence (which never looks at a picture), and
support vectors that read the digits and follow the rule that made the sentences: what a perfect reader of the sentence
gets.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metaformer.types import Sample
from metaformer_plugin_pairs.digits import NAMES, DigitEntailment, DigitPairs, DigitQuestions


def blind(train: Any, valid: Any, text: str, target: str) -> tuple[float, float]:
    """Accuracy of the majority answer, and of the majority answer to each sentence."""
    every: Counter[str] = Counter()
    by_text: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for i in range(len(train)):
        sample = train[i]
        every[sample[target]] += 1
        by_text[sample[text]][sample[target]] += 1
    most = every.most_common(1)[0][0]
    known = {sentence: counts.most_common(1)[0][0] for sentence, counts in by_text.items()}
    samples = [valid[i] for i in range(len(valid))]
    alone = np.mean([sample[target] == most for sample in samples])
    told = np.mean([sample[target] == known.get(sample[text], most) for sample in samples])
    return float(alone), float(told)


def reader(train: Any) -> Any:
    """Pictures uint8 [8 8] → digits, by support vectors."""
    from sklearn.svm import SVC

    machine = SVC(gamma=0.001 * (16 / 255) ** 2).fit(train.images.reshape(len(train.images), -1), train.labels)

    def read(image: NDArray[np.uint8]) -> int:
        return int(machine.predict(image.reshape(1, -1))[0])

    return read


def answer(sample: Sample, read: Any) -> str:
    """The rule of the data set, over digits that were read."""
    if "question" in sample:
        label, question = read(sample["image"]), sample["question"]
        if question.startswith("which"):
            return NAMES[label]
        if "larger" in question:
            return "yes" if label > NAMES.index(question.split()[-1].rstrip("?")) else "no"
        return "yes" if (label % 2 == 0) == ("even" in question) else "no"
    if "left" in sample:
        left, right, sentence = read(sample["left"]), read(sample["right"]), sample["sentence"]
        return str({"both": left == right, "the": (left > right) == ("left" in sentence)}[sentence.split()[0]])
    words = sample["sentence"].split()
    if words[:3] != ["this", "is", "a"]:
        return "neutral"
    return "entailment" if NAMES[read(sample["image"])] == words[3] else "contradiction"


def main() -> None:
    """Print a line per data set."""
    for kind, text, target in (
        (DigitQuestions, "question", "answer"),
        (DigitPairs, "sentence", "label"),
        (DigitEntailment, "sentence", "label"),
    ):
        train, valid = kind(split="train"), kind(split="valid")
        alone, told = blind(train, valid, text, target)
        read = reader(train)
        right = np.mean([answer(valid[i], read) == valid[i][target] for i in range(len(valid))])
        best = f"support vectors and the rule {right:.3f}"
        print(f"{kind.kind}: majority {alone:.3f}, without the picture {told:.3f}, {best}")


if __name__ == "__main__":
    main()
