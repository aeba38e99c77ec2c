"""Text tokenizer: ids → embeddings with positions.

Source: word embeddings and learned positions as in BERT (arXiv 1810.04805), which Meta-Transformer (arXiv
2307.10802) takes over.
Ours differs: no token-type embedding, and no norm unless asked for.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from metaformer.base import Preprocess, Tokenizer, pad_stack
from metaformer.errors import DataError, MetaformerError, WeightsError
from metaformer.layers.positions import sinusoid
from metaformer.types import Raw, TokenBatch
from metaformer_plugin_text.vocabulary import Vocabulary, open_vocabulary


class TextPreprocess(Preprocess):
    """str, or UTF-8 bytes → {ids: int64 [T], words: int64 [T], mask: bool [T]}, special tokens included.

    `words` says which word a token belongs to, -1 for special tokens: a word is hidden as a whole.

    An empty text is a valid sample where there is a class token to stand for it, and a DataError otherwise.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        max_length: int,
        class_token: bool,
        end_token: bool,
        truncate: bool,
        token_dropout: float = 0.0,
        whole_words: bool = False,
    ) -> None:
        self.whole_words = whole_words
        self.vocabulary, self.max_length, self.truncate = vocabulary, max_length, truncate
        self.token_dropout = token_dropout
        self.prefix = [vocabulary.cls] if class_token else []
        self.suffix = [vocabulary.end] if end_token else []

    def __call__(self, value: Any, train: bool) -> Raw:
        ids, words = self._encode(_as_text(value))
        room = self.max_length - len(self.prefix) - len(self.suffix)
        if len(ids) > room and not self.truncate:
            raise DataError(
                f"a text of at most {self.max_length} tokens",
                f"{len(ids)} tokens and {self.max_length - room} special ones",
                "raise max_length, or let too_long: truncate cut the end off",
            )
        if not ids and not self.prefix:
            raise DataError(
                "a text with something in it",
                f"no tokens in {value!r}",
                "leave the value out (a missing stream), or set class_token: true",
            )
        ids, words = ids[:room], words[:room]
        if train and self.token_dropout:
            units = words if self.whole_words else range(len(ids))
            hidden = {unit for unit in dict.fromkeys(units) if random.random() < self.token_dropout}
            ids = [self.vocabulary.mask if unit in hidden else i for i, unit in zip(ids, units, strict=True)]
        return _raw([*self.prefix, *ids, *self.suffix], [-1] * len(self.prefix) + words + [-1] * len(self.suffix))

    def _encode(self, text: str) -> tuple[list[int], list[int]]:
        try:
            return self.vocabulary.encode(text)
        except UnicodeEncodeError as error:
            raise DataError(
                "valid Unicode text", f"a lone surrogate at character {error.start}", "repair the encoding"
            ) from error

    def blank(self) -> Raw:
        return _raw([self.vocabulary.cls if self.prefix else self.vocabulary.pad], [-1])

    def example(self) -> Raw:
        return _raw([self.vocabulary.pad] * self.max_length, [-1] * self.max_length)

    def collate(self, samples: Sequence[Raw]) -> Raw:
        return {
            "ids": pad_sequence([s["ids"] for s in samples], batch_first=True, padding_value=self.vocabulary.pad),
            "words": pad_sequence([s["words"] for s in samples], batch_first=True, padding_value=-1),
            "mask": pad_stack([sample["mask"] for sample in samples]),
        }


def _raw(ids: list[int], words: list[int]) -> Raw:
    return {
        "ids": torch.tensor(ids, dtype=torch.int64),
        "words": torch.tensor(words, dtype=torch.int64),
        "mask": torch.ones(len(ids), dtype=torch.bool),
    }


def _as_text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, (bytes, bytearray)):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError as error:
            raise DataError(
                "UTF-8 text", f"byte 0x{value[error.start]:02x} at {error.start}", "convert the text to UTF-8"
            ) from error
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)  # a CSV column in which every text is a whole number is read as numbers
    raise DataError("a text", f"{type(value).__name__}: {value!r:.80}", "give a string")


