"""S7. A GIF with a huge canvas, a huge frame on a small canvas, or thousands of frames."""

from __future__ import annotations

import struct

import pytest
from PIL import Image

from metaformer.files.picture import read_image


@pytest.mark.parametrize("side", [9000, 16_000, 65_535])
@pytest.mark.parametrize("part", ["canvas", "frame"])
def test_it_is_refused_before_memory_is_taken(refuse_image, encode, side, part):
    data = bytearray(encode(Image.new("P", (4, 4)), "GIF"))
    at = 6 if part == "canvas" else data.index(b",") + 5
    data[at : at + 4] = struct.pack("<HH", side, side)
    refuse_image(bytes(data), "pixels")


def test_of_many_frames_one_is_read(memory, encode):
    frames = [Image.new("P", (64, 64), i % 200) for i in range(500)]
    data = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    with memory(16):
        assert read_image(data).size == (64, 64)
