"""Texts word by word, and answers ranked by how likely they are to be said."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from torch.nn import functional as F

from metaformer.errors import MetaformerError, RecipeError
from metaformer.objectives import ranking
from metaformer.types import IGNORE
from tests.pairs import WORDS, pair_batch, pair_model

LANGUAGE = "use: language, head: words, stream: caption"
RANKING = "use: ranking, head: words, stream: caption, target: label"
ANSWERS = ("no", "yes", "a cat", "a cat on a mat", "a dog")
SPOKEN = {
    "passes": {"image": {}, "caption": {"encoder": None}},
    "bridges": {
        "said": {
            "use": "fusion",
            "reads": {"queries": "caption", "context": "image"},
            "depth": 2,
            "num_heads": 2,
            "causal": True,
        }
    },
    "heads": {"words": {"use": "language", "reads": "said", "stream": "caption"}},
    "tokenizers": {
        "image": {"use": "image", "image_size": 4, "patch_size": 2, "channels": 1, "resize": "exact"},
        "caption": {"use": "text", "vocabulary": "bytes", "max_length": 16, "end_token": True},
    },
}


def made(knobs: str, **targets):
    torch.manual_seed(0)
    model = pair_model(f"{{{knobs}}}", **SPOKEN)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval(), model.objectives["pairs"][0], pair_batch(model, **targets)


def likelihoods(model, batch, row, text):
    """Log-likelihood of each byte of a text beside one picture, the last of them the end; one sample by itself."""
    one = pair_batch(model, (text,))
    one.streams["image"]["pixels"] = batch.streams["image"]["pixels"][row : row + 1]
    ids = one.streams["caption"]["ids"][0]
    # The head leaves the first token, which is no word, out; here it says the first word.
    tokens = model.stream(one, "said")._replace(num_prefix=0)
    said = model.read("words", tokens).value[0].log_softmax(dim=-1)
    return said[:-1].gather(1, ids[1:, None])[:, 0]


def test_the_loss_is_the_mean_over_all_words_given_those_before():
    model, objective, batch = made(LANGUAGE)
    each = [likelihoods(model, batch, row, text) for row, text in enumerate(WORDS)]
    loss = objective(model, batch)
    assert loss.keys() == {"language_caption"}
    torch.testing.assert_close(loss["language_caption"], -torch.cat(each).mean())
    assert objective.count(model, batch) == {"language_caption": sum(map(len, each))}
    said, right = batch.memo["judged", "words"]
    assert len(said) == len(right) == sum(map(len, each))


def test_texts_may_count_by_a_weight():
    weight = torch.tensor([[0.5], [1.0], [0.0], [2.0], [torch.nan], [0.25]])
    model, objective, batch = made(f"{LANGUAGE}, reduction: texts, weights: share", share=weight)
    sums = torch.stack([likelihoods(model, batch, row, text).sum() for row, text in enumerate(WORDS)])
    expected = -(sums * weight[:, 0].nan_to_num(nan=1.0)).sum() / len(WORDS)
    torch.testing.assert_close(objective(model, batch)["language_caption"], expected)
    assert objective.count(model, batch) == {"language_caption": len(WORDS)}


def test_no_word_is_said_by_what_comes_after_it():
    model, _, batch = made(LANGUAGE)
    before = model.stream(batch, "said").x
    other = pair_batch(model)
    other.streams["caption"]["ids"][:, 2:] = 7
    after = model.stream(other, "said").x
    assert after[:, :2].equal(before[:, :2])
    assert not after[:, 2].allclose(before[:, 2])


def test_a_texts_loss_does_not_depend_on_what_pads_it():
    model, objective, _ = made(LANGUAGE)
    short, both = pair_batch(model, ("one",)), pair_batch(model, ("one", "a dog on a mat"))
    both.present["caption"][1] = False
    torch.testing.assert_close(objective(model, short), objective(model, both))


def test_a_teacher_gives_a_share_of_each_answer():
    torch.manual_seed(0)
    model = pair_model(f"{{{LANGUAGE}, teacher: 0.5, alpha: 0.4}}", **SPOKEN)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.teacher.follow(model, lambda tensors: nullcontext())
    model.eval()
    batch = pair_batch(model, ("one",))
    loss = model.objectives["pairs"][0](model, batch)["language_caption"]
    ids = batch.streams["caption"]["ids"][0]

    def said(of):
        return of.read("words", of.stream(pair_batch(model, ("one",)), "said")._replace(num_prefix=0)).value[0, :-1]

    mine, theirs = said(model), said(model.teacher).softmax(dim=1)
    soft = -(theirs * mine.log_softmax(dim=1)).sum(dim=1).mean()
    torch.testing.assert_close(loss, 0.6 * F.cross_entropy(mine, ids[1:]) + 0.4 * soft)


@pytest.mark.parametrize(
    ("knobs", "told"),
    [
        ("use: language, head: words, stream: nobody", "streams: image, caption"),
        ("use: language, head: words, stream: image", "its tokens have no ids"),
        ("use: language, head: nobody, stream: caption", "heads: words"),
        (RANKING, "give one of them"),
        (f"{RANKING}, num_answers: 2, answers: [no, yes]", "give one of them"),
    ],
)
def test_what_does_not_fit_is_told(knobs, told):
    with pytest.raises(RecipeError, match=told):
        pair_model(f"{{{knobs}}}", **SPOKEN)


# Ranking


LABEL = torch.tensor([2, 4, 0, 1, 3, IGNORE])


def brute(model, batch):
    """Every answer beside every picture, one at a time."""
    rows = [[likelihoods(model, batch, row, text).sum() for text in ANSWERS] for row in range(len(batch))]
    return torch.tensor(rows)


@pytest.mark.parametrize("at_once", [1, 3, 32])
def test_every_answer_is_read_with_every_picture(at_once, monkeypatch):
    monkeypatch.setattr(ranking, "AT_ONCE", at_once)
    model, objective, batch = made(f"{RANKING}, answers: [{', '.join(ANSWERS)}]", label=LABEL)
    with torch.no_grad():
        expected = brute(model, batch)
        loss = objective(model, batch)
        said, right = batch.memo["judged", "ranking"]
        torch.testing.assert_close(said, expected[:-1])
    assert right.equal(LABEL[:-1])
    torch.testing.assert_close(loss, {"ranking": F.cross_entropy(expected, LABEL)})
    assert objective.count(model, batch) == {"ranking": 5}


def test_what_a_sample_says_itself_is_not_looked_at():
    model, objective, batch = made(f"{RANKING}, answers: [no, yes]", label=LABEL.clamp(max=1))
    other = pair_batch(model, tuple(reversed(WORDS)), label=batch.targets["label"])
    other.present["caption"][:] = False
    torch.testing.assert_close(objective(model, other), objective(model, batch))


def test_only_a_shortlist_by_first_words_is_read_whole():
    model, objective, batch = made(f"{RANKING}, answers: [{', '.join(ANSWERS)}], shortlist: 3", label=LABEL)
    with torch.no_grad():
        said, whole = objective.say(model, batch), brute(model, batch)
        first = torch.tensor([[likelihoods(model, batch, row, text)[0] for text in ANSWERS] for row in range(6)])
    chosen = first.topk(3, dim=1).indices
    # Three answers begin with one and the same letter, and so with one and the same likelihood.
    for row in range(6):
        listed = [place for place in range(5) if torch.isclose(said[row, place], whole[row, place], atol=1e-5)]
        assert len(listed) == 3
        torch.testing.assert_close(first[row, listed].sort().values, first[row, chosen[row]].sort().values)
        rest = [place for place in range(5) if place not in listed]
        assert said[row, rest].max() < said[row, listed].min()
        assert said[row, rest].argsort().equal(first[row, rest].argsort())


def test_the_answers_are_the_datas_classes_and_a_head_may_have_room_for_more():
    model, objective, batch = made(f"{RANKING}, num_answers: 7", label=LABEL)
    with pytest.raises(MetaformerError, match="does not say how the classes of 'label' are called"):
        objective(model, batch)
    objective.class_names = {"label": ANSWERS}
    with torch.no_grad():
        said = objective.say(model, batch)
        torch.testing.assert_close(said[:, :5], brute(model, batch))
    assert (said[:, 5:] < -1e30).all()
    assert objective(model, batch)["ranking"].isfinite()


def test_scores_are_judged_where_there_are_any():
    scores = torch.rand(6, 2)
    scores[4] = torch.nan
    knobs = f"{RANKING}, answers: [no, yes], scores: share"
    model, objective, batch = made(knobs, label=LABEL.clamp(max=1), share=scores)
    objective(model, batch)
    said, right = batch.memo["judged", "ranking"]
    assert said.shape == (5, 2)
    assert right.equal(scores[[0, 1, 2, 3, 5]])


def test_samples_without_a_picture_are_left_out():
    model, objective, batch = made(f"{RANKING}, answers: [no, yes]", label=LABEL.clamp(max=1))
    batch.present["image"][2] = False
    objective(model, batch)
    assert len(batch.memo["judged", "ranking"][0]) == 4
    assert objective.count(model, batch) == {"ranking": 4}


def test_answers_need_a_common_first_token():
    parts = {**SPOKEN, "tokenizers": {**SPOKEN["tokenizers"]}}
    parts["tokenizers"]["caption"] = {**parts["tokenizers"]["caption"], "class_token": False}
    model = pair_model(f"{{{RANKING}, answers: [no, yes]}}", **parts).eval()
    batch = pair_batch(model, label=LABEL.clamp(max=1))
    with pytest.raises(MetaformerError, match="class_token: true"):
        model.objectives["pairs"][0](model, batch)


def test_it_answers_without_targets_where_the_picture_is_there():
    model, objective, batch = made(f"{RANKING}, num_answers: 3", label=LABEL.clamp(max=1))
    objective.class_names = {"label": ("no", "yes")}
    batch.targets.clear()
    batch.present["image"][1] = False
    with torch.no_grad():
        logits, present, names = objective.answer(model, batch)
        torch.testing.assert_close(logits, objective.say(model, batch))
    assert (names, present.tolist()) == (("no", "yes"), [True, False, True, True, True, True])
    del batch.streams["image"], batch.present["image"]
    assert objective.answer(model, batch) is None
