"""The text tokenizer: invariances of tokens, and what counts as a text."""

from __future__ import annotations

import pickle
import random
from typing import Any

import pytest
import torch
from metaformer_plugin_text.tokenizer import TextTokenizer

from metaformer.errors import DataError, MetaformerError, WeightsError
from metaformer.types import Raw, TokenBatch

TEXTS = ["short", "a somewhat longer text", ""]


def build(**knobs: Any) -> TextTokenizer:
    torch.manual_seed(0)
    return TextTokenizer(8, **{"max_length": 32, **knobs})


def run(tokenizer: TextTokenizer, texts: list[Any]) -> TokenBatch:
    pre = tokenizer.preprocess
    tokens: TokenBatch = tokenizer(pre.collate([pre(text, train=False) for text in texts]))
    return tokens


@pytest.mark.parametrize("positions", ["learned", "sinusoidal", "none"])
@pytest.mark.parametrize("class_token", [True, False])
def test_shapes_and_masks(positions: str, class_token: bool) -> None:
    texts = TEXTS[:2]
    tokens = run(build(positions=positions, class_token=class_token), texts)
    longest = len(texts[1]) + class_token
    assert tokens.x.shape == (2, longest, 8)
    assert tokens.x.dtype == torch.float32
    assert tokens.mask.dtype == torch.bool
    assert tokens.mask.sum(dim=1).tolist() == [len(text) + class_token for text in texts]
    assert tokens.ids is not None
    assert tokens.ids.shape == tokens.mask.shape
    assert tokens.num_prefix == class_token


@pytest.mark.parametrize("positions", ["learned", "sinusoidal", "none"])
def test_padding_changes_no_token(positions: str) -> None:
    tokenizer = build(positions=positions)
    together = run(tokenizer, TEXTS)
    for i, text in enumerate(TEXTS):
        alone = run(tokenizer, [text])
        assert torch.equal(together.x[i][together.mask[i]], alone.x[0])


def test_padding_has_the_vocabularys_own_pad_id() -> None:
    tokenizer = build()
    tokenizer.preprocess.vocabulary.pad = 7
    tokens = run(tokenizer, TEXTS)
    assert tokens.ids is not None
    assert set(tokens.ids[~tokens.mask].tolist()) == {7}


@pytest.mark.parametrize("positions", ["learned", "sinusoidal"])
def test_contents_are_what_is_left_without_positions(positions: str) -> None:
    tokens = run(build(positions=positions), ["aXa"])
    assert tokens.positions is not None
    contents = tokens.x[0] - tokens.positions
    torch.testing.assert_close(contents[1], contents[3])
    assert not torch.allclose(tokens.x[0, 1], tokens.x[0, 3])


def test_empty_text_is_a_lone_class_token_or_an_error() -> None:
    assert run(build(), [""]).mask.tolist() == [[True]]
    with pytest.raises(DataError, match="class_token"):
        run(build(class_token=False), [""])


def test_special_tokens_frame_the_text_and_count() -> None:
    pre = build(end_token=True, max_length=4).preprocess
    words = pre.vocabulary
    assert pre("abcdef", train=False)["ids"].tolist() == [words.cls, *words.encode("ab")[0], words.end]


def test_too_long_is_cut_or_refused() -> None:
    assert len(build(max_length=5).preprocess("x" * 50, train=False)["ids"]) == 5
    with pytest.raises(DataError, match="50 tokens"):
        build(max_length=5, too_long="error").preprocess("x" * 50, train=False)
    assert len(build(max_length=51, too_long="error").preprocess("x" * 50, train=False)["ids"]) == 51


def test_bytes_and_whole_numbers_are_texts() -> None:
    pre = build().preprocess
    assert torch.equal(pre("é".encode(), train=False)["ids"], pre("é", train=False)["ids"])
    assert torch.equal(pre(2019, train=False)["ids"], pre("2019", train=False)["ids"])


@pytest.mark.parametrize("value", [b"\xff\xfe", "\ud800", 1.5, True, ["a"], {"a": 1}])
def test_what_is_no_text_is_refused(value: Any) -> None:
    with pytest.raises(DataError) as caught:
        build().preprocess(value, train=False)
    assert caught.value.found
    assert caught.value.do


