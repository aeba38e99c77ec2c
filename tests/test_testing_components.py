"""The conformance kit on encoders, heads, objectives, metrics and data sets: the defect names the check."""

import random

import numpy as np
import pytest
import torch
from torch import nn

from metaformer.base import Dataset, Encoder, Head, Metric, Objective, masked_mean
from metaformer.testing import dataset_checks, encoder_checks, head_checks, metric_checks, objective_checks
from metaformer.types import IGNORE, Target, TokenBatch
from tests.verdict import fails, passes

# Encoders.


class Averaging(Encoder):
    """Adds a share of the mean of the real tokens."""

    def __init__(self):
        super().__init__()
        self.dim = 16
        self.blocks = nn.ModuleList([nn.Linear(16, 16)])

    def forward(self, tokens):
        return tokens.with_x(tokens.x + self.blocks[0](masked_mean(tokens.x, tokens.mask)).unsqueeze(1))


class SeesPadding(Averaging):
    def forward(self, tokens):
        return tokens.with_x(tokens.x + self.blocks[0](tokens.x.mean(dim=1, keepdim=True)))


class DividesByZero(Averaging):
    def forward(self, tokens):
        out = super().forward(tokens)
        return out.with_x(out.x / tokens.mask.any(dim=1).float()[:, None, None])


class NaNGradient(Averaging):
    """Finite in the forward pass, and not in the backward pass: the square root of zero."""

    def forward(self, tokens):
        length = (tokens.x * tokens.mask[:, :, None]).square().sum(dim=(1, 2), keepdim=True).sqrt()
        return tokens.with_x(super().forward(tokens).x + 0.1 * length)


class CutsGradients(Averaging):
    def forward(self, tokens):
        return super().forward(tokens.with_x(tokens.x.detach()))


class ForgetsPositions(Averaging):
    def forward(self, tokens):
        return TokenBatch(super().forward(tokens).x, tokens.mask, tokens.modality)


class OneTokenLess(Averaging):
    def forward(self, tokens):
        return tokens.with_x(tokens.x[:, 1:])


class NoBlocks(Averaging):
    def __init__(self):
        super().__init__()
        self.layer = self.blocks[0]
        del self.blocks


@pytest.mark.parametrize(
    ("defective", "name", "sentence"),
    [
        (SeesPadding, "padding_invariance", "padding leak"),
        (SeesPadding, "gradient_through", "masked tokens get a gradient"),
        (DividesByZero, "empty_row", "not finite"),
        (NaNGradient, "empty_row", "gradients that are not finite"),
        (CutsGradients, "gradient_through", "passes no gradient"),
        (ForgetsPositions, "same_shape", "does not hand on ids, grid, num_prefix, positions"),
        (OneTokenLess, "same_shape", "come out as [3, 5, 16]"),
        (NoBlocks, "declarations", "no ModuleList"),
    ],
)
def test_a_defective_encoder_is_caught(defective, name, sentence):
    assert len(passes(encoder_checks(Averaging))) == 17
    assert sentence in fails(encoder_checks(defective), name)


# Heads.


class Count(Head):
    predicts = "values"

    def __init__(self, dim):
        super().__init__()
        self.size = 2
        self.linear = nn.Linear(dim, 2)

    def forward(self, tokens):
        return self.linear(masked_mean(tokens.x, tokens.mask))


class WrongSize(Count):
    def __init__(self, dim):
        super().__init__(dim)
        self.size = 3


class NotUnit(Count):
    predicts = "embedding"


class SumsPadding(Count):
    def forward(self, tokens):
        return self.linear(tokens.x.sum(dim=1))


class EmptyMean(Count):
    def forward(self, tokens):
        weight = tokens.mask.float().unsqueeze(-1)
        return self.linear((tokens.x * weight).sum(dim=1) / weight.sum(dim=1))


@pytest.mark.parametrize(
    ("defective", "name", "sentence"),
    [
        (WrongSize, "output_shape", "size = 3 promise [3, 3]; [3, 2] comes out"),
        (NotUnit, "output_shape", "unit length"),
        (SumsPadding, "padding_invariance", "padding leak"),
        (EmptyMean, "empty_row", "not finite"),
    ],
)
def test_a_defective_head_is_caught(defective, name, sentence):
    assert len(passes(head_checks(Count))) == 16
    assert sentence in fails(head_checks(defective), name)


# Objectives.


class Distance(Objective):
    def __init__(self, heads, widths):
        super().__init__()
        self.uses, self.targets = ("count",), {"count": Target("values", 2)}
        self.unit = nn.Parameter(torch.ones(()))

    def forward(self, model, batch):
        prediction = model.predict(batch, "count")
        target = batch.targets["count"]
        counts = ~target.isnan() & prediction.present[:, None]
        terms = (self.unit * prediction.value - target.nan_to_num()).square() * counts
        return {"distance": terms.sum() / self.divisor(counts)}

    def divisor(self, counts):
        return counts.sum().clamp(min=1)


class MeanOverAll(Distance):
    def divisor(self, counts):
        return counts.numel()


class ZeroOverZero(Distance):
    def divisor(self, counts):
        return counts.sum()


class Unconnected(Distance):
    def forward(self, model, batch):
        losses = super().forward(model, batch)
        return losses if batch.present["left"].any() else {"distance": torch.zeros(())}


class SkipsTheBlank(Distance):
    def forward(self, model, batch):
        if batch.present["left"].any():
            return super().forward(model, batch)
        return {"distance": 0.0 * self.unit}


class KeepsTheHeads(Distance):
    def __init__(self, heads, widths):
        super().__init__(heads, widths)
        self.heads = nn.ModuleDict(dict(heads))


