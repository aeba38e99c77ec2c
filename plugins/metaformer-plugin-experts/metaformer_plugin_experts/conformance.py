"""The cases of this plugin, which `metaformer plugins check` and the tests run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from metaformer.testing import Check, encoder_checks

# The kit's streams are of the modality `kit`, and of one alone: tests/test_experts_encoder.py has several, and pairs.
KIT: dict[str, Any] = {"experts": {"kit": ("kit",)}, "dim": 32, "depth": 2, "num_heads": 4}
KNOBS: tuple[dict[str, Any], ...] = (
    {**KIT, "relative_positions": {"kit": (8,)}},
    {**KIT, "key_bias": True, "norm_out": False, "layer_scale": None, "drop": 0.1, "drop_path": 0.1},
)


def checks() -> Iterator[Check]:
    """VLMo's block with relative positions, and one without most of what makes it VLMo's."""
    for knobs in KNOBS:
        yield from encoder_checks(("experts", knobs))
