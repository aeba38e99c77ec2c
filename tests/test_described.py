"""Sentences about labels; tasks that are only evaluated; identities and scores as targets."""

from __future__ import annotations

import json
from hashlib import sha256
from typing import ClassVar

import pytest
import torch
from torch.nn import functional as F

from metaformer.base import Dataset
from metaformer.data.described import DescribedDataset
from metaformer.data.target import encode_target, missing
from metaformer.errors import DataError, RecipeError
from metaformer.heads.classification import ClassificationHead
from metaformer.metrics.standard import Score
from metaformer.objectives.supervised import BinaryCrossEntropy
from metaformer.recipe_file import check_file
from metaformer.retrieve import retrieve_command
from metaformer.train import train_command
from metaformer.types import UNKNOWN, Readout, Target
from tests.faulty import PAIRS, only_run, plugin


class Animals(Dataset):
    classes: ClassVar = {"label": ["cat", "dog"]}

    def __init__(self, labels):
        self.labels = labels

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return {"image": index, "label": self.labels[index]}

    def fingerprint(self):
        return "animals"


def described(labels, **knobs):
    return DescribedDataset(lambda entry: Animals(labels), data={"use": "animals"}, **knobs)


def test_a_sample_gets_a_sentence_about_its_class():
    data = described(["cat", 1, None], names={"dog": "small dog"}, templates=("a {}",))
    assert data[0] == {"image": 0, "label": "cat", "caption": "a cat"}
    assert data[1]["caption"] == "a small dog"
    assert "caption" not in data[2]
    assert data.classes == Animals.classes
    assert len(data) == 3


def test_templates_are_spread_and_always_the_same():
    data = described(["cat"] * 400, templates=("a {}", "the {}", "my {}"))
    said = [data[i]["caption"] for i in range(400)]
    assert said == [data[i]["caption"] for i in range(400)]
    for sentence in ("a cat", "the cat", "my cat"):
        assert 0.25 < said.count(sentence) / 400 < 0.42
        assert 0.2 < said[::2].count(sentence) / 200 < 0.47  # whatever the order of the classes
    assert data.fingerprint() != described(["cat"] * 400).fingerprint()


@pytest.mark.parametrize(
    ("labels", "knobs", "says"),
    [
        (["cat"], {"templates": ("a cat",)}, "templates of sentences"),
        (["cat"], {"names": {"horse": "horse"}}, "no class 'horse'"),
        ([7], {}, "names no such class"),
    ],
)
def test_what_cannot_be_described_is_said(labels, knobs, says):
    with pytest.raises(DataError, match=says):
        described(labels, **knobs)[0]


def test_identities_are_the_same_in_every_process():
    form = Target("identity", 1)
    # sha256 of the text, its first eight bytes without the sign.
    number = int.from_bytes(sha256(b"photo 7").digest()[:8], "little") >> 1
    assert int(encode_target("id", form, "photo 7", None)) == number
    assert encode_target("id", form, "photo 7", None) == encode_target("id", form, "photo 7", None)
    assert encode_target("id", form, "photo 7", None) != encode_target("id", form, "photo 8", None)
    assert int(encode_target("id", form, 12, None)) == 12
    assert int(missing(form)) == UNKNOWN
    for wrong in (-3, 1.5, True, [1]):
        with pytest.raises(DataError, match="says what the sample is"):
            encode_target("id", form, wrong, None)


def test_scores_are_between_nothing_and_all():
    form = Target("scores", 3)
    torch.testing.assert_close(encode_target("a", form, [0, 0.3, 1], None), torch.tensor([0.0, 0.3, 1.0]))
    with pytest.raises(DataError, match="from 0 to 1"):
        encode_target("a", form, [0, 0.3, 2], None)


def test_soft_answers_are_learned_and_judged_as_vqa_does():
    head = ClassificationHead(4, num_classes=3)
    objective = BinaryCrossEntropy({"answer": head}, head="answer", scores=True, reduction="sum")
    assert objective.targets["answer"].kind == "scores"
    logits, target = torch.randn(5, 3), torch.rand(5, 3)
    found = objective.loss(logits, target, torch.ones(5, dtype=torch.bool))
    torch.testing.assert_close(found, F.binary_cross_entropy_with_logits(logits, target) * 3)
    metric = Score(Target("scores", 3))
    metric.update(logits[:2], target[:2])
    metric.update(logits[2:], target[2:])
    expected = target[torch.arange(5), logits.argmax(dim=1)].mean().item()
    assert metric.compute() == pytest.approx(expected, rel=1e-5)
    assert Readout(Target("class", 2), "class").size == 2


CONTRAST = "{use: contrastive, between: [vector, words]}"
DATA = "{valid: {use: vectors, seed: 3, size: 8}}"
EVALUATED = f"tasks.others={{data: {DATA}, objective: {CONTRAST}, metrics: [median_rank]}}"


def test_a_task_without_training_data_is_only_evaluated(tmp_path, monkeypatch):
    with plugin(monkeypatch):
        sets = [f"tasks.pairs.objective={CONTRAST}", "steps=3", f"output={tmp_path}"]
        train_command([PAIRS], [*sets, "name=alone"])
        train_command([PAIRS], [*sets, "name=both", EVALUATED])
    alone, both = (only_run(tmp_path, name) for name in ("alone", "both"))
    records = [[json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()] for run in (alone, both)]
    # It trains nothing and changes nothing: the same losses, to the bit.
    losses = [[record["loss_hex"] for record in lines if "loss_hex" in record] for lines in records]
    assert losses[0] == losses[1]
    metrics = records[1][-1]["metrics"]
    assert {"others/median_rank", "others/loss", "pairs/recall@1"} <= set(metrics)
    assert not any("others" in key for record in records[1] for key in record)


def test_a_run_whose_passes_name_their_encoders_can_be_opened_again(tmp_path, monkeypatch):
    """The resolved recipe says `reads: null`, which means the pass's own stream."""
    tower = "{use: transformer, dim: 16, depth: 1, num_heads: 2}"
    sets = [
        f"encoders={{one: {tower}, other: {tower}}}",
        "passes={vector: {encoder: one}, words: {encoder: other}}",
        "heads={vector: {use: projection, reads: vector, pool: mean}, words: {use: projection, reads: words}}",
        f"tasks.pairs.objective={CONTRAST}",
        *("steps=2", f"output={tmp_path}"),
    ]
    with plugin(monkeypatch):
        train_command([PAIRS], sets)
        retrieve_command(only_run(tmp_path, "pairs"), output=tmp_path / "found.json")
    assert len(json.loads((tmp_path / "found.json").read_text())) == 2


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("tasks.pairs.data={}", "neither `train` nor `valid`"),
        ("tasks.pairs.data={valid: {use: vectors}}", "no task has data to train on"),
        ("streams={other: nowhere}", "no stream 'nowhere'"),
        ("streams={words: vector}", "already is a stream"),
        ("passes.vector.weights=file:x.safetensors", "with `types: true` only"),
    ],
)
def test_recipes_that_cannot_be_are_refused(change, says, monkeypatch):
    with plugin(monkeypatch), pytest.raises(RecipeError, match=says):
        check_file(PAIRS, [change])
