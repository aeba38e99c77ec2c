"""Encoder `experts`: one self-attention for tokens of every modality, and a feed-forward for those of each kind.

Source: VLMo (arXiv 2111.02358) and its released code.
Ours differs: any modalities and any number of experts; parts may have any length, where the code splits a pair after 40
text tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby
from typing import Annotated

from pydantic import Field
from torch import Tensor, nn

from metaformer.base import Encoder
from metaformer.errors import MetaformerError
from metaformer.layers.attention import key_mask
from metaformer.layers.init import init_transformer, width_std
from metaformer.layers.mlp import Activation
from metaformer.types import TokenBatch
from metaformer_plugin_experts.block import ExpertBlock, Route
from metaformer_plugin_experts.positions import RelativePositions
from metaformer_plugin_experts.published import Form, translate

PAIR = "pair"
"""The expert of joint sequences."""

Count = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0, lt=1)]
Name = Annotated[str, Field(pattern=r"^[a-z]\w*$")]


class ExpertsEncoder(Encoder):
    """TokenBatch [B T D] → TokenBatch [B T D]; padding changes nothing.

    `experts` says which modalities each expert serves. A sequence of one stream goes through the expert of its
    modality; in a joint one each part goes through its own. From the layer `pair_from` on there is the expert `pair` as
    well, and it takes the whole of a joint sequence, or of one whose pass says `expert: pair`.

    `relative_positions` says for each expert how its tokens are laid out, class token not counted: `[14, 14]` for 14
    rows of 14 patches, `[195]` for a line of 195 words, `[]` for a set. See `RelativePositions`.

    The route depends on what a sequence is made of and never on what is in it: all ranks take the same one through a
    task's passes. An expert that no pass reaches gets no gradient; engines differ in whether it decays: freeze it.
    """

    def __init__(
        self,
        *,
        experts: Mapping[Name, tuple[str, ...]],
        pair_from: Annotated[int, Field(ge=0)] | None = None,
        dim: Count = 768,
        depth: Count = 12,
        num_heads: Count = 12,
        mlp_ratio: Annotated[float, Field(gt=0)] = 4.0,
        norm_eps: Annotated[float, Field(gt=0)] = 1e-6,
        activation: Activation = "gelu",
        key_bias: bool = False,
        norm_out: bool = True,
        drop: Share = 0.0,
        drop_path: Share = 0.0,
        layer_scale: float | None = 0.1,
        relative_positions: Mapping[Name, tuple[Count, ...]] | None = None,
        plain_expert: str | None = None,
    ) -> None:
        super().__init__()
        self.dim, self.pair_from, self.plain_expert, self.key_bias = dim, pair_from, plain_expert, key_bias
        self.experts = {name: tuple(modalities) for name, modalities in experts.items()}
        self._refuse(depth, relative_positions)
        self.expert_of = {modality: name for name, served in self.experts.items() for modality in served}
        # Stochastic depth grows linearly with depth, as in the core's encoder.
        rates = [drop_path * i / max(depth - 1, 1) for i in range(depth)]
        self.blocks = nn.ModuleList(
            ExpertBlock(
                dim,
                num_heads,
                [*self.experts, PAIR] if pair_from is not None and i >= pair_from else list(self.experts),
                mlp_ratio=mlp_ratio,
                norm_eps=norm_eps,
                activation=activation,
                key_bias=key_bias,
                drop=drop,
                drop_path=rate,
                layer_scale=layer_scale,
            )
            for i, rate in enumerate(rates)
        )
        self.norm_out = nn.LayerNorm(dim, eps=norm_eps) if norm_out else None
        init_transformer(self, width_std(dim))
        # Behind the initialisation, which would draw the tables: they begin at zero.
        self.positions: RelativePositions | None = None
        if relative_positions is not None:
            sizes = {name: tuple(relative_positions[name]) for name in self.experts}
            self.positions = RelativePositions(sizes, num_heads, depth)

    def _refuse(self, depth: int, sizes: Mapping[str, tuple[int, ...]] | None) -> None:
        """ValueError for knobs that do not go together."""
        served = [modality for modalities in self.experts.values() for modality in modalities]
        twice = sorted({modality for modality in served if served.count(modality) > 1})
        taken = [n for n in self.experts if n == PAIR or n in dir(nn.ModuleDict) or "_reads_" in n]
        if not self.experts:
            raise ValueError("experts is empty: name at least one, and the modalities it serves")
        if taken:
            raise ValueError(f"no expert can be called {', '.join(taken)}: choose another name")
        if twice:
            raise ValueError(f"more than one expert serves {', '.join(twice)}")
        if self.pair_from is not None and self.pair_from >= depth:
            raise ValueError(f"pair_from {self.pair_from} is behind the last layer: at most {depth - 1}")
        if sizes is not None and set(sizes) != set(self.experts):
            names = ", ".join(self.experts)
            raise ValueError(f"relative_positions names {', '.join(sizes) or 'none'}, and the experts are {names}")
        if self.plain_expert is not None and self.plain_expert not in self.experts:
            raise ValueError(f"plain_expert {self.plain_expert} is none of {', '.join(self.experts)}")

    def forward(self, tokens: TokenBatch) -> TokenBatch:
        parts = [(self._expert(part.modality), part) for part in tokens.parts]
        own = _merged(tuple((name, part.length) for name, part in parts))
        paired = self._paired(tokens)
        whole: Route = ((PAIR, tokens.x.shape[1]),)
        bias = None if self.positions is None else self.positions(parts)
        x, mask = tokens.x, key_mask(tokens.mask)
        for i, block in enumerate(self.blocks):
            route = whole if paired and self.pair_from is not None and i >= self.pair_from else own
            x = block(x, mask, None if bias is None else bias[i], route)
        if self.norm_out is not None:
            x = self.norm_out(x)
        return tokens.with_x(x)

    def _expert(self, modality: str) -> str:
        if modality not in self.expert_of:
            served = "; ".join(f"{name}: {', '.join(modalities)}" for name, modalities in self.experts.items())
            asked = f"an expert for the modality '{modality}'"
            raise MetaformerError(asked, f"experts for {served}", f"name '{modality}' under one of `experts`")
        return self.expert_of[modality]

    def _paired(self, tokens: TokenBatch) -> bool:
        """Whether the expert `pair` takes the upper layers."""
        asked = f"a pass through the expert '{tokens.expert}'"
        if tokens.expert not in ("", PAIR):
            raise MetaformerError(asked, f"only '{PAIR}' can be asked for", "the modality decides: leave `expert` out")
        if tokens.expert and self.pair_from is None:
            raise MetaformerError(asked, "the encoder has none", "set pair_from to the first layer that shall have it")
        return self.pair_from is not None and (tokens.expert == PAIR or len(tokens.joined) > 1)

    def translate(self, source: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Out of VLMo; of BEiT and plain vision transformers (timm, Hugging Face, ours), whose MLPs become those of
        `plain_expert`: by default the expert that serves images, or the only one. Tables of relative positions are
        resized. Raises WeightsError for what has no place here but changes what a block computes."""
        form = Form(
            experts=self.experts,
            paired=self.pair_from is not None,
            plain_expert=self.plain_expert,
            key_bias=self.key_bias,
            sizes=None if self.positions is None else self.positions.sizes,
        )
        return translate(source, form)


def _merged(route: Route) -> Route:
    """Neighbours that share an expert as one stretch."""
    groups = ((name, list(pieces)) for name, pieces in groupby(route, key=lambda piece: piece[0]))
    return tuple((name, sum(length for _, length in pieces)) for name, pieces in groups)
