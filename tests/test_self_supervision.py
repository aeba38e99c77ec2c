"""Masked prediction, contrast and retrieval: what is hidden, what counts, parity with plain formulas."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from metaformer.base import Encoder, Preprocess, Tokenizer
from metaformer.errors import MetaformerError
from metaformer.heads.classification import ClassificationHead
from metaformer.heads.projection import ProjectionHead
from metaformer.metrics.retrieval import Recall
from metaformer.model import MetaFormer, Route
from metaformer.objectives.contrastive import Contrastive
from metaformer.objectives.masked import MaskedPatches
from metaformer.types import Batch, TokenBatch

B, P, E, D = 4, 6, 3, 8


class Nothing(Preprocess):
    def __call__(self, value, train):
        return {"values": torch.as_tensor(value)}

    def blank(self):
        return {"values": torch.zeros(1, E)}


class Rows(Tokenizer):
    """[B P E] → a class token and a token per row, with positions."""

    num_contents = E

    def __init__(self, dim):
        super().__init__()
        self.preprocess = Nothing()
        self.linear = nn.Linear(E, dim)
        self.places = nn.Parameter(torch.randn(P + 1, dim))

    def forward(self, raw):
        x = F.pad(self.linear(raw["values"]), (0, 0, 1, 0)) + self.places
        mask = torch.ones(x.shape[:2], dtype=torch.bool)
        mask[0, 4:] = False
        return TokenBatch(x, mask, "rows", num_prefix=1, positions=self.places)

    def contents(self, raw):
        return raw["values"]


class Spy(Encoder):
    """The identity, which keeps what it has seen."""

    def __init__(self):
        super().__init__()
        self.dim, self.blocks, self.seen = D, nn.ModuleList(), []

    def forward(self, tokens):
        self.seen.append(tokens)
        return tokens


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def model(**heads) -> MetaFormer:
    for head in heads.values():
        head.reads = "rows"
    return MetaFormer({"rows": Rows(D)}, {"shared": Spy()}, {"rows": Route(("rows",), "shared")}, {}, {}, heads)


def batch() -> Batch:
    return Batch(
        "t", {"rows": {"values": torch.randn(B, P, E)}}, {"rows": torch.ones(B, dtype=torch.bool)}, {}, ["a"] * B
    )


def masked(**knobs) -> MaskedPatches:
    return MaskedPatches({"rows": D}, {"rows": E, "words": 0}, **{"stream": "rows", **knobs})


def test_the_encoder_sees_the_hidden_vector_at_its_place_and_nothing_of_the_contents():
    here, objective, data = model(), masked(mask_ratio=0.5), batch()
    plain = here.tokens(data, "rows")
    loss = objective(here, data)["masked"]
    (seen,) = here.encoders["shared"].seen
    hidden = (seen.x != plain.x).any(dim=2)
    assert not hidden[:, 0].any()  # never the class token
    assert hidden[0].sum() == 2  # half of three real patches, rounded up
    assert (hidden[1:].sum(dim=1) == 3).all()
    expected = (objective.hidden + plain.positions).expand_as(plain.x)
    torch.testing.assert_close(seen.x[hidden], expected[hidden])
    guess = objective.guess(objective.norm(seen.x[:, 1:]))
    error = (guess - data.streams["rows"]["values"]) ** 2
    torch.testing.assert_close(loss, error[hidden[:, 1:]].mean())
    loss.backward()
    assert all(p.grad is not None for p in objective.parameters())


def test_what_is_hidden_is_drawn_anew_in_training_and_stays_in_evaluation():
    here, objective, data = model(), masked(), batch()
    drawn = [objective(here, data)["masked"].item() for _ in range(3)]
    assert len(set(drawn)) == 3
    objective.eval()
    state = torch.get_rng_state()
    fixed = [objective(here, data)["masked"].item() for _ in range(3)]
    assert len(set(fixed)) == 1
    assert torch.equal(torch.get_rng_state(), state)


def test_in_evaluation_a_samples_loss_does_not_depend_on_its_batch():
    here, objective, data = model(), masked().eval(), batch()
    losses = []
    for rows in ([1, 2, 3], [3, 1, 2]):
        part = batch()
        part.streams["rows"]["values"] = data.streams["rows"]["values"][[0, *rows]]
        part.present["rows"][0] = False  # the others are all of one length
        losses.append(objective(here, part)["masked"])
    torch.testing.assert_close(losses[0], losses[1])


def test_standardised_contents_forget_level_and_contrast():
    here, objective, data = model(), masked(standardize=True).eval(), batch()
    one = objective(here, data)["masked"]
    scaled = batch()
    scaled.streams["rows"]["values"] = data.streams["rows"]["values"]
    goal = here.tokenizers["rows"].contents(scaled.streams["rows"]) * 7 + 3
    here.tokenizers["rows"].contents = lambda raw: goal
    torch.testing.assert_close(objective(here, data)["masked"], one, rtol=1e-4, atol=1e-4)


def test_the_bottleneck_knows_the_class_token_and_the_place_only():
    here, objective, data = model(), masked(bottleneck=0.5).eval(), batch()
    encoder = here.encoders["shared"]
    encoder.forward = lambda tokens: tokens.with_x(F.pad(tokens.x[:, 1:] * 100, (0, 0, 1, 0)) + tokens.x[:, :1])
    one = objective(here, data)["bottleneck"]
    encoder.forward = lambda tokens: tokens.with_x(torch.zeros_like(tokens.x) + tokens.x[:, :1])
    torch.testing.assert_close(objective(here, data)["bottleneck"], one)
    one.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in objective.unpack.parameters())


@pytest.mark.parametrize(("stream", "says"), [("words", "num_contents 0"), ("nowhere", "streams: rows, words")])
def test_streams_without_contents_are_refused(stream, says):
    with pytest.raises(MetaformerError, match=says):
        masked(stream=stream)


def test_a_batch_in_which_nothing_is_there_has_a_connected_zero():
    here, data = model(a=ProjectionHead(D, size=4), b=ProjectionHead(D, size=4)), batch()
    data.present["rows"][:] = False
    contrast = Contrastive(dict(here.heads), between=("a", "b"))
    for objective in (masked(), contrast):
        (loss,) = objective(here, data).values()
        assert loss == 0
        loss.backward(retain_graph=True)
        assert all(p.grad is not None and p.grad.isfinite().all() for p in objective.parameters())


def test_contrast_is_clips_loss_over_samples_that_have_both():
    here, data = model(a=ProjectionHead(D, size=4), b=ProjectionHead(D, size=4)), batch()
    objective = Contrastive(dict(here.heads), between=("a", "b"))
    a, b = here.predict(data, "a").value, here.predict(data, "b").value
    scores = a @ b.T / 0.07
    goal = torch.arange(B)
    expected = (F.cross_entropy(scores, goal) + F.cross_entropy(scores.T, goal)) / 2
    torch.testing.assert_close(objective(here, data)["contrast_a_b"], expected)
    assert objective.count(here, data) == {"contrast_a_b": B}
    data.present["rows"][2] = False
    data.memo.clear()
    some = torch.tensor([0, 1, 3])
    scores = scores[some][:, some]
    expected = (F.cross_entropy(scores, goal[:3]) + F.cross_entropy(scores.T, goal[:3])) / 2
    torch.testing.assert_close(objective(here, data)["contrast_a_b"], expected)
    with torch.no_grad():
        objective.temperature.fill_(50.0)
    assert objective(here, data)["contrast_a_b"].isfinite()
    assert math.isclose(objective.scale().item(), 100, rel_tol=1e-5)


def test_contrast_needs_embeddings_of_one_size():
    heads = {"a": ProjectionHead(D, size=4), "b": ProjectionHead(D, size=5), "c": ClassificationHead(D, num_classes=4)}
    for between, says in ((("a", "b"), "sizes 4 and 5"), (("a", "c"), "predicts 'class'"), (("a", "d"), "head 'd'")):
        with pytest.raises(MetaformerError, match=says):
            Contrastive(heads, between=between)


def test_recall_counts_partners_and_shares_ties():
    one = F.normalize(torch.randn(50, 8), dim=1)
    other = F.normalize(one + 0.7 * torch.randn(50, 8), dim=1)
    for k in (1, 5):
        for direction, scores in (("there", one @ other.T), ("back", other @ one.T)):
            metric = Recall(top_k=k, direction=direction)
            for rows in torch.arange(50).split(7):
                metric.update(one[rows], other[rows])
            expected = (scores.topk(k, dim=1).indices == torch.arange(50)[:, None]).any(dim=1).float().mean()
            assert metric.compute() == pytest.approx(expected.item())
    same = Recall()
    same.update(torch.ones(10, 2), torch.ones(10, 2))
    assert same.compute() == pytest.approx(0.1)  # a collapsed space is chance
    assert math.isnan(Recall().compute())