class TextTokenizer(Tokenizer):
    """{ids [B T], mask [B T]} → tokens [B T D] with `ids`; a class token comes first."""

    preprocess: TextPreprocess
    positions: Float[Tensor, "L D"] | None

    def __init__(
        self,
        dim: int,
        *,
        vocabulary: str = "bytes",
        max_length: Annotated[int, Field(gt=0)] = 128,
        class_token: bool = True,
        end_token: bool = False,
        positions: Literal["learned", "sinusoidal", "none"] = "learned",
        too_long: Literal["truncate", "error"] = "truncate",
        norm: bool = False,
        norm_eps: Annotated[float, Field(gt=0)] = 1e-5,
        drop: Annotated[float, Field(ge=0, lt=1)] = 0.0,
        token_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0,
        whole_words: bool = False,
    ) -> None:
        super().__init__()
        if max_length <= class_token + end_token:
            raise MetaformerError(
                "text tokens",
                f"max_length {max_length} leaves no room beside {class_token + end_token} special tokens",
                f"max_length must be at least {class_token + end_token + 1}",
            )
        self.vocabulary = vocabulary
        words = open_vocabulary(vocabulary)
        self.num_ids, self.mask_id = words.size, words.mask
        self.preprocess = TextPreprocess(
            words, max_length, class_token, end_token, too_long == "truncate", token_dropout, whole_words
        )
        self.num_prefix = int(class_token)
        self.embedding = nn.Embedding(words.size, dim)
        self.norm = nn.LayerNorm(dim, eps=norm_eps) if norm else nn.Identity()
        self.drop = nn.Dropout(drop)
        # Sinusoids have entries near 1, which embeddings of BERT's size would drown in.
        nn.init.normal_(self.embedding.weight, std=1.0 if positions == "sinusoidal" else 0.02)
        if positions == "learned":
            self.positions = nn.Parameter(nn.init.trunc_normal_(torch.empty(max_length, dim), std=0.02))
        else:
            self.register_buffer("positions", sinusoid(max_length, dim) if positions == "sinusoidal" else None)

    def forward(self, raw: Raw) -> TokenBatch:
        ids, mask = raw["ids"], raw["mask"]
        x = self.embedding(ids)
        positions = None if self.positions is None else self.positions[: ids.shape[1]]
        if positions is not None:
            x = x + positions
        return TokenBatch(
            x=self.drop(self.norm(x)),
            mask=mask,
            modality=self.modality,
            ids=ids,
            num_prefix=self.num_prefix,
            # After a norm the positions can no longer be taken off again.
            positions=positions if isinstance(self.norm, nn.Identity) else None,
        )

    def word_vectors(self) -> nn.Parameter:
        return self.embedding.weight

    def translate(self, source: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Word embeddings, positions and norm out of the text models of BERT, ALIGN, ALBEF, BLIP, ViLT (Hugging Face,
        Lightning), CLIP (Hugging Face, open_clip, OpenAI) and ImageBind; ours as they are. Ids that the
        source lacks (a mask token) keep their fresh embedding; positions are cut."""
        if "embedding.weight" in source:
            return source
        prefix, layout = _layout(source)
        words = source[prefix + layout.words]
        table = self.embedding.weight.detach()
        if words.shape[1] != table.shape[1] or not 0 <= len(table) - len(words) <= NEW_IDS:
            found = f"{prefix}{layout.words} is {list(words.shape)}"
            raise WeightsError(f"embeddings of {list(table.shape)}", found, "match width and vocabulary")
        out = {"embedding.weight": torch.cat([words, table[len(words) :].to(words)])}
        if self.positions is not None and isinstance(self.positions, nn.Parameter):
            places = source[prefix + layout.positions].reshape(-1, table.shape[1])
            if len(places) < len(self.positions):
                found = f"{len(places)} in the weights"
                raise WeightsError(f"{len(self.positions)} positions", found, f"set max_length to {len(places)}")
            places = places[: len(self.positions)]
            kind = source.get(prefix + layout.kinds) if layout.kinds else None
            # A text alone is of kind 0 throughout: the same as another position.
            out["positions"] = places if kind is None else places + kind[0]
        if not isinstance(self.norm, nn.Identity):
            if layout.norm is None:
                do = "set the tokenizer's norm: false"
                raise WeightsError("a norm after the embeddings", "none in the weights", do)
            out |= {f"norm.{part}": source[f"{prefix}{layout.norm}.{part}"] for part in ("weight", "bias")}
        return out

    def describe(self) -> str:
        words = self.preprocess.vocabulary
        return (
            f"text: vocabulary {self.vocabulary} ({words.size} ids, sha256 {words.digest[:12]}),"
            f" at most {self.preprocess.max_length} tokens"
        )


NEW_IDS = 4
"""Special tokens that a vocabulary may have been given beyond the published table."""


@dataclass(frozen=True)
class Layout:
    """Where a library keeps the parts; the keys may stand behind any prefix."""

    words: str
    positions: str
    kinds: str | None = None
    norm: str | None = None


LAYOUTS = (
    *(
        Layout(
            f"{part}.word_embeddings.weight",
            f"{part}.position_embeddings.weight",
            f"{part}.token_type_embeddings.weight",
            f"{part}.LayerNorm",
        )
        for part in ("text_embeddings", "embeddings")
    ),
    Layout("embeddings.token_embedding.weight", "embeddings.position_embedding.weight"),
    Layout("token_embedding.weight", "positional_embedding"),
    Layout("token_embedding.weight", "pos_embed"),
)


def _layout(source: Mapping[str, Tensor]) -> tuple[str, Layout]:
    for layout in LAYOUTS:
        prefixes = [
            prefix
            for key in source
            if (prefix := key.removesuffix(layout.words)) != key
            and (not prefix or prefix.endswith("."))
            and prefix + layout.positions in source
        ]
        if len(prefixes) > 1:
            found = f"{', '.join(prefix + layout.words for prefix in prefixes)}"
            raise WeightsError("one table of word embeddings", found, "name the part of one of them after a #")
        if prefixes:
            return prefixes[0], layout
    some = ", ".join(list(source)[:4]) or "nothing"
    found = f"none among {len(source)} tensors ({some}, ...)"
    raise WeightsError("word embeddings", found, "known: BERT, ViLT, Hugging Face CLIP, open_clip")
