"""S7. A WebP animation whose canvas is large and whose only frames are tiny."""

from __future__ import annotations

import struct

import pytest
from PIL import Image


@pytest.mark.parametrize("side", [9000, 16_000, 2**24])
def test_it_is_refused_before_memory_is_taken(refuse_image, encode, side):
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "blue")]
    data = bytearray(encode(frames[0], "WEBP", save_all=True, append_images=frames[1:]))
    assert data[12:16] == b"VP8X"
    data[24:27] = data[27:30] = struct.pack("<I", side - 1)[:3]
    refuse_image(bytes(data))
