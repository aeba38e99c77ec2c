"""Hidden words: which, how, and what the loss is."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from torch.nn import functional as F

from metaformer.errors import RecipeError
from tests.pairs import WORDS, pair_batch, pair_model

MASK = "use: masked_language, head: words, stream: caption"


def made(knobs="", **parts):
    model = pair_model(f"{{{MASK}{knobs}}}", **parts)
    return model, model.objectives["pairs"][0], pair_batch(model)


def choose(objective, batch, **other):
    raw = {**batch.streams["caption"], **other}
    return objective.choose(raw, batch.present["caption"], 1)


def logits_of(model, batch, at):
    """What the head says about the text's tokens; nothing about the first token, which is no word."""
    return F.pad(model.predict(batch, "words").value, (0, 0, 1, 0))[:, at]


def test_words_are_chosen_whole_and_special_tokens_never():
    torch.manual_seed(0)
    _, objective, batch = made(", mask_ratio: 0.3")
    words, mask = batch.streams["caption"]["words"], batch.streams["caption"]["mask"]
    for _ in range(50):
        chosen = choose(objective, batch)
        assert not chosen[~mask].any()
        assert not chosen[words < 0].any()
        for row in range(len(WORDS)):
            for word in words[row][words[row] >= 0].unique():
                assert len(chosen[row][words[row] == word].unique()) == 1


def test_the_share_is_as_asked_and_every_text_hides_something():
    torch.manual_seed(0)
    _, objective, batch = made(", whole_words: false")
    real = batch.streams["caption"]["mask"] & (batch.streams["caption"]["words"] >= 0)
    chosen = torch.stack([choose(objective, batch) for _ in range(3000)])
    assert chosen.any(dim=2).all()
    long = int(real.sum(dim=1).argmax())
    share = chosen[:, long][:, real[long]].float().mean().item()
    assert share == pytest.approx(0.15, abs=0.02)


def test_of_what_is_chosen_eight_in_ten_become_the_mask_and_one_stays():
    torch.manual_seed(0)
    model, objective, _ = made()
    ids = torch.randint(4, 260, (100, 200))
    hidden = torch.ones_like(ids, dtype=torch.bool)
    hidden[:, ::2] = False
    mask = model.tokenizer("caption").mask_id
    seen = objective.hide(ids, hidden, mask)
    assert seen[~hidden].equal(ids[~hidden])
    changed = seen[hidden]
    assert (changed == mask).float().mean().item() == pytest.approx(0.8, abs=0.02)
    assert (changed == ids[hidden]).float().mean().item() == pytest.approx(0.1, abs=0.02)


def test_the_loss_is_cross_entropy_over_the_chosen_tokens():
    model, objective, batch = made()
    model.eval()
    loss = objective(model, batch)["masked_caption"]
    chosen = choose(objective, batch)
    ids = batch.streams["caption"]["ids"]
    seen = objective.hide(ids, chosen, model.tokenizer("caption").mask_id)
    whole = pair_batch(model)
    whole.streams["caption"]["ids"] = seen
    at = model.place(whole, "pair", "caption")
    logits = logits_of(model, whole, at)
    theirs = F.cross_entropy(logits.transpose(1, 2), ids.masked_fill(~chosen, -100))
    torch.testing.assert_close(loss, theirs)
    said, right = batch.memo["judged", "words"]
    assert right.equal(ids[chosen])
    torch.testing.assert_close(said, logits[chosen])


def test_a_text_at_the_end_of_a_joint_sequence_is_found_there():
    passes = {"image": {}, "caption": {}, "pair": {"reads": ["image", "caption"], "types": True}}
    model, objective, batch = made(passes=passes)
    at = model.place(batch, "pair", "caption")
    assert (at.start, at.stop) == (5, 5 + batch.streams["caption"]["ids"].shape[1])
    assert objective(model, batch)["masked_caption"].isfinite()


def test_evaluation_is_the_same_every_time_and_for_every_batch():
    model, objective, batch = made()
    model.eval()
    state = torch.get_rng_state()
    assert len({objective(model, batch)["masked_caption"].item() for _ in range(3)}) == 1
    assert torch.equal(torch.get_rng_state(), state)
    each = choose(objective, batch)
    part = pair_batch(model, WORDS[2:4])
    length = part.streams["caption"]["ids"].shape[1]
    assert choose(objective, part).equal(each[2:4, :length])


def test_a_teachers_answers_are_mixed_in():
    model, objective, batch = made(", teacher: 0.5, alpha: 0.4")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.teacher.follow(model, lambda tensors: nullcontext())
    model.eval()
    loss = objective(model, batch)["masked_caption"]
    ids, chosen = batch.streams["caption"]["ids"], choose(objective, batch)
    hidden = pair_batch(model)
    hidden.streams["caption"]["ids"] = objective.hide(ids, chosen, model.tokenizer("caption").mask_id)
    at = model.place(hidden, "pair", "caption")
    said = logits_of(model, hidden, at)[chosen]
    soft = logits_of(model.teacher, hidden, at)[chosen].softmax(dim=1)
    hard = F.cross_entropy(said, ids[chosen])
    theirs = 0.6 * hard - 0.4 * (soft * said.log_softmax(dim=1)).sum(dim=1).mean()
    torch.testing.assert_close(loss, theirs)


def test_a_picture_is_tokenized_once_however_many_passes_there_are():
    model = pair_model(f"{{{MASK}}}", "{use: contrastive, between: [image, caption]}")
    calls = []
    for name in ("image", "caption"):
        model.tokenizers[name].register_forward_hook(lambda *_, name=name: calls.append(name))
    batch = pair_batch(model)
    for objective in model.objectives["pairs"]:
        objective(model, batch)
    assert sorted(calls) == ["caption", "caption", "image"]


def test_a_batch_without_text_has_a_connected_zero():
    model, objective, batch = made()
    batch.present["caption"][:] = False
    loss = objective(model, batch)["masked_caption"]
    assert loss == 0
    loss.backward()
    assert model.heads["words"].decoder.weight.grad is not None


def test_a_tied_decoder_is_the_tokenizers_own_parameter(tmp_path):
    heads = {"words": {"use": "language", "reads": "pair", "stream": "caption", "tie": True}}
    model, objective, batch = made(heads=heads)
    table = model.tokenizers["caption"].embedding.weight
    assert model.heads["words"].decoder.weight is table
    assert len([p for p in model.parameters() if p is table]) == 1
    objective(model, batch)["masked_caption"].backward()
    assert table.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("knobs", "says"),
    [
        ("use: masked_language, head: words, stream: image", "have no ids"),
        ("use: masked_language, head: match, stream: caption", "not of 260 words"),
        ("use: masked_language, head: words, stream: elsewhere", "streams: "),
    ],
)
def test_what_cannot_be_is_refused(knobs, says):
    with pytest.raises(RecipeError, match=says):
        pair_model(f"{{{knobs}}}")
