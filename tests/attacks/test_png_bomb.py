"""S7. A PNG of a few kilobytes that claims, and for its first rows has, any number of pixels."""

from __future__ import annotations

import struct
import zlib

import pytest

from metaformer.files.picture import read_image


@pytest.fixture
def bomb(png_chunk):
    def make(side, body=b""):
        header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
        body = body or zlib.compress(bytes((side * 3 + 1) * 50), 9)
        return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", body) + png_chunk(b"IEND", b"")

    return make


@pytest.mark.parametrize("side", [9000, 16_000, 65_535])
def test_it_is_refused_before_memory_is_taken(refuse_image, bomb, side):
    refuse_image(bomb(side), "pixels")


def test_a_side_beyond_all_bounds(refuse_image, bomb):
    body = zlib.compress(bytes(1000))
    refuse_image(bomb(2**31 - 1, body))
    refuse_image(bomb(2**32 - 1, body))


def test_a_whole_picture_of_one_colour(refuse_image, png_chunk):
    """400 million pixels that are all there, in 50 kilobytes."""
    packer = zlib.compressobj(9)
    row = bytes(1 + 20_000 // 8)
    body = b"".join(packer.compress(row * 1000) for _ in range(20)) + packer.flush()
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 20_000, 20_000, 1, 0, 0, 0, 0))
    data = b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", body) + png_chunk(b"IEND", b"")
    assert len(data) < 100_000
    refuse_image(data, "pixels")


def test_more_content_than_pixels(memory, bomb):
    """What unpacks beyond the picture is never unpacked."""
    data = bomb(4, zlib.compress(bytes(50_000_000), 9))
    with memory(16):
        assert read_image(data).size == (4, 4)


def test_the_bomb_would_go_off(bomb, memory):
    """The same file, where the cap lets it through, takes what it asks for: the measurement sees it."""
    with pytest.raises(AssertionError), memory(100):
        read_image(bomb(9000), max_pixels=2**27)
