"""S3. A safetensors file whose header is no JSON, nests for ever, or says other things than tensors."""

from __future__ import annotations

import pytest

from metaformer.weights.files import read_tensors

HEADERS = {
    "not closed": b'{"a": ',
    "nested lists": b"{" + b"[" * 200_000,
    "nested mappings": b'{"a":' * 100_000,
    "not text": b'{"\xff": 1}',
    "numbers": b'{"a": 1}',
    "no tensors": b"{}",
    "unknown type": b'{"a": {"dtype": "OBJECT", "shape": [1], "data_offsets": [0, 4]}}',
    "a name twice": b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}, '
    b'"a": {"dtype": "F32", "shape": [9], "data_offsets": [0, 36]}}',
    "a long name": b'{"' + b"k" * 3_000_000 + b'": {"dtype": "F32", "shape": [9], "data_offsets": [0, 36]}}',
}


@pytest.mark.parametrize("name", HEADERS)
def test_it_is_refused_at_once(safetensors, refuse, memory, name):
    path = safetensors(HEADERS[name], b"\0" * 4)
    with memory(200):
        refuse(lambda: read_tensors(path), r"x\.safetensors")
