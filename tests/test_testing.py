"""The conformance kit: sound components pass every check, and each defect is caught by the check that names it."""

import random
import socket

import numpy as np
import pytest
import torch
from torch import nn

from metaformer.base import Dataset, Encoder, Head, Metric, Objective, Preprocess, Tokenizer, masked_mean
from metaformer.errors import DataError, MetaformerError
from metaformer.testing import (
    dataset_checks,
    encoder_checks,
    head_checks,
    metric_checks,
    objective_checks,
    tokenizer_checks,
)
from metaformer.types import IGNORE, Target, TokenBatch


def fails(checks, name):
    """The sentence of the check `name`, which must fail."""
    (check,) = [check for check in checks if check.name == name]
    with pytest.raises(AssertionError) as caught:
        check.run()
    return str(caught.value)


def passes(checks):
    """Names of all checks, which must pass."""
    names = []
    for check in checks:
        check.run()
        names.append(check.name)
    assert len(set(names)) == len(names)
    return names


# A sound tokenizer of smells (lists of numbers), and what may go wrong with it.


class SmellPreprocess(Preprocess):
    def __call__(self, value, train):
        if not isinstance(value, list):
            raise DataError("a list of numbers", repr(value))
        values = torch.tensor(value, dtype=torch.float32)
        if train:
            values = values + 0.1 * torch.randn_like(values)
        return {"values": values, "mask": torch.ones(len(value), dtype=torch.bool)}

    def blank(self):
        return self([0.0], False)

    def example(self):
        return self([0.0] * 8, False)


class Smell(Tokenizer):
    """One token per number, whose values are scaled by a fitted deviation."""

    fits = True
    modality = "smell"

    def __init__(self, dim):
        super().__init__()
        self.preprocess = SmellPreprocess()
        self.linear = nn.Linear(1, dim)
        self.place = nn.Parameter(torch.randn(8, dim))
        self.register_buffer("std", torch.ones(()))

    def fit(self, values):
        self.std.copy_(torch.tensor([number for value in values for number in value]).std())

    def forward(self, raw):
        positions = self.place[: raw["values"].shape[1]]
        x = self.linear((raw["values"] / self.std).unsqueeze(-1)) + positions
        return TokenBatch(x, raw["mask"], self.modality, positions=positions)


class FixedWidth(Smell):
    def __init__(self, dim):
        super().__init__(16)


class UpsideDownMask(Smell):
    def forward(self, raw):
        tokens = super().forward(raw)
        return tokens._replace(mask=~tokens.mask)


class FloatMask(Smell):
    def forward(self, raw):
        tokens = super().forward(raw)
        return tokens._replace(mask=tokens.mask.float())


class PaddingLeak(Smell):
    def forward(self, raw):
        return super().forward({**raw, "values": raw["values"] - raw["values"].mean(dim=1, keepdim=True)})


class PaddingIsReal(Smell):
    def forward(self, raw):
        tokens = super().forward(raw)
        return tokens._replace(mask=torch.ones_like(tokens.mask))


class MixedRows(Smell):
    def forward(self, raw):
        tokens = super().forward(raw)
        return tokens.with_x(tokens.x + tokens.x[:1, :1])


class BlankIsNaN(Smell):
    def forward(self, raw):
        values = raw["values"]
        return super().forward({**raw, "values": values / values.abs().amax(dim=1, keepdim=True)})


class HiddenRandomness(Smell):
    def forward(self, raw):
        tokens = super().forward(raw)
        return tokens.with_x(tokens.x + 0.01 * torch.randn_like(tokens.x))


class MovingStatistics(Smell):
    def forward(self, raw):
        self.std.mul_(0.9)
        return super().forward(raw)


class Reinitialised(Smell):
    def forward(self, raw):
        nn.init.zeros_(self.linear.bias)
        return super().forward(raw)


class WritesIntoTheBatch(Smell):
    def forward(self, raw):
        raw["values"].mul_(2)
        return super().forward(raw)


class IdleParameter(Smell):
    def __init__(self, dim):
        super().__init__(dim)
        self.forgotten = nn.Linear(dim, dim)


class EmptyParameter(Smell):
    def __init__(self, dim):
        super().__init__(dim)
        self.extra = nn.Parameter(torch.empty(0, dim))


class UnsavedStatistics(Smell):
    def __init__(self, dim):
        super().__init__(dim)
        self.register_buffer("std", torch.ones(()), persistent=False)


class IdsInHalfPrecision(Smell):
    """Numbers that must stay exact go through a matrix product."""

    def forward(self, raw):
        year = 2000 + raw["values"].unsqueeze(-1)
        return super().forward({**raw, "values": (year @ torch.ones(1, 1) - 2000).squeeze(-1)})


class NeedsMemory(Smell):
    def forward(self, raw):
        return super().forward({**raw, "values": raw["values"] * float(raw["values"].abs().max() > 0)})


class WrongPositions(Smell):
    def forward(self, raw):
        return super().forward(raw)._replace(positions=self.place)


class RandomWeights(Smell):
    def __init__(self, dim):
        super().__init__(dim)
        self.linear.weight.data.copy_(torch.from_numpy(np.random.default_rng().normal(size=(dim, 1))))


class UnevenFit(Smell):
    def fit(self, values):
        self.std.fill_(float(np.random.default_rng().uniform(1, 2)))


class NeverFitted(Smell):
    fits = False


class ForeignWeightsOnly(Smell):
    def translate(self, source):
        return {name.removeprefix("smell."): tensor for name, tensor in source.items() if name.startswith("smell.")}


class Chatty(Smell):
    def __init__(self, dim):
        super().__init__(dim)
        with socket.socket() as line:
            line.connect(("localhost", 9))


