"""S3. A safetensors file whose tensors claim a shape that their bytes do not fill."""

from __future__ import annotations

import pytest

from metaformer.weights.files import read_tensors


@pytest.mark.parametrize(
    "shape", [[10**6, 10**6], [2**33, 2**33], [2**63], [0], [], [2], [-1], [1.0], [1] * 5000 + [2]]
)
def test_it_is_refused_at_once(safetensors, refuse, memory, shape):
    # A scalar has one element, so that the bytes of two are a lie too.
    path = safetensors({"a": {"dtype": "F16", "shape": shape, "data_offsets": [0, 8]}}, b"\0" * 8)
    with memory(200):
        refuse(lambda: read_tensors(path), "not a valid safetensors file")
