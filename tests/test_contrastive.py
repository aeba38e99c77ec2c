"""The contrast between two embeddings, in each of its published forms."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from metaformer.errors import MetaformerError, RecipeError
from metaformer.types import Batch
from tests.pairs import WORDS, pair_batch, pair_model

PAIR = "use: contrastive, between: [image, caption]"
B = len(WORDS)


def loss(model, batch):
    batch.memo.clear()
    return model.objectives["pairs"][0](model, batch)["contrast_image_caption"]


def embeddings(model, batch):
    return model.predict(batch, "image").value, model.predict(batch, "caption").value


def test_it_is_open_clips_loss():
    open_clip = pytest.importorskip("open_clip")
    model = pair_model(f"{{{PAIR}}}")
    batch = pair_batch(model)
    one, other = embeddings(model, batch)
    torch.testing.assert_close(loss(model, batch), open_clip.ClipLoss()(one, other, torch.tensor(1 / 0.07)))


def test_by_sigmoid_it_is_open_clips_siglip_loss():
    open_clip = pytest.importorskip("open_clip.loss")
    model = pair_model(f"{{{PAIR}, loss: sigmoid, temperature: 0.1}}")
    batch = pair_batch(model)
    one, other = embeddings(model, batch)
    theirs = open_clip.SigLipLoss()(one, other, torch.tensor(10.0), torch.tensor(-10.0))
    torch.testing.assert_close(loss(model, batch), theirs)


@pytest.mark.parametrize("alpha", [0.0, 0.4])
def test_with_a_teacher_it_is_torchmultimodals_albef_loss(alpha):
    albef = pytest.importorskip("torchmultimodal.modules.losses.albef")
    bounds = "temperature_as: plain, min_temperature: 0.001, max_temperature: 0.5"
    model = pair_model(f"{{{PAIR}, teacher: 0.5, queue: 10, alpha: {alpha}, {bounds}}}")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.teacher.follow(model, whole_already)
    batch, objective = pair_batch(model), model.objectives["pairs"][0]
    loss(model, batch)  # fills six of ten places
    objective.temperature.data.fill_(0.07)
    one, other = embeddings(model, batch)
    taught = [model.teacher.predict(batch, name).value for name in ("image", "caption")]
    keys = [
        torch.cat([t, queue[:B]]) for t, queue in zip(taught, (objective.queue_one, objective.queue_other), strict=True)
    ]
    sims = [one @ keys[1].T / 0.07, other @ keys[0].T / 0.07]
    soft = [taught[0] @ keys[1].T / 0.07, taught[1] @ keys[0].T / 0.07]
    theirs = albef.ImageTextContrastiveLoss()(*sims, *soft, alpha=alpha)
    torch.testing.assert_close(loss(model, batch), theirs)


def test_smoothed_labels_are_torchs():
    model = pair_model(f"{{{PAIR}, label_smoothing: 0.1, temperature_as: plain, temperature: 0.5}}")
    batch = pair_batch(model)
    one, other = embeddings(model, batch)
    scores = one @ other.T / 0.5
    goal = torch.arange(B)
    theirs = sum(F.cross_entropy(s, goal, label_smoothing=0.1) for s in (scores, scores.T)) / 2
    torch.testing.assert_close(loss(model, batch), theirs)


def test_samples_that_are_the_same_thing_are_all_positives():
    model = pair_model(f"{{{PAIR}, same: what}}")
    what = torch.tensor([7, 8, 7, -1, -1, 9])
    batch = pair_batch(model, what=what)
    one, other = embeddings(model, batch)
    target = torch.eye(B)
    target[0, 2] = target[2, 0] = 1
    target = target / target.sum(dim=1, keepdim=True)
    scores = one @ other.T / 0.07
    theirs = -sum((target * s.log_softmax(dim=1)).sum() for s in (scores, scores.T)) / 2 / B
    torch.testing.assert_close(loss(model, batch), theirs)
    every = pair_batch(model, what=torch.full((B,), 3))
    # Nothing is wrong for anything: the best that can be said is that all are alike.
    assert loss(model, every) >= math.log(B) - 1e-5


def test_the_queue_writes_over_its_end_and_only_what_is_there():
    model = pair_model(f"{{{PAIR}, queue: 8, teacher: 0.5}}")
    objective, batch = model.objectives["pairs"][0], pair_batch(model)
    batch.present["image"][1] = False
    expected, pointer = torch.zeros(8, 8), 0
    for _ in range(4):
        loss(model, batch)
        rows = model.teacher.predict(batch, "image").value
        for row in rows[[0, 2, 3, 4, 5]]:
            expected[pointer % 8], pointer = row, pointer + 1
    assert objective.queue_one.equal(expected)
    assert int(objective.pointer) == pointer % 8 == 4
    model.eval()
    loss(model, batch)
    assert int(objective.pointer) == 4  # evaluation leaves it alone


def test_places_of_the_queue_that_are_empty_are_not_compared_with():
    plain, queued = (pair_model(f"{{{PAIR}{more}}}") for more in ("", ", queue: 100"))
    torch.testing.assert_close(loss(plain, pair_batch(plain)), loss(queued, pair_batch(queued)))
    assert loss(queued, pair_batch(queued)) > loss(plain, pair_batch(plain))


def test_numbers_that_are_not_finite_do_not_enter_the_queue():
    model = pair_model(f"{{{PAIR}, queue: 8}}")
    objective, batch = model.objectives["pairs"][0], pair_batch(model)
    with torch.no_grad():
        model.heads["image"].linear.weight.fill_(float("nan"))
    assert not loss(model, batch).isfinite()
    assert not objective.queue_real.any()
    assert int(objective.pointer) == 0


def test_a_chunk_at_a_time_is_the_same_loss_and_gradient():
    whole, pieces = (pair_model(f"{{{PAIR}{more}}}") for more in ("", ", chunk: 4"))
    pieces.load_state_dict(whole.state_dict())
    one, other = loss(whole, pair_batch(whole)), loss(pieces, pair_batch(pieces))
    torch.testing.assert_close(one, other)
    one.backward()
    other.backward()
    for (name, a), b in zip(whole.named_parameters(), pieces.parameters(), strict=True):
        assert (a.grad is None) == (b.grad is None), name
        if a.grad is not None:
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-5, atol=5e-6)


def test_a_chunk_at_a_time_keeps_nothing_in_between():
    model = pair_model(f"{{{PAIR}, chunk: 2}}")
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.shape) or t, lambda t: t):
        loss(model, pair_batch(model))
    # Of three tokens and more, of width 16, nothing: raw pictures, embeddings and scores.
    assert not [shape for shape in kept if len(shape) == 3 and shape[2] == 16 and shape[0] == B]


@pytest.mark.parametrize(("kind", "start", "low", "high"), [("log", 50.0, 0.01, None), ("plain", 0.9, 0.001, 0.5)])
def test_a_temperature_beyond_its_bound_is_bounded_and_comes_back(kind, start, low, high):
    bounds = f"min_temperature: {low}, max_temperature: {'null' if high is None else high}"
    model = pair_model(f"{{{PAIR}, temperature_as: {kind}, {bounds}}}")
    objective, batch = model.objectives["pairs"][0], pair_batch(model)
    with torch.no_grad():
        objective.temperature.fill_(start)
    assert objective.scale().item() == pytest.approx(100 if kind == "log" else 2, rel=1e-5)
    for sign in (1, -1):
        objective.temperature.grad = None
        (sign * objective.scale()).sum().backward()
        descent = -objective.temperature.grad.item()
        assert descent <= 0  # back inside, or not at all
    assert loss(model, batch).isfinite()


def test_a_fixed_temperature_is_no_parameter():
    model = pair_model(f"{{{PAIR}, learn_temperature: false, temperature: 0.05}}")
    assert not list(model.objectives.parameters())
    assert model.objectives["pairs"][0].scale().item() == pytest.approx(20)


def test_one_pair_alone_has_nothing_to_tell_apart():
    model = pair_model(f"{{{PAIR}}}")
    assert loss(model, pair_batch(model, WORDS[:1])).item() == pytest.approx(0, abs=1e-6)


def test_half_precision_does_not_reach_the_cosines():
    model = pair_model(f"{{{PAIR}}}")
    batch: Batch = pair_batch(model)
    one, other = embeddings(model, batch)
    with torch.autocast("cpu", torch.bfloat16):
        found = model.objectives["pairs"][0](model, batch)["contrast_image_caption"]
    scores = one.float() @ other.float().T / 0.07
    theirs = (F.cross_entropy(scores, torch.arange(B)) + F.cross_entropy(scores.T, torch.arange(B))) / 2
    torch.testing.assert_close(found, theirs)


@pytest.mark.parametrize(
    ("knobs", "says"),
    [
        ("loss: sigmoid, teacher: 0.9", "no targets to soften"),
        ("chunk: 2, teacher: 0.9", "with a teacher"),
        ("min_temperature: 0.5, max_temperature: 0.1", "is above"),
    ],
)
def test_what_does_not_go_together_is_refused(knobs, says):
    with pytest.raises((MetaformerError, RecipeError), match=says):
        pair_model(f"{{{PAIR}, {knobs}}}")


def whole_already(tensors):
    from contextlib import nullcontext

    return nullcontext()
