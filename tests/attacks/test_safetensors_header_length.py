"""S3. A safetensors file whose header claims any length."""

from __future__ import annotations

import pytest

from metaformer.weights.files import read_tensors


@pytest.mark.parametrize("size", [2**63 - 1, 2**62, 10**11, 99_000_000, 90])
def test_it_is_refused_at_once_and_without_memory(safetensors, refuse, memory, size):
    header = {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}
    path = safetensors(header, b"\0" * 4, size=size)
    with memory(200):
        refuse(lambda: read_tensors(path), r"x\.safetensors")


def test_a_header_that_is_as_long_as_it_claims(safetensors, refuse, memory):
    path = safetensors(b'{"a":' + b" " * 120_000_000)
    with memory(200):
        refuse(lambda: read_tensors(path), "not a valid safetensors file")
