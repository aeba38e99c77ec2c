"""A word per token, out of a stream's vocabulary.

Source: the masked language head of BERT (arXiv 1810.04805), which ViLT, ALBEF and VLMo have as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from metaformer.base import Head
from metaformer.errors import MetaformerError, WeightsError
from metaformer.layers.init import init_transformer
from metaformer.types import TokenBatch

LAYOUT = {"transform": "transform.dense", "norm": "transform.LayerNorm"}
"""Ours → BERT's."""


class LanguageHead(Head):
    """TokenBatch [B n+T D] → logits [B T V] over the vocabulary of `stream`: linear, gelu, norm, decoder.

    `tie`: the decoder's rows are the vectors that the stream's tokenizer gives its words, one parameter for both."""

    predicts: ClassVar[Literal["classes"]] = "classes"

    def __init__(
        self,
        dim: int,
        vocabularies: Mapping[str, int],
        *,
        stream: str,
        tie: bool = False,
        norm_eps: Annotated[float, Field(gt=0)] = 1e-12,
    ) -> None:
        super().__init__()
        if stream not in vocabularies:
            raise MetaformerError(f"words of stream {stream!r}", f"streams: {', '.join(vocabularies)}", "name one")
        if not vocabularies[stream]:
            raise MetaformerError(f"words of stream {stream!r}", "its tokens have no ids", "name a text")
        self.size = vocabularies[stream]
        self.ties = stream if tie else None
        self.transform = nn.Linear(dim, dim)
        self.norm = nn.LayerNorm(dim, eps=norm_eps)
        self.decoder = nn.Linear(dim, self.size)
        init_transformer(self)

    def tie(self, vectors: nn.Parameter) -> None:
        if vectors.shape != self.decoder.weight.shape:
            found = f"its words have {vectors.shape[1]} numbers, and this head reads {self.decoder.in_features}"
            raise MetaformerError(f"tie a language head to stream {self.ties!r}", found, "set tie: false")
        self.decoder.weight = vectors

    def forward(self, tokens: TokenBatch) -> Float[Tensor, "B T V"]:
        x = tokens.x[:, tokens.num_prefix :]
        return self.decoder(self.norm(F.gelu(self.transform(x))))

    def translate(self, source: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Out of BERT (`cls.predictions`), ALBEF, ViLT and VLMo (`mlm_score`): the bias may stand beside the
        decoder."""
        if "transform.weight" in source:
            return source
        ends = [key for key in source if key.endswith("transform.dense.weight")]
        if len(ends) != 1:
            raise WeightsError("a masked language head", f"{len(ends)} tensors transform.dense.weight", "name its part")
        prefix = ends[0].removesuffix("transform.dense.weight")
        out = {
            f"{ours}.{part}": source[f"{prefix}{theirs}.{part}"]
            for ours, theirs in LAYOUT.items()
            for part in ("weight", "bias")
        }
        for key, names in (("weight", ("decoder.weight",)), ("bias", ("bias", "decoder.bias"))):
            found = [prefix + name for name in names if prefix + name in source]
            if found:
                out[f"decoder.{key}"] = source[found[0]]
        return out
