"""S7. A PNG whose compressed comments or colour profile unpack to half a gigabyte."""

from __future__ import annotations

import struct
import zlib

import pytest

PACKED = zlib.compress(bytes(200_000_000), 9)
CHUNKS = {"zTXt": b"a\0\0" + PACKED, "iTXt": b"a\0\1\0\0\0" + PACKED, "iCCP": b"a\0\0" + PACKED}


@pytest.mark.parametrize("kind", CHUNKS)
def test_it_is_refused_before_memory_is_taken(refuse_image, png_chunk, kind):
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 4, 8, 0, 0, 0, 0))
    pixels = png_chunk(b"IDAT", zlib.compress(bytes(20)))
    bomb = png_chunk(kind.encode(), CHUNKS[kind])
    refuse_image(b"\x89PNG\r\n\x1a\n" + header + bomb + pixels + png_chunk(b"IEND", b""))
