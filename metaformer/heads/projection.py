"""An embedding of unit length, for retrieval and contrast."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, NamedTuple

from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from metaformer.base import Head
from metaformer.errors import MetaformerError, WeightsError
from metaformer.heads.pool import Pool, pool
from metaformer.heads.published import bare_linear
from metaformer.layers.init import init_transformer
from metaformer.types import TokenBatch


class Layout(NamedTuple):
    """Where a library keeps a tower's projection, and the norm before it."""

    matrix: str
    norm: str
    part: str
    """What tells it from the other tower's in a recipe."""
    transposed: bool = False


LAYOUTS = (
    Layout("visual_projection.weight", "vision_model.post_layernorm", "visual_projection"),
    Layout("text_projection.weight", "text_model.final_layer_norm", "text_projection"),
    Layout("visual.proj", "visual.ln_post", "visual", transposed=True),
    Layout("text.text_projection", "text.ln_final", "text", transposed=True),
    Layout("text_projection", "ln_final", "text", transposed=True),
    Layout("proj", "ln_post", "visual", transposed=True),
)


class ProjectionHead(Head):
    """TokenBatch [B T D] → [B C], rows of length 1: pool, norm, linear; without `size` no linear layer, and C = D."""

    predicts: ClassVar[Literal["embedding"]] = "embedding"

    def __init__(
        self,
        dim: int,
        *,
        size: Annotated[int, Field(gt=0)] | None = 256,
        pool: Pool = "auto",
        norm: bool = True,
        norm_eps: Annotated[float, Field(gt=0)] = 1e-5,
        bias: bool = False,
    ) -> None:
        super().__init__()
        if bias and size is None:
            raise MetaformerError("bias: true", "size: null, which is no linear layer", "leave one of them out")
        self.size = dim if size is None else size
        self.pool = pool
        self.norm = nn.LayerNorm(dim, eps=norm_eps) if norm else nn.Identity()
        self.linear = nn.Identity() if size is None else nn.Linear(dim, size, bias=bias)
        init_transformer(self)

    def forward(self, tokens: TokenBatch) -> Float[Tensor, "B C"]:
        return F.normalize(self.linear(self.norm(pool(tokens, self.pool))).float(), dim=-1)

    def translate(self, source: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Out of CLIP (Hugging Face, open_clip), or a part with one linear layer and at most one norm (ALBEF's
        `vision_proj`, ALIGN's `text_projection`, ImageBind's `modality_heads.audio`); ours as they are.

        The norm before the projection is taken with `norm: true`; with `norm: false` it is the encoder's `norm_out`."""
        if "linear.weight" in source or isinstance(self.linear, nn.Identity):
            return source
        found = [layout for layout in LAYOUTS if layout.matrix in source]
        if len(found) > 1:
            parts = f"{' and '.join(layout.matrix for layout in found)} are in the weights"
            raise WeightsError("one projection", parts, f"name one: ...#{found[0].part}")
        out = self._tower(source, found[0]) if found else bare_linear(source, "one projection")
        if isinstance(self.norm, nn.Identity):
            return {key: value for key, value in out.items() if not key.startswith("norm.")}
        if "norm.weight" not in out:
            do = "set the head's norm: false; where the tower has one, it is the encoder's norm_out"
            raise WeightsError("a norm before the projection", "none beside it in the weights", do)
        return out

    def _tower(self, source: Mapping[str, Tensor], layout: Layout) -> dict[str, Tensor]:
        matrix = source[layout.matrix]
        out = {"linear.weight": matrix.T if layout.transposed else matrix}
        ours = {"linear.bias": f"{layout.matrix.removesuffix('.weight')}.bias"}
        ours |= {f"norm.{part}": f"{layout.norm}.{part}" for part in ("weight", "bias")}
        return out | {name: source[theirs] for name, theirs in ours.items() if theirs in source}