class UsesNothing(Distance):
    def __init__(self, heads, widths):
        super().__init__(heads, widths)
        self.uses = ("nose",)


class PerSample(Distance):
    def forward(self, model, batch):
        return {"distance": model.predict(batch, "count").value.square()}


@pytest.mark.parametrize(
    ("defective", "name", "sentence"),
    [
        (MeanOverAll, "absent_rows", "samples that lack everything"),
        (ZeroOverZero, "blank_batch", "is nan, not 0"),
        (Unconnected, "blank_batch", "cut off"),
        (SkipsTheBlank, "same_modules", "heads.count"),
        (KeepsTheHeads, "heads_stay_outside", "registers twice: count.linear.weight"),
        (UsesNothing, "declarations", "nose"),
        (PerSample, "losses", "not that of a number"),
    ],
)
def test_a_defective_objective_is_caught(defective, name, sentence):
    # The run-time checks of types in these tests draw from python's `random` wherever the model passes on a list.
    quiet = [check for check in objective_checks(Distance, {"count": Count}) if check.name != "random_state"]
    assert len(passes(quiet)) == 15
    assert sentence in fails(objective_checks(defective, {"count": Count}), name)


def test_targets_that_the_kit_draws_leave_one_sample_out():
    seen = {}

    class Listens(Distance):
        def __init__(self, heads, widths):
            super().__init__(heads, widths)
            self.targets = {kind: Target(kind, 2) for kind in ("class", "classes", "multilabel", "values")}

        def forward(self, model, batch):
            seen.update(batch.targets)
            return {"nothing": self.unit * 0}

    next(c for c in objective_checks(Listens, {"count": Count}) if c.name == "losses").run()
    assert {kind: list(target.shape) for kind, target in seen.items()} == {
        "class": [4],
        "classes": [4, 5],
        "multilabel": [4, 2],
        "values": [4, 2],
    }
    assert seen["class"][3] == IGNORE
    assert seen["class"][:3].ge(0).all()
    assert seen["multilabel"][3].isnan().all()


# Metrics.


class Hits(Metric):
    higher_is_better = True

    def __init__(self):
        self.right = self.seen = 0

    def update(self, prediction, target):
        self.right += int((prediction.argmax(dim=1) == target).sum())
        self.seen += len(target)

    def compute(self):
        return self.right / max(self.seen, 1)


class MeanOfBatches(Hits):
    def __init__(self):
        self.scores = []

    def update(self, prediction, target):
        if len(target):
            self.scores.append(float((prediction.argmax(dim=1) == target).float().mean()))

    def compute(self):
        return sum(self.scores) / len(self.scores)


class FirstRow(Hits):
    def update(self, prediction, target):
        super().update(prediction[:1], target[:1])


class NoRows(Hits):
    def update(self, prediction, target):
        prediction[0]
        super().update(prediction, target)


class Lies(Hits):
    higher_is_better = False


class Shared(Hits):
    scores: list = []

    def __init__(self):
        pass

    def update(self, prediction, target):
        self.scores += (prediction.argmax(dim=1) == target).tolist()

    def compute(self):
        return sum(self.scores) / len(self.scores)


LOGITS = torch.eye(3)[[0, 1, 2, 0, 1, 2]]
CLASSES = torch.tensor([0, 1, 2, 1, 1, 0])


@pytest.mark.parametrize(
    ("defective", "name", "sentence"),
    [
        (MeanOfBatches, "split_updates", "mean over batches"),
        (FirstRow, "row_order", "another order"),
        (NoRows, "empty_update", "IndexError"),
        (Lies, "direction", "higher_is_better is False"),
        (Shared, "fresh_start", "its state is not its own"),
    ],
)
def test_a_defective_metric_is_caught(defective, name, sentence):
    form = Target("class", 3)
    assert len(passes(metric_checks(Hits, LOGITS, CLASSES, form))) == 8
    assert sentence in fails(metric_checks(defective, LOGITS, CLASSES, form), name)


# Data sets.


class Table(Dataset):
    def __init__(self):
        self.rows = np.arange(12.0).reshape(6, 2)
        self.classes = {"label": ["even", "odd"]}

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return {"row": self.rows[index], "label": self.classes["label"][index % 2]}


class Empty(Table):
    def __len__(self):
        return 0


class DrawsSamples(Table):
    def __getitem__(self, index):
        return {"row": self.rows[index] + random.random()}


class OpenFile(Table):
    def __getitem__(self, index):
        self.file = (number for number in range(3))
        return super().__getitem__(index)


class AddressFingerprint(Table):
    def fingerprint(self):
        return f"{id(self)}"


class SameIds(Table):
    def sample_id(self, index):
        return "sample"


class UnknownClass(Table):
    def __getitem__(self, index):
        return {**super().__getitem__(index), "label": "prime"}


@pytest.mark.parametrize(
    ("defective", "name", "sentence"),
    [
        (Empty, "length", "no samples"),
        (DrawsSamples, "stable_samples", "sample 0 is another"),
        (DrawsSamples, "random_state", "python's `random`"),
        (OpenFile, "pickle", "cannot be pickled"),
        (AddressFingerprint, "fingerprint", "second instance"),
        (SameIds, "sample_ids", "samples 0 and 1 have the same id 'sample'"),
        (UnknownClass, "classes", "none of its classes"),
    ],
)
def test_a_defective_data_set_is_caught(defective, name, sentence):
    assert len(passes(dataset_checks(Table))) == 10
    assert sentence in fails(dataset_checks(defective), name)
