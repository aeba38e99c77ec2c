"""The cases that `metaformer plugins check` runs as well, and the same promises where a sequence has two parts."""

from __future__ import annotations

import pytest
from metaformer_plugin_experts.conformance import checks
from metaformer_plugin_experts.encoder import ExpertsEncoder

from metaformer.base import Encoder
from metaformer.testing import Check, encoder_checks
from metaformer.types import Part, TokenBatch

DRAWS = ("random_state", "preprocess_random_state")
"""tests/test_conformance.py runs these, in a process without run-time type checks."""


@pytest.mark.parametrize("check", [check for check in checks() if check.name not in DRAWS], ids=str)
def test_conformance(check: Check) -> None:
    check.run()


class Joint(Encoder):
    """Sees every sequence as two tokens of one modality and the rest of another, of which nothing may be left."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = ExpertsEncoder(
            experts={"first": ("left",), "second": ("right",)},
            pair_from=1,
            dim=32,
            depth=2,
            num_heads=4,
            relative_positions={"first": (1, 2), "second": (8,)},
        )
        self.dim, self.blocks = self.inner.dim, self.inner.blocks

    def forward(self, tokens: TokenBatch) -> TokenBatch:
        length = tokens.x.shape[1]
        first = min(length, 2)
        parts = (Part("left", first, 0, (1, first)), Part("right", length - first))
        out: TokenBatch = self.inner(tokens._replace(joined=parts))
        return out._replace(joined=tokens.joined)


# What a joint sequence alone does not reach is tried in test_experts_encoder.py.
LEFT_OUT = (*DRAWS, "gradient_reach")


@pytest.mark.parametrize("check", [check for check in encoder_checks(Joint) if check.name not in LEFT_OUT], ids=str)
def test_a_joint_sequence_conforms(check: Check) -> None:
    check.run()
