"""Matching pairs, and what is drawn to be wrong."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from metaformer.errors import RecipeError
from metaformer.objectives.transport import transport_distance, transport_plan
from tests.pairs import WORDS, pair_batch, pair_model

HARD = "use: matching, head: match, between: [image, caption]"
RANDOM = "use: matching, head: match, streams: [image, caption]"
B = len(WORDS)


def run(model, batch):
    batch.memo.clear()
    return model.objectives["pairs"][0](model, batch)


def partners(model, batch, monkeypatch):
    """The rows of the wrong pairs that a forward pass makes: pictures, texts."""
    seen = []
    from metaformer.objectives import matching

    def spy(batch, rows, everywhere):
        seen.append(rows)
        return repaired(batch, rows, everywhere)

    repaired = matching.repaired
    monkeypatch.setattr(matching, "repaired", spy)
    losses = run(model, batch)
    monkeypatch.undo()
    (rows,) = seen
    return rows["image"], rows["caption"], losses


def test_a_third_is_right_and_the_loss_is_the_mean_over_three_pairs_each(monkeypatch):
    torch.manual_seed(0)
    model = pair_model(f"{{{HARD}}}").eval()
    batch = pair_batch(model)
    images, texts, losses = partners(model, batch, monkeypatch)
    assert (images != texts).all()
    assert texts[:B].equal(torch.arange(B))
    assert images[B:].equal(torch.arange(B))
    total = 0.0
    for image, text, right in [(i, i, 1) for i in range(B)] + [(i, t, 0) for i, t in zip(images, texts, strict=True)]:
        # Each pair by itself, as if it were the batch.
        one = pair_batch(model, (WORDS[text],))
        one.streams["image"]["pixels"] = batch.streams["image"]["pixels"][image : image + 1]
        total += F.cross_entropy(model.predict(one, "match").value, torch.tensor([right])).item()
    assert losses["match_match"].item() == pytest.approx(total / (3 * B), rel=1e-5)
    said, right = batch.memo["judged", "match"]
    assert len(said) == 3 * B
    assert int(right.sum()) == B


def test_hard_negatives_are_drawn_by_similarity(monkeypatch):
    model = pair_model(f"{{{HARD}}}")
    batch = pair_batch(model)
    one, other = (model.predict(batch, name).value for name in ("image", "caption"))
    weights = (one @ other.T / 0.07).masked_fill(torch.eye(B, dtype=torch.bool), -math.inf).softmax(dim=1)
    counts = torch.zeros(B, B)
    torch.manual_seed(0)
    rows = torch.arange(B)
    allowed = ~torch.eye(B, dtype=torch.bool)
    for _ in range(2000):
        counts[rows, model.objectives["pairs"][0]._choose(one @ other.T / 0.07, allowed)] += 1
    assert (counts / 2000 - weights).abs().max() < 0.05
    # In evaluation: the most similar.
    model.eval()
    _, texts, _ = partners(model, batch, monkeypatch)
    assert texts[B:].equal(weights.argmax(dim=1))


def test_the_temperature_is_that_of_the_contrast_beside_it():
    contrast = "{use: contrastive, between: [image, caption], temperature: 0.2}"
    model = pair_model(f"{{{HARD}}}", contrast)
    assert model.objectives["pairs"][0]._scale(model, "pairs").item() == pytest.approx(5)


@pytest.mark.parametrize("knobs", [HARD, RANDOM + ", negatives: random", RANDOM + ", negatives: replace"])
def test_a_batch_of_one_has_its_right_pair_alone(knobs):
    model = pair_model(f"{{{knobs}}}")
    batch = pair_batch(model, WORDS[:1])
    (loss,) = run(model, batch).values()
    right = F.cross_entropy(model.predict(batch, "match").value, torch.tensor([1]))
    # Two of three pairs are not there, and count as 0; with `replace` there is one pair a sample.
    torch.testing.assert_close(loss, right if "replace" in knobs else right / 3)
    loss.backward()


@pytest.mark.parametrize("knobs", [HARD, RANDOM + ", negatives: replace"])
def test_identical_captions_are_not_wrong_for_one_another(knobs, monkeypatch):
    model = pair_model(f"{{{knobs}}}")
    batch = pair_batch(model, ("a cat",) * B)
    (loss,) = run(model, batch).values()
    right = F.cross_entropy(model.predict(batch, "match").value, torch.ones(B, dtype=torch.int64))
    torch.testing.assert_close(loss, right if "replace" in knobs else right / 3)
    some = pair_batch(model, ("a cat", "a cat", "a dog"))
    for _ in range(10):
        images, texts, _ = partners(model, some, monkeypatch)
        wrong = images != texts
        assert (((images == 2) | (texts == 2)) | ~wrong).all()


def test_samples_that_share_an_identity_are_not_wrong_for_one_another(monkeypatch):
    model = pair_model(f"{{{HARD}, same: what}}")
    batch = pair_batch(model, what=torch.tensor([1, 1, 1, 2, -1, -1]))
    for _ in range(20):
        images, texts, _ = partners(model, batch, monkeypatch)
        assert not ((images < 3) & (texts < 3)).any()


def test_similarities_that_underflow_are_drawn_from_all_the_same():
    model = pair_model(f"{{{HARD}}}")
    objective = model.objectives["pairs"][0]
    logits = torch.full((3, 3), -5000.0)
    logits.fill_diagonal_(5000.0)  # the right pair: everything else underflows beside it
    drawn = torch.stack([objective._choose(logits, ~torch.eye(3, dtype=torch.bool)) for _ in range(200)])
    assert not (drawn == torch.arange(3)).any()
    assert {tuple(column.unique().tolist()) for column in drawn.T} == {(1, 2), (0, 2), (0, 1)}


def test_replacement_is_a_coin_that_evaluation_does_not_throw():
    model = pair_model(f"{{{RANDOM}, negatives: replace}}")
    torch.manual_seed(0)
    batch = pair_batch(model)
    assert len({run(model, batch)["match_match"].item() for _ in range(5)}) > 1
    model.eval()
    state = torch.get_rng_state()
    assert len({run(model, batch)["match_match"].item() for _ in range(3)}) == 1
    assert torch.equal(torch.get_rng_state(), state)
    assert batch.memo["judged", "match"][1].tolist() == [1, 0] * 3


def test_samples_that_lack_a_side_do_not_count():
    model = pair_model(f"{{{HARD}}}").eval()
    batch = pair_batch(model)
    batch.present["image"][4:] = False
    part = pair_batch(model, WORDS[:4])
    part.streams["image"]["pixels"] = batch.streams["image"]["pixels"][:4]
    torch.testing.assert_close(run(model, batch)["match_match"], run(model, part)["match_match"])
    assert model.objectives["pairs"][0].count(model, batch) == {"match_match": 4}


@pytest.mark.parametrize("knobs", [HARD, RANDOM + ", negatives: replace"])
def test_the_first_objective_of_a_task_leaves_gradients_to_the_others(knobs):
    """What it only looks at was made with gradient: the batch remembers it for everybody."""
    model = pair_model(f"{{{knobs}}}", "{use: contrastive, between: [image, caption]}")
    batch = pair_batch(model)
    losses = [loss for objective in model.objectives["pairs"] for loss in objective(model, batch).values()]
    for loss in losses:
        model.zero_grad()
        loss.backward(retain_graph=True)
        assert model.tokenizers["image"].embed.proj.weight.grad.abs().sum() > 0
        assert model.tokenizers["caption"].embedding.weight.grad.abs().sum() > 0


def test_unimodal_passes_are_made_once():
    """Pairs are put together out of what was computed: the tokenizers see the batch once."""
    model = pair_model("{use: contrastive, between: [image, caption]}", f"{{{HARD}}}")
    calls = []
    for name in ("image", "caption"):
        model.tokenizers[name].register_forward_hook(lambda *_, name=name: calls.append(name))
    batch = pair_batch(model)
    for objective in model.objectives["pairs"]:
        objective(model, batch)
    assert sorted(calls) == ["caption", "image"]


def test_alignment_pulls_right_pairs_together_and_wrong_ones_apart():
    model = pair_model(f"{{{RANDOM}, negatives: replace, alignment: 0.5}}").eval()
    batch = pair_batch(model)
    losses = run(model, batch)
    assert losses["align_match"].isfinite()
    losses["align_match"].backward()
    assert model.encoders["shared"].blocks[0].attn.qkv.weight.grad.abs().sum() > 0


def test_transport_is_vilts_ipot():
    """Against the published loop, written out for one sample at a time."""
    torch.manual_seed(0)
    x, y = torch.randn(3, 4, 8), torch.randn(3, 5, 8)
    x_mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [0, 0, 0, 0]]).bool()
    y_mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]).bool()
    found = transport_distance(x, x_mask, y, y_mask)
    for b in range(2):
        cost = 1 - F.normalize(x[b][x_mask[b]], dim=1) @ F.normalize(y[b][y_mask[b]], dim=1).T
        m, n = cost.shape
        plan, sigma, kernel = torch.ones(m, n), torch.ones(n) / n, torch.exp(-cost / 0.5)
        for _ in range(50):
            q = kernel * plan
            delta = 1 / (m * (q @ sigma))
            sigma = 1 / (n * (q.T @ delta))
            plan = delta[:, None] * q * sigma[None, :]
        torch.testing.assert_close(found[b], (plan * cost).sum(), rtol=1e-4, atol=1e-5)
    assert found[2] == 0
    plan = transport_plan(torch.rand(1, 4, 5), torch.ones(1, 4, 5, dtype=torch.bool))
    torch.testing.assert_close(plan.sum(dim=1), torch.full((1, 5), 0.2))


@pytest.mark.parametrize(
    ("knobs", "says"),
    [
        ("use: matching, head: match", "twice, or not at all"),
        (RANDOM, "no embeddings to compare"),
        ("use: matching, head: image, streams: [image, caption], negatives: random", "not of two classes"),
        ("use: matching, head: match, between: [image, match]", "no head of embeddings"),
    ],
)
def test_what_cannot_be_is_refused(knobs, says):
    with pytest.raises(RecipeError, match=says):
        pair_model(f"{{{knobs}}}")
