"""One class, or several at once, per sample.

Source: the linear head of ViT (arXiv 2010.11929); BERT's pooler (arXiv 1810.04805); the two layers that ViLT
(arXiv 2102.03334) and ALBEF (arXiv 2107.07651) answer questions with.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from metaformer.base import Head
from metaformer.errors import WeightsError
from metaformer.heads.pool import Pool, pool
from metaformer.heads.published import layer, linears, norms
from metaformer.layers.init import init_transformer
from metaformer.types import TokenBatch

CLASSIFIERS = (
    *("classifier", "head", "itm_score", "itm_head", "rank_output", "cls_head"),
    *("vqa_classifier", "nlvr2_classifier"),
)
"""What published models call the layers behind the pooler."""
ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {"gelu": F.gelu, "relu": F.relu}


class ClassificationHead(Head):
    """TokenBatch [B T D] → logits [B C]: pool, norm, linear. The objective decides how logits are read.

    `pooler`: a linear layer and tanh behind the norm, as BERT and ViLT have. `hidden`: one more layer of so many units
    before the last, with a norm unless `hidden_norm: false` and with `activation`.
    """

    predicts: ClassVar[Literal["class"]] = "class"

    def __init__(
        self,
        dim: int,
        *,
        num_classes: Annotated[int, Field(gt=0)],
        pool: Pool = "auto",
        norm: bool = True,
        norm_eps: Annotated[float, Field(gt=0)] = 1e-5,
        pooler: bool = False,
        hidden: Annotated[int, Field(gt=0)] | None = None,
        hidden_norm: bool = True,
        activation: Literal["gelu", "relu"] = "gelu",
        drop: Annotated[float, Field(ge=0, lt=1)] = 0.0,
    ) -> None:
        super().__init__()
        self.size = num_classes
        self.pool = pool
        self.norm = nn.LayerNorm(dim, eps=norm_eps) if norm else nn.Identity()
        self.pooler = nn.Linear(dim, dim) if pooler else None
        self.hidden = None if hidden is None else nn.Linear(dim, hidden)
        self.hidden_norm = None if hidden is None or not hidden_norm else nn.LayerNorm(hidden)
        self.activation = ACTIVATIONS[activation]
        self.drop = nn.Dropout(drop)
        self.linear = nn.Linear(dim if hidden is None else hidden, num_classes)
        init_transformer(self)

    def forward(self, tokens: TokenBatch) -> Float[Tensor, "B C"]:
        x = self.norm(pool(tokens, self.pool))
        if self.pooler is not None:
            x = torch.tanh(self.pooler(x))
        x = self.drop(x)
        if self.hidden is not None:
            x = self.hidden(x)
            x = self.activation(x if self.hidden_norm is None else self.hidden_norm(x))
        return self.linear(x)

    def translate(self, source: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Out of ViLT, VLMo and BERT (`pooler.dense`, and one of `CLASSIFIERS`), or a part that is such a head alone
        (ALBEF's `itm_head`, `pooler`); ours as they are. A norm before it is the encoder's, as `norm_out`."""
        if "linear.weight" in source:
            return source
        if self.pooler is not None and set(source) == {"dense.weight", "dense.bias"}:
            return layer(source, "dense.", "pooler")
        poolers = [key.removesuffix("weight") for key in source if f".{key}".endswith(".pooler.dense.weight")]
        if poolers and self.pooler is None:
            raise WeightsError("a head without pooler", f"{poolers[0]}weight in the weights", "set pooler: true")
        if len(poolers) > 1:
            raise WeightsError("one pooler", f"{', '.join(poolers)} in the weights", "name its part after a #")
        out = layer(source, poolers[0], "pooler") if poolers else {}
        found = {name: part for name in CLASSIFIERS if (part := _part(source, name))}
        if len(found) > 1:
            raise WeightsError("one classifier", f"{', '.join(found)} in the weights", "name one after a #")
        if not found and poolers:
            return out  # a file from before the task: the recipe may allow the rest to be fresh
        for name, part in (found or {"the source": dict(source)}).items():
            out |= self._classifier(name, part)
        return out

    def _classifier(self, name: str, part: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The layers behind the pooler."""
        matrices, scales = linears(part), norms(part)
        taken = {prefix + kind for prefix in (*matrices, *scales) for kind in ("weight", "bias")}
        wanted = 1 if self.hidden is None else 2
        if len(matrices) != wanted or set(part) - taken:
            found_here = f"{name} has {len(matrices)} in the weights ({', '.join(list(part)[:4])}, ...)"
            do = "set hidden: to the rows of the first, or leave it out"
            raise WeightsError(f"{wanted} linear layers", found_here, do)
        if len(scales) != (self.hidden_norm is not None):
            found_here = f"{name} has {len(scales)} in the weights"
            do = "set hidden_norm to what there is; a norm before the head is the encoder's norm_out"
            raise WeightsError(f"{int(self.hidden_norm is not None)} norms", found_here, do)
        out = layer(part, matrices[-1], "linear")
        if wanted == 2:
            out |= layer(part, matrices[0], "hidden")
        return out | (layer(part, scales[0], "hidden_norm") if scales else {})


def _part(source: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """Tensors under a module's name, which may stand behind any prefix."""
    return {
        key.partition(f"{name}.")[2]: value
        for key, value in source.items()
        if key.startswith(f"{name}.") or f".{name}." in key
    }