def with_preprocess(preprocess):
    class Other(Smell):
        def __init__(self, dim):
            super().__init__(dim)
            self.preprocess = preprocess()

    return Other


class Unpicklable(SmellPreprocess):
    def __init__(self):
        self.scale = lambda value: value


class Forgetful(SmellPreprocess):
    """Loses its settings on the way to a worker."""

    scale = 1.0

    def __init__(self):
        self.scale = 2.0

    def __getstate__(self):
        return {"nothing": None}

    def __call__(self, value, train):
        raw = super().__call__(value, train)
        return {**raw, "values": raw["values"] * self.scale}


class JittersInEvaluation(SmellPreprocess):
    def __call__(self, value, train):
        return super().__call__(value, True)


class SeedsEverybody(SmellPreprocess):
    def __call__(self, value, train):
        torch.manual_seed(0)
        np.random.seed(0)
        return super().__call__(value, train)


class OwnGenerator(SmellPreprocess):
    generator = random.Random()

    def __call__(self, value, train):
        raw = super().__call__(value, False)
        return {**raw, "values": raw["values"] + self.generator.random()} if train else raw


class TakesAnything(SmellPreprocess):
    def __call__(self, value, train):
        return super().__call__([float(number) for number in value], train)


class SmallExample(SmellPreprocess):
    def example(self):
        return self.blank()


SMELLS = [[0.5, -1.0, 2.0], [1.0], [0.3, 0.1, -0.4, 0.9, 1.5]]
DEFECTIVE_TOKENIZERS = [
    (FixedWidth, "output_shape", "tokens are 16 wide where the encoder is 32"),
    (UpsideDownMask, "mask", "upside down"),
    (FloatMask, "output_dtype", "not boolean"),
    (PaddingLeak, "padding_invariance", "padding leak"),
    (PaddingIsReal, "padding_invariance", "real tokens alone and"),
    (MixedRows, "batch_order", "mixes the rows"),
    (BlankIsNaN, "blank", "not finite"),
    (HiddenRandomness, "eval_mode", "something is drawn"),
    (MovingStatistics, "eval_mode", "changes: std"),
    (Reinitialised, "eval_mode", "changes: linear.bias"),
    (WritesIntoTheBatch, "input_unchanged", "writes into the batch"),
    (IdleParameter, "gradient_reach", "no gradient reaches: forgotten.weight, forgotten.bias"),
    (EmptyParameter, "empty_parameters", "ZeRO-3 cannot partition: extra"),
    (UnsavedStatistics, "state_dict", "kept outside"),
    (IdsInHalfPrecision, "bf16_autocast", "cast to bf16"),
    (NeedsMemory, "meta_device", "meta device"),
    (WrongPositions, "positions", "neither [T D] nor [B T D]"),
    (RandomWeights, "construction", "differ in: linear.weight"),
    (UnevenFit, "fit", "two fits to the same values differ in: std"),
    (NeverFitted, "fit", "set `fits = True`"),
    (ForeignWeightsOnly, "own_weights", "own tensors"),
    (Chatty, "offline", "uses the network"),
    (with_preprocess(Unpicklable), "preprocess_pickle", "cannot be pickled"),
    (with_preprocess(Forgetful), "preprocess_pickle", "something else"),
    (with_preprocess(JittersInEvaluation), "preprocess_determinism", "the second time"),
    (with_preprocess(SeedsEverybody), "preprocess_random_state", "numpy, torch"),
    (with_preprocess(OwnGenerator), "augmentation", "a generator of its own"),
    (with_preprocess(TakesAnything), "bad_values", "raises no DataError, but ValueError"),
    (with_preprocess(SmallExample), "example", "counted too low"),
    (with_preprocess(nn.Identity), "declarations", "not a metaformer.base.Preprocess"),
]


def test_a_sound_tokenizer_passes_everything():
    assert len(passes(tokenizer_checks(Smell, SMELLS, bad=["smoke", None]))) == 26


@pytest.mark.parametrize(
    ("defective", "name", "sentence"),
    DEFECTIVE_TOKENIZERS,
    ids=[f"{name}-{cls.__name__}{i}" for i, (cls, name, _) in enumerate(DEFECTIVE_TOKENIZERS)],
)
def test_a_defective_tokenizer_is_caught_by_the_check_that_names_the_defect(defective, name, sentence):
    assert sentence in fails(tokenizer_checks(defective, SMELLS, bad=["smoke"]), name)


def test_what_a_component_raises_becomes_the_sentence_of_its_check():
    class Broken(Smell):
        def forward(self, raw):
            raise RuntimeError("no nose")

    assert fails(tokenizer_checks(Broken, SMELLS), "mask") == "mask: raises RuntimeError: no nose"


def test_without_samples_nothing_can_be_checked():
    with pytest.raises(MetaformerError, match="no samples"):
        tokenizer_checks(Smell, [])


def test_checks_leave_the_global_random_generators_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    passes(tokenizer_checks(Smell, SMELLS))
    assert torch.equal(torch.rand(3), expected)


def test_components_can_be_given_as_a_recipe_names_them():
    passes(encoder_checks(("identity", {"dim": 8})))
    assert "extra" in fails(head_checks(("classification", {"num_classes": 2, "extra": 1})), "predicts")


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
    assert len(passes(encoder_checks(Averaging))) == 15
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
    assert len(passes(head_checks(Count))) == 12
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
    assert len(passes(objective_checks(Distance, {"count": Count}))) == 11
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
    assert len(passes(metric_checks(Hits, LOGITS, CLASSES, form))) == 7
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
