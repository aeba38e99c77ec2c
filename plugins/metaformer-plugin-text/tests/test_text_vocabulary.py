"""Vocabularies: bytes against UTF-8, files against the library that writes them, and what cannot be opened."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
from metaformer_plugin_text.vocabulary import ByteVocabulary, SubwordVocabulary, open_vocabulary

from metaformer.errors import DataError

TEXTS = ["", "hello", "Grüße, 世界 🌍", "a\x00b\n", "[CLS] is text here"]


@pytest.fixture(scope="module")
def vocabulary_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small byte-level BPE with BERT's special tokens, and no mask."""
    tokenizers = pytest.importorskip("tokenizers")
    subwords = tokenizers.Tokenizer(tokenizers.models.BPE())
    subwords.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["[PAD]", "[CLS]", "[SEP]"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    subwords.train_from_iterator(["hello hello world"] * 9, trainer)
    path = tmp_path_factory.mktemp("vocabulary") / "tokenizer.json"
    subwords.save(str(path))
    return path


@pytest.mark.parametrize("text", TEXTS)
def test_bytes_are_utf8_after_the_specials(text: str) -> None:
    words = ByteVocabulary()
    ids, _ = words.encode(text)
    assert bytes(i - 4 for i in ids).decode() == text
    assert not {words.pad, words.cls, words.end, words.mask} & set(ids)
    assert max(ids, default=0) < words.size == 260


def test_a_file_gives_the_ids_its_library_gives(vocabulary_file: Path) -> None:
    import tokenizers

    words = open_vocabulary(f"file:{vocabulary_file}")
    theirs = tokenizers.Tokenizer.from_file(str(vocabulary_file))
    for text in TEXTS[:4]:
        assert words.encode(text)[0] == theirs.encode(text, add_special_tokens=False).ids
    assert (words.pad, words.cls, words.end) == (0, 1, 2)


def test_a_special_token_that_is_absent_gets_an_id_of_its_own(vocabulary_file: Path) -> None:
    words = open_vocabulary(f"file:{vocabulary_file}")
    assert isinstance(words, SubwordVocabulary)
    assert words.mask == words.subwords.get_vocab_size() == words.size - 1


def test_text_cannot_forge_special_tokens_not_even_in_a_worker(vocabulary_file: Path) -> None:
    words = open_vocabulary(f"file:{vocabulary_file}")
    for one in (words, pickle.loads(pickle.dumps(words))):
        assert words.cls not in one.encode("[CLS] is text here")


def test_hugging_face_folder_gives_the_ids_of_its_file(vocabulary_file: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(vocabulary_file), pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]"
    ).save_pretrained(tmp_path)
    theirs, ours = open_vocabulary(f"hf:{tmp_path}"), open_vocabulary(f"file:{vocabulary_file}")
    for text in TEXTS:
        assert theirs.encode(text) == ours.encode(text)
    assert (theirs.pad, theirs.cls, theirs.end, theirs.size) == (ours.pad, ours.cls, ours.end, ours.size)


def test_digest_tells_vocabularies_apart(vocabulary_file: Path) -> None:
    one = open_vocabulary(f"file:{vocabulary_file}")
    assert one.digest == open_vocabulary(f"file:{vocabulary_file}").digest != ByteVocabulary().digest


@pytest.mark.parametrize("uri", ["wordpiece", "file:", "hf:", "ftp:x"])
def test_unknown_vocabulary_says_what_there_is(uri: str) -> None:
    with pytest.raises(DataError, match="`bytes`, `clip`, `file:PATH`"):
        open_vocabulary(uri)


def test_absent_and_broken_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere\.json"):
        open_vocabulary(f"file:{tmp_path}/nowhere.json")
    broken = tmp_path / "broken.json"
    broken.write_text('{"model": 1')
    with pytest.raises(DataError, match=r"broken\.json"):
        open_vocabulary(f"file:{broken}")


def test_hub_name_without_network_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    import huggingface_hub.constants

    # The library reads the switch at import; both places are set, so that no test run waits for a network.
    monkeypatch.setitem(os.environ, "HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match="file:PATH"):
        open_vocabulary("hf:nobody/has-this-vocabulary")


def test_clips_merges_give_clips_ids() -> None:
    open_clip = pytest.importorskip("open_clip")
    words, theirs = open_vocabulary("clip"), open_clip.SimpleTokenizer()
    texts = ["a photo of a cat", "It's 2 dogs!! They're   running\n(fast)", "Grüße, 世界 🌍", "e.g. x_1 = -3.5e7", ""]
    for text in texts:
        ids, groups = words.encode(text)
        assert ids == theirs.encode(text)
        assert len(groups) == len(ids)
    assert words.size == 49408 + 2  # pad and mask, which CLIP lacks
    assert (words.cls, words.end) == (theirs.sot_token_id, theirs.eot_token_id)


def test_berts_file_gives_berts_ids(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "un", "##happi", "##ness", "the", "!", "cafe", "##s"]
    (tmp_path / "vocab.txt").write_text("\n".join(pieces) + "\n")
    words = open_vocabulary(f"file:{tmp_path / 'vocab.txt'}")
    theirs = transformers.BertTokenizerFast(vocab=str(tmp_path / "vocab.txt"))
    assert words.encode("The unhappiness, cafés!")[1] == [0, 1, 1, 1, 2, 3, 3, 4]
    if theirs.vocab_size == len(pieces):
        for text in ("The unhappiness, Cafés!", "unhappi ness"):
            assert words.encode(text)[0] == theirs.encode(text, add_special_tokens=False)
    assert (words.pad, words.cls, words.end, words.mask, words.size) == (0, 2, 3, 4, len(pieces))


@pytest.mark.parametrize("content", [b"", b"a\nb\n", b"#version\na b\n", b"\xff\xfe", b"[UNK]\na\na\n"])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "vocab.txt").write_bytes(content)
    with pytest.raises(DataError, match=r"vocab\.txt"):
        open_vocabulary(f"file:{tmp_path / 'vocab.txt'}")


def test_bytes_know_their_words() -> None:
    assert ByteVocabulary().encode("ab  c d")[1] == [0, 0, 0, 0, 1, 1, 2]
