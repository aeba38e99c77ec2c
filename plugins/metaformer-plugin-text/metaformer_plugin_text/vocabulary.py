"""Vocabularies: text → ids.

Source: `bytes` numbers its specials before the bytes, as ByT5 (arXiv 2105.13626) does; the others are read by
the `tokenizers` library, which every current Hugging Face vocabulary is made for.
Ours differs: ByT5 has no class and no mask id.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from metaformer.errors import DataError
from metaformer_plugin_text.published import clip_bpe, clip_file, read_lines, wordpiece

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Subwords

SPECIALS: Mapping[str, tuple[str, ...]] = {
    "pad": ("[PAD]", "<pad>", "<|pad|>"),
    "class": ("[CLS]", "<s>", "<|startoftext|>", "<bos>", "<|begin_of_text|>"),
    "end": ("[SEP]", "</s>", "<|endoftext|>", "<eos>", "<|end_of_text|>"),
    "mask": ("[MASK]", "<mask>", "<|mask|>"),
}
"""Names that special tokens go by, likeliest first; one that a vocabulary lacks gets an id past its end."""


class Vocabulary(ABC):
    """Text → ids in [0, size). Picklable."""

    size: int
    """How many ids there are, specials included."""
    pad: int
    """Fills up short texts; always masked out."""
    cls: int
    """Stands first, for the whole text."""
    end: int
    """Stands last, where asked for."""
    mask: int
    """Stands for a hidden token in masked-language objectives."""
    digest: str
    """SHA-256 of what decides the ids: the same digest, the same ids."""

    @abstractmethod
    def encode(self, text: str) -> tuple[list[int], list[int]]:
        """Ids of a text, without specials, and which word each belongs to, counted from 0. Text that spells a special
        token is ordinary text."""


class ByteVocabulary(Vocabulary):
    """UTF-8 bytes: needs no file, knows every text, and is about four times as long as sub-words."""

    def __init__(self) -> None:
        self.pad, self.cls, self.end, self.mask = range(4)
        self.size = 4 + 256
        self.digest = hashlib.sha256(b"utf-8 after pad, class, end, mask").hexdigest()

    def encode(self, text: str) -> tuple[list[int], list[int]]:
        raw = text.encode("utf-8")
        words, word, gap = [], 0, True
        for byte in raw:
            blank = byte in b" \t\r\n"
            if gap and not blank and words:
                word += 1  # white space belongs to the word before it
            words.append(word)
            gap = blank
        return [byte + 4 for byte in raw], words


class SubwordVocabulary(Vocabulary):
    """What a `tokenizers` file says: WordPiece, BPE, unigram, with its own normalisation."""

    def __init__(self, subwords: Subwords, specials: Mapping[str, int | None]) -> None:
        subwords.no_truncation()
        subwords.no_padding()
        self.subwords = subwords
        # Ids may have gaps, so the largest one counts, not the number of entries.
        self.size = max(subwords.get_vocab(with_added_tokens=True).values(), default=-1) + 1
        found: dict[str, int] = {}
        for role, names in SPECIALS.items():
            known = specials.get(role)
            if known is None:
                known = next((i for name in names if (i := subwords.token_to_id(name)) is not None), None)
            if known is None:
                known, self.size = self.size, self.size + 1
            found[role] = known
        self.pad, self.cls, self.end, self.mask = (found[r] for r in ("pad", "class", "end", "mask"))
        told = subwords.to_str() + repr(sorted(found.items()))
        self.digest = hashlib.sha256(told.encode()).hexdigest()

    def encode(self, text: str) -> tuple[list[int], list[int]]:
        # Set on each call, because pickling to a worker forgets it.
        self.subwords.encode_special_tokens = True
        found = self.subwords.encode(text, add_special_tokens=False)
        return list(found.ids), [-1 if word is None else word for word in found.word_ids]


def open_vocabulary(uri: str) -> Vocabulary:
    """`bytes`, `clip` (as open_clip brings it), `file:PATH` (a `tokenizers` JSON file, BERT's `vocab.txt`, CLIP's
    `bpe_simple_vocab_16e6.txt.gz`) or `hf:NAME` (a folder, a cached or a hub repository).

    Raises DataError where it is not to be had."""
    if uri == "bytes":
        return ByteVocabulary()
    if uri == "clip":
        return _from_file(clip_file())
    scheme, _, name = uri.partition(":")
    if name and scheme == "file":
        return _from_file(Path(name))
    if name and scheme == "hf":
        return _from_hub(name)
    raise DataError(
        f"text vocabulary {uri!r}",
        "no such vocabulary",
        "write `bytes`, `clip`, `file:PATH` (a tokenizer.json, a vocab.txt) or `hf:NAME` (hf:bert-base-uncased)",
    )


def _from_file(path: Path) -> Vocabulary:
    asked = f"text vocabulary file:{path}"
    try:
        lines = read_lines(path)
    except (OSError, ValueError) as error:
        where = "" if path.is_absolute() else f" (looked from {Path.cwd()})"
        raise DataError(asked, f"{error}{where}", "give the path of a tokenizer.json or vocab.txt") from error
    try:
        from tokenizers import Tokenizer as Subwords
    except ImportError as error:
        raise DataError(
            asked, "the tokenizers package is absent", "pip install 'metaformer-plugin-text[tokenizers]'"
        ) from error
    try:
        if path.suffix == ".json":
            subwords = Subwords.from_str("\n".join(lines))
        else:
            subwords = clip_bpe(lines) if "version" in lines[0][:80] else wordpiece(lines)
    except Exception as error:  # the library raises bare `Exception` and nothing narrower
        do = "give a tokenizer.json that the tokenizers library has written, BERT's vocab.txt or CLIP's merges"
        raise DataError(asked, str(error), do) from error
    return SubwordVocabulary(subwords, {})


def _from_hub(name: str) -> Vocabulary:
    asked = f"text vocabulary hf:{name}"
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise DataError(
            asked, "the transformers package is absent", "pip install 'metaformer-plugin-text[huggingface]'"
        ) from error
    try:
        found = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise DataError(
            asked,
            f"{reason} (looked in the folder of that name, in the Hugging Face cache, and on the hub unless"
            " HF_HUB_OFFLINE is set)",
            "check the name; with no network, copy the repository's tokenizer files into a folder and write"
            " hf:FOLDER, or its tokenizer.json and write file:PATH, or use `bytes`",
        ) from error
    subwords = getattr(found, "backend_tokenizer", None)
    if subwords is None:
        raise DataError(
            asked,
            f"{type(found).__name__} has no `tokenizers` backend",
            "convert it to a tokenizer.json and write file:PATH",
        )
    return SubwordVocabulary(
        subwords,
        {
            "pad": found.pad_token_id,
            "class": found.bos_token_id if found.cls_token_id is None else found.cls_token_id,
            "end": found.eos_token_id if found.sep_token_id is None else found.sep_token_id,
            "mask": found.mask_token_id,
        },
    )
