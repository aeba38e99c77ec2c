"""S7. A PPM, PGM, PBM or BMP of a hundred bytes that claims any number of pixels, or one of endless digits."""

from __future__ import annotations

import struct

import pytest

BMP = b"BM" + struct.pack("<IHHI", 100, 0, 0, 54)


@pytest.mark.parametrize("kind", [1, 2, 3, 4, 5, 6])
@pytest.mark.parametrize("side", [9000, 60_000, 10**12])
def test_it_is_refused_before_memory_is_taken(refuse_image, kind, side):
    refuse_image(b"P%d\n%d %d\n255\n" % (kind, side, side) + bytes(100))


@pytest.mark.parametrize("side", [9000, 60_000, 2**31 - 1])
def test_a_bitmap(refuse_image, side):
    refuse_image(
        BMP + struct.pack("<IiiHHIIiiII", 40, side, side, 1, 24, 0, 0, 0, 0, 0, 0) + bytes(100), "pixels|limit"
    )


def test_a_number_of_endless_digits(refuse_image):
    refuse_image(b"P2\n8 8\n255\n" + b"1" * 5_000_000)
    refuse_image(b"P5\n" + b"1" * 5_000_000 + b" 8\n255\n")
