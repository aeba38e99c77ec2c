"""`python_topics`: the split holds nothing back and shares nothing."""

from __future__ import annotations

import pickle
import re
from collections import Counter

import pytest
from metaformer_plugin_text.topics import TOPICS, PythonTopics, _pack, _sentences

from metaformer.errors import DataError


@pytest.fixture(scope="module")
def splits() -> tuple[PythonTopics, PythonTopics]:
    return PythonTopics(split="train"), PythonTopics(split="valid")


def test_every_class_is_in_both_splits_one_fifth_in_valid(splits: tuple[PythonTopics, PythonTopics]) -> None:
    counts = [Counter(label for _, label in split.samples) for split in splits]
    assert counts[0].keys() == counts[1].keys() == set(range(len(TOPICS)))
    for label in counts[0]:
        total = counts[0][label] + counts[1][label]
        assert counts[1][label] == total // 5


def test_no_text_is_in_both_splits_or_in_two_classes(splits: tuple[PythonTopics, PythonTopics]) -> None:
    passages = [text for split in splits for text, _ in split.samples]
    assert len(set(passages)) == len(passages)
    sentences = [{s for text, _ in split.samples for s in re.split(r"(?<=[.!?])\s+", text)} for split in splits]
    # Pieces of cut sentences may meet by chance where they are short (rules of tables); whole ones may not.
    shared = {s for s in sentences[0] & sentences[1] if re.search(r"[a-z]{3,} [a-z]{3,} [a-z]{3,}.*[.!?]$", s)}
    assert not shared


def test_passages_have_the_asked_length_and_no_headings(splits: tuple[PythonTopics, PythonTopics]) -> None:
    for split in splits:
        for text, _ in split.samples:
            assert 40 <= len(text) <= 200
            assert text == " ".join(text.split())
            assert not re.search(r"\w [*=]{4}", text)


def test_headings_go_and_sentences_stay() -> None:
    text = "Title\n*****\n\nOne here. Two\nthere.\n\nSub\n---\nThree."
    assert list(_sentences(text)) == ["One here.", "Two there.", "Three."]
    assert list(_pack(["aaaa.", "bb.", "cc."], 9)) == ["aaaa. bb.", "cc."]
    assert list(_pack(["one two three"], 7)) == ["one two", "three"]


def test_sample_fingerprint_and_pickle(splits: tuple[PythonTopics, PythonTopics]) -> None:
    train, valid = splits
    sample = train[0]
    assert set(sample) == {"text", "label"}
    assert train.classes["label"][sample["label"]] == TOPICS[0]
    assert train.fingerprint() == PythonTopics(split="train").fingerprint() != valid.fingerprint()
    assert pickle.loads(pickle.dumps(valid))[3] == valid[3]


def test_unknown_topic_is_named() -> None:
    with pytest.raises(DataError, match="nonsense"):
        PythonTopics(split="train", topics=("types", "nonsense"))
