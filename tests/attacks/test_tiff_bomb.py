"""S7. A TIFF that claims any number of pixels, or puts a few of them into a tile of any size."""

from __future__ import annotations

import struct
import zlib

import pytest
from PIL import Image

from metaformer.files.picture import read_image

BODY = zlib.compress(bytes(100_000))


def tiff(tags: dict[int, int]) -> bytes:
    """A grey picture in one deflated tile or strip, with these tags as its numbers."""
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    return (b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4)).ljust(400, b"\0") + BODY


SIMPLE = {258: 8, 259: 8, 262: 1, 277: 1}


def tiled(side: int, tile: int) -> bytes:
    return tiff(SIMPLE | {256: side, 257: side, 322: tile, 323: tile, 324: 400, 325: len(BODY)})


@pytest.mark.parametrize("side", [9000, 16_000, 2**31 - 1])
def test_a_large_picture_is_refused_before_memory_is_taken(refuse_image, side):
    refuse_image(tiff(SIMPLE | {256: side, 257: side, 278: side, 273: 400, 279: len(BODY)}))


@pytest.mark.parametrize("side", [9000, 16_000])
def test_a_picture_that_is_not_compressed(refuse_image, encode, side):
    data = bytearray(encode(Image.new("L", (4, 4)), "TIFF"))
    start = struct.unpack("<I", data[4:8])[0]
    for entry in range(struct.unpack("<H", data[start : start + 2])[0]):
        at = start + 2 + 12 * entry
        if struct.unpack("<H", data[at : at + 2])[0] in (256, 257, 278):  # width, height, rows in a strip
            data[at + 2 : at + 12] = struct.pack("<HII", 4, 1, side)
    refuse_image(bytes(data), "pixels")


@pytest.mark.parametrize("tile", [4096, 2**15, 2**16, 2**20, 2**31 - 16])
def test_a_large_tile_is_refused_before_memory_is_taken(refuse_image, tile):
    refuse_image(tiled(10, tile), "tiles")


def test_an_honest_tile_may_be_larger_than_the_picture():
    assert read_image(tiled(10, 256)).size == (10, 10)
    assert read_image(tiled(200, 256)).size == (200, 200)