def test_blank_is_one_token_and_example_the_largest() -> None:
    for class_token in (True, False):
        pre = build(class_token=class_token).preprocess
        assert pre.blank()["mask"].tolist() == [True]
        assert pre.example()["mask"].shape == (32,)
        assert build(class_token=class_token)(pre.collate([pre.example(), pre.blank()])).x.isfinite().all()


def test_preprocess_travels_to_workers_and_repeats() -> None:
    pre = build().preprocess
    copy = pickle.loads(pickle.dumps(pre))

    def same(a: Raw, b: Raw) -> bool:
        return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)

    assert same(pre("some text", train=True), copy("some text", train=True))


def test_token_dropout_masks_the_text_in_training_only() -> None:
    pre = build(token_dropout=0.3, max_length=1000, end_token=True).preprocess
    words, text = pre.vocabulary, "x" * 900
    assert words.mask not in pre(text, train=False)["ids"]
    random.seed(0)
    one = pre(text, train=True)["ids"]
    random.seed(0)
    assert torch.equal(pre(text, train=True)["ids"], one)
    assert 0.2 < (one == words.mask).double().mean() < 0.4
    assert (one[0], one[-1]) == (words.cls, words.end)


def test_gradients_reach_every_parameter_and_only_real_tokens() -> None:
    tokenizer = build(norm=True)
    tokens = run(tokenizer, TEXTS)
    weight = torch.randn(tokens.x.shape, generator=torch.Generator().manual_seed(1))
    (tokens.x * weight * tokens.mask.unsqueeze(-1)).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in tokenizer.parameters())
    assert tokenizer.embedding.weight.grad is not None
    assert tokenizer.embedding.weight.grad[tokenizer.preprocess.vocabulary.pad].abs().sum() == 0


def test_saved_and_loaded_gives_the_same_tokens() -> None:
    one = build(positions="sinusoidal")
    torch.manual_seed(1)
    other = TextTokenizer(8, max_length=32, positions="sinusoidal")
    assert not torch.equal(run(one, TEXTS).x, run(other, TEXTS).x)
    other.load_state_dict(one.state_dict())
    assert torch.equal(run(one, TEXTS).x, run(other, TEXTS).x)


def test_length_without_room_for_text_is_refused() -> None:
    with pytest.raises(MetaformerError, match="at least 3"):
        build(max_length=2, end_token=True)


def test_words_are_hidden_as_a_whole() -> None:
    import random

    random.seed(0)
    tokenizer = TextTokenizer(8, max_length=200, token_dropout=0.5, whole_words=True)
    mask = tokenizer.preprocess.vocabulary.mask
    text = " ".join(["word"] * 30)
    raw = tokenizer.preprocess(text, True)
    hidden = raw["ids"] == mask
    for word in range(30):
        assert hidden[raw["words"] == word].float().mean() in (0.0, 1.0)
    assert 5 < sum(bool(hidden[raw["words"] == word].all()) for word in range(30)) < 25
    assert raw["words"][0] == -1


def test_embeddings_of_bert_and_clip() -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    knobs = {"vocab_size": 260, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    bert = transformers.BertModel(transformers.BertConfig(**knobs, intermediate_size=8, max_position_embeddings=32))
    clip = transformers.CLIPTextModel(
        transformers.CLIPTextConfig(**{**knobs, "vocab_size": 258}, intermediate_size=8, max_position_embeddings=32)
    )
    texts = ["some text", "a"]
    for model, knob in ((bert, {"norm": True}), (clip, {})):
        model.eval()
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.normal_()
        ours = TextTokenizer(8, max_length=12, **knob).eval()
        ours.load_state_dict(dict(ours.translate(model.state_dict())))
        raw = ours.preprocess.collate([ours.preprocess(text, False) for text in texts])
        raw["ids"] = raw["ids"].clamp(max=257)
        torch.testing.assert_close(ours(raw).x, model.embeddings(raw["ids"]), atol=1e-5, rtol=1e-5)
    with pytest.raises(WeightsError, match="match width and vocabulary"):
        TextTokenizer(16).translate(bert.state_dict())
    with pytest.raises(WeightsError, match="set max_length to 32"):
        TextTokenizer(8, max_length=64).translate(bert.state_dict())
