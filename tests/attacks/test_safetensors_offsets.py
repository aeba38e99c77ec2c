"""S3. A safetensors file whose tensors overlap, leave gaps, or lie outside of it."""

from __future__ import annotations

import pytest

from metaformer.weights.files import read_tensors


def tensor(shape, start, end):
    return {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}


LIES = {
    "beyond the end": ({"a": tensor([1000], 0, 4000)}, 4),
    "far beyond the end": ({"a": tensor([2**60], 0, 2**62)}, 4),
    "overlapping": ({"a": tensor([2], 0, 8), "b": tensor([2], 4, 12)}, 12),
    "one for all": ({str(i): tensor([1000], 0, 4000) for i in range(1000)}, 4000),
    "bytes that belong to nothing": ({"a": tensor([1], 0, 4)}, 400),
    "a gap": ({"a": tensor([1], 0, 4), "b": tensor([1], 8, 12)}, 12),
    "negative": ({"a": tensor([1], -4, 0)}, 4),
    "backwards": ({"a": tensor([1], 4, 0)}, 4),
    "beyond 64 bits": ({"a": tensor([1], 0, 2**64 + 4)}, 4),
}


@pytest.mark.parametrize("name", LIES)
def test_it_is_refused_at_once(safetensors, refuse, memory, name):
    header, size = LIES[name]
    path = safetensors(header, b"\0" * size)
    with memory(200):
        refuse(lambda: read_tensors(path), "not a valid safetensors file")
