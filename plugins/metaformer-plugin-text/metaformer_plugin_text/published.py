"""Vocabulary files that are no `tokenizer.json`: BERT's `vocab.txt` and CLIP's merges.

Source: WordPiece as in BERT (arXiv 1810.04805); CLIP's byte-level BPE (arXiv 2103.00020), whose file of merges
ships with open_clip.
Ours differs: CLIP's reference code first mends broken encodings and HTML entities; texts are taken as they are here.
"""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

from metaformer.files.package import package_data

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Subwords

LARGEST = 2**26
"""Bytes of a vocabulary file, unpacked: 67 million; CLIP's has 3 million."""
MERGES = 49152 - 256 - 2
"""What CLIP uses of the file: its 49408 ids are 512 bytes, these, and two specials."""
WORD = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def clip_file() -> Path:
    """CLIP's merges inside the package open_clip, found without importing it."""
    do = "pip install 'metaformer-plugin-text[clip]', or write file:PATH of bpe_simple_vocab_16e6.txt.gz"
    return package_data("open_clip", "bpe_simple_vocab_16e6.txt.gz", "text vocabulary clip", do)


def read_lines(path: Path) -> list[str]:
    """Lines of a text file, which may be gzipped. Raises OSError and ValueError."""
    with path.open("rb") as file:
        try:
            stream = gzip.GzipFile(fileobj=file) if path.suffix == ".gz" else file
            text = stream.read(LARGEST + 1)
        except (EOFError, zlib.error) as error:
            raise ValueError(f"damaged: {error}") from error
    if len(text) > LARGEST:
        raise ValueError(f"more than {LARGEST} bytes")
    return text.decode("utf-8").splitlines()


def wordpiece(lines: list[str]) -> Subwords:
    """BERT's vocabulary: a sub-word per line, its number is its id. Lower-case where no entry has capitals."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

    vocabulary = {word: number for number, word in enumerate(lines)}
    if len(vocabulary) != len(lines) or "[UNK]" not in vocabulary:
        raise ValueError("not a BERT vocabulary: a word stands twice, or there is no [UNK]")
    words = (word for word in lines if not (word.startswith("[") and word.endswith("]")))
    lower = all(word == word.lower() for word in words)
    subwords = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))  # type: ignore[call-arg]
    subwords.normalizer = normalizers.BertNormalizer(lowercase=lower)
    subwords.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    subwords.decoder = decoders.WordPiece()
    return subwords


def clip_bpe(lines: list[str]) -> Subwords:
    """CLIP's vocabulary out of its merges, one pair per line after a first line that is none."""
    from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers

    pairs = [tuple(line.split()) for line in lines[1 : 1 + MERGES]]
    if len(pairs) < MERGES or any(len(pair) != 2 for pair in pairs):
        raise ValueError(f"not CLIP's merges: {MERGES} pairs are needed")
    merges = [(one, other) for one, other in pairs]
    letters = _bytes()
    words = [*letters, *(f"{letter}</w>" for letter in letters), *(one + other for one, other in merges)]
    vocabulary = {word: number for number, word in enumerate([*words, "<|startoftext|>", "<|endoftext|>"])}
    model = models.BPE(vocabulary, merges, end_of_word_suffix="</w>", unk_token="<|endoftext|>")
    subwords = Tokenizer(model)
    subwords.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    subwords.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORD), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    subwords.add_special_tokens([AddedToken(name, special=True) for name in ("<|startoftext|>", "<|endoftext|>")])
    return subwords


def _bytes() -> list[str]:
    """GPT-2's letters for bytes, in the vocabulary's order: printable bytes stand for themselves and come first."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return [*map(chr, printable), *(chr(256 + number) for number in range(len(others)))]
