"""The momentum teacher, views of a batch, type vectors of a pass, streams that share a tokenizer, zero-shot classes."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from torch.nn import functional as F

from metaformer.errors import RecipeError
from metaformer.trainable import frozen_tensors
from metaformer.views import altered, repaired, text_numbers
from tests.pairs import WORDS, pair_batch, pair_model

TAUGHT = "{use: contrastive, between: [image, caption], teacher: 0.9}"


def whole(tensors):
    return nullcontext()


def test_a_teacher_begins_as_the_student_and_follows_it():
    model = pair_model(TAUGHT)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    batch = pair_batch(model)
    torch.testing.assert_close(model.teacher.predict(batch, "image"), model.predict(batch, "image"))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    model.teacher.follow(model, whole)
    for name, buffer in model.teacher.twin.named_buffers():
        torch.testing.assert_close(buffer, before[name] + 0.1)


def test_a_teacher_is_no_parameter_nothing_frozen_and_never_awake():
    plain = "{use: contrastive, between: [image, caption]}"
    drop = {"encoders": {"shared": {"use": "transformer", "dim": 16, "depth": 2, "num_heads": 2, "drop": 0.5}}}
    model, student = pair_model(TAUGHT, **drop), pair_model(plain, **drop)
    assert {n for n, _ in model.named_parameters()} == {n for n, _ in student.named_parameters()}
    assert not [name for name in frozen_tensors(model) if name.startswith("teacher")]
    model.train()
    assert not any(module.training for module in model.teacher.modules())
    batch = pair_batch(model)
    values = []
    for _ in range(2):
        batch.memo.clear()
        values.append(model.teacher.predict(batch, "image").value)
    assert values[0].equal(values[1])
    assert not values[0].requires_grad


def test_frozen_parts_of_a_teacher_stay_what_they_are():
    model = pair_model(TAUGHT, trainable="frozen")
    with torch.no_grad():
        for parameter in model.encoders.parameters():
            parameter.add_(1.0)  # nobody would: to show that it is not looked at
    before = [b.clone() for b in model.teacher.twin.encoders.buffers()]
    model.teacher.follow(model, whole)
    assert all(a.equal(b) for a, b in zip(before, model.teacher.twin.encoders.buffers(), strict=True))


def test_two_teachers_are_refused():
    with pytest.raises(RecipeError, match="different teachers"):
        pair_model(TAUGHT, TAUGHT.replace("0.9", "0.8"))


def test_a_view_with_other_contents_shares_what_did_not_change():
    model = pair_model(TAUGHT)
    batch = pair_batch(model)
    raw = batch.streams["caption"]
    view = altered(batch, {"caption": {**raw, "ids": raw["ids"].flip(0)}})
    assert model.stream(view, "image") is model.stream(batch, "image")
    assert not model.stream(view, "caption").x.equal(model.stream(batch, "caption").x)
    other = pair_batch(model)
    other.streams["caption"]["ids"] = raw["ids"].flip(0)
    torch.testing.assert_close(model.stream(view, "pair").x, model.stream(other, "pair").x)


def test_a_view_of_other_pairs_is_the_batch_of_those_pairs():
    model = pair_model(TAUGHT)
    batch = pair_batch(model)
    images, texts = torch.tensor([0, 3, 3]), torch.tensor([1, 3, 5])
    view = repaired(batch, {"image": images, "caption": texts})
    other = pair_batch(model, tuple(WORDS[i] for i in texts))
    other.streams["image"]["pixels"] = batch.streams["image"]["pixels"][images]
    for name in ("image", "caption", "pair"):
        ours, theirs = model.stream(view, name), model.stream(other, name)
        for row in range(3):
            torch.testing.assert_close(ours.x[row][ours.mask[row]], theirs.x[row][theirs.mask[row]])
    torch.testing.assert_close(model.predict(view, "match").value, model.predict(other, "match").value)


def test_texts_have_equal_numbers_where_their_tokens_are_equal():
    model = pair_model(TAUGHT)
    numbers = text_numbers(model.tokens(pair_batch(model, ("a b", "a b", "b a", "a b c", "a")), "caption"))
    assert numbers[0] == numbers[1]
    assert len(numbers.unique()) == 4
    # Padding does not count.
    assert text_numbers(model.tokens(pair_batch(model, ("a b",)), "caption"))[0] == numbers[0]
    assert (text_numbers(model.tokens(pair_batch(model), "image")) == -1).all()


def test_type_vectors_are_added_to_each_streams_tokens():
    model = pair_model(TAUGHT)
    batch = pair_batch(model)
    before = [model.tokens(batch, name).x for name in ("caption", "image")]
    with torch.no_grad():
        model.passes["pair"].types.copy_(torch.tensor([[1.0], [-2.0]]).expand(2, 16))
    seen = {}
    model.encoders["shared"].register_forward_pre_hook(lambda _, given: seen.update(tokens=given[0]))
    tokens = model.stream(batch, "pair")
    torch.testing.assert_close(seen["tokens"].x, torch.cat([before[0] + 1, before[1] - 2], dim=1))
    assert [(p.modality, p.length) for p in tokens.joined] == [("text", before[0].shape[1]), ("image", 5)]


def test_two_streams_may_share_a_tokenizer():
    passes = {"image": {}, "caption": {}, "other": {}, "pair": {"reads": ["caption", "image"]}}
    both = pair_model(TAUGHT, streams={"other": "image"}, passes=passes)
    assert both.tokenizer("other") is both.tokenizer("image")
    batch = pair_batch(both)
    assert both.stream(batch, "other").x.equal(both.stream(batch, "image").x)
    assert not [name for name, _ in both.named_parameters() if "other" in name]


def test_zero_shot_is_the_nearest_description():
    classes, templates = ["cat", "dog", "ship"], ["a {}", "an old {}"]
    zero = f"{{use: zero_shot, between: [image, caption], target: what, classes: {classes}, templates: {templates}}}"
    model = pair_model(zero).eval()
    batch = pair_batch(model, what=torch.tensor([0, 1, 2, -100, 1, 0]))
    loss = model.objectives["pairs"][0](model, batch)["zero_shot"]
    texts = pair_batch(model, tuple(t.replace("{}", c) for c in classes for t in templates))
    each = model.predict(texts, "caption").value
    centres = F.normalize(torch.stack([each[2 * i : 2 * i + 2].mean(dim=0) for i in range(3)]), dim=1)
    logits = model.predict(batch, "image").value @ centres.T / 0.01
    torch.testing.assert_close(loss, F.cross_entropy(logits, batch.targets["what"], ignore_index=-100))
    said, right = batch.memo["judged", "zero_shot"]
    assert right.tolist() == [0, 1, 2, 1, 0]
    torch.testing.assert_close(said, logits[[0, 1, 2, 4, 5]])


def test_descriptions_are_made_once_per_evaluation_and_anew_after_an_update():
    zero = "{use: zero_shot, between: [image, caption], target: what, classes: [cat, dog]}"
    model = pair_model(zero).eval()
    objective, batch = model.objectives["pairs"][0], pair_batch(model, what=torch.zeros(len(WORDS), dtype=torch.int64))
    calls = []
    model.tokenizers["caption"].register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        for _ in range(3):
            batch.memo.clear()
            objective(model, batch)
    assert len(calls) == 1
    objective.updated(model, whole)
    batch.memo.clear()
    objective(model, batch)
    assert len(calls) == 2


def test_templates_need_a_place_for_the_name():
    with pytest.raises(RecipeError, match="templates of zero_shot"):
        pair_model("{use: zero_shot, between: [image, caption], target: what, classes: [a, b], templates: [a]}")
