"""The conformance kit: sound tokenizers pass every check, and each defect is caught by the check that names it."""

import contextlib
import random
import socket

import numpy as np
import pytest
import torch
from torch import nn

from metaformer.base import Preprocess, Tokenizer
from metaformer.errors import DataError, MetaformerError
from metaformer.testing import bridge_checks, encoder_checks, head_checks, tokenizer_checks
from metaformer.types import TokenBatch
from tests.verdict import fails, passes

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


class RedrawnInTraining(Smell):
    """Loses what was loaded as soon as training begins."""

    def train(self, mode=True):
        if mode:
            nn.init.normal_(self.linear.weight)
        return super().train(mode)


class SeedsInForward(Smell):
    def forward(self, raw):
        torch.manual_seed(0)
        return super().forward(raw)


class Contents(Smell):
    """Offers what its tokens are made of."""

    num_contents = 1

    def contents(self, raw):
        return (raw["values"] / self.std).unsqueeze(-1)


class UncountedContents(Contents):
    num_contents = 0


class WideContents(Contents):
    num_contents = 2


class LeakyContents(Contents):
    def contents(self, raw):
        return super().contents(raw) - raw["values"].mean(dim=1)[:, None, None]


class LearnedContents(Contents):
    def contents(self, raw):
        return self.linear(raw["values"].unsqueeze(-1)).detach()[:, :, :1]


class TriesQuietly(Smell):
    """Goes on without the network, which it asks for all the same."""

    def __init__(self, dim):
        super().__init__(dim)
        with contextlib.suppress(OSError):
            socket.create_connection(("localhost", 9), timeout=1)


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
    (RedrawnInTraining, "frozen", "become others: linear.weight"),
    (SeedsInForward, "random_state", "moves the global random state of torch"),
    (UncountedContents, "contents", "set `num_contents`"),
    (WideContents, "contents", "not [B P E] = [3, 5, 2]"),
    (LeakyContents, "contents", "padding leak"),
    (LearnedContents, "contents", "depend on initial weights"),
    (TriesQuietly, "offline", "uses the network (localhost)"),
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
    assert len(passes(tokenizer_checks(Smell, SMELLS, bad=["smoke", None]))) == 29


@pytest.mark.parametrize(
    ("defective", "name", "sentence"),
    DEFECTIVE_TOKENIZERS,
    ids=[f"{name}-{cls.__name__}{i}" for i, (cls, name, _) in enumerate(DEFECTIVE_TOKENIZERS)],
)
def test_a_defective_tokenizer_is_caught_by_the_check_that_names_the_defect(defective, name, sentence):
    assert sentence in fails(tokenizer_checks(defective, SMELLS, bad=["smoke"]), name)


def test_contents_that_are_sound_pass():
    passes(check for check in tokenizer_checks(Contents, SMELLS) if check.name == "contents")


def test_what_a_component_raises_becomes_the_sentence_of_its_check():
    class Broken(Smell):
        def forward(self, raw):
            raise RuntimeError("no nose")

    assert fails(tokenizer_checks(Broken, SMELLS), "mask") == "mask: raises RuntimeError: no nose"


def test_without_samples_nothing_can_be_checked():
    with pytest.raises(MetaformerError, match="no samples"):
        tokenizer_checks(Smell, [])
    with pytest.raises(MetaformerError, match="no roles"):
        bridge_checks(("any", {}), {})


def test_checks_say_what_they_are_about():
    (check, *_) = head_checks(("classification", {"num_classes": 2}))
    assert (check.kind, check.use) == ("head", ("classification", {"num_classes": 2}))
    (check, *_) = tokenizer_checks(Smell, SMELLS)
    assert (check.kind, check.use) == ("tokenizer", None)
    assert all(check.promise.endswith(".") for check in tokenizer_checks(Smell, SMELLS))


def test_checks_leave_the_global_random_generators_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    passes(tokenizer_checks(Smell, SMELLS))
    assert torch.equal(torch.rand(3), expected)


def test_components_can_be_given_as_a_recipe_names_them():
    passes(encoder_checks(("identity", {"dim": 8})))
    assert "extra" in fails(head_checks(("classification", {"num_classes": 2, "extra": 1})), "predicts")
