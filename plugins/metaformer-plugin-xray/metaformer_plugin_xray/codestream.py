"""What a compressed picture says about its own size, without decoding it.

Source: ITU-T T.81 (JPEG), T.87 (JPEG-LS) B.2.2, frame headers; ITU-T T.800 (JPEG 2000) A.5.1, SIZ.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

FRAMES = frozenset((*range(0xC0, 0xD0), 0xF7)) - {0xC4, 0xC8, 0xCC}
"""Markers that begin a frame; C4, C8 and CC are tables, an extension and conditioning."""
ALONE = frozenset((0x01, *range(0xD0, 0xD9)))
"""Markers without a length behind them."""
SCAN, END = 0xDA, 0xD9
SIZ = b"\xff\x4f\xff\x51"


class Size(NamedTuple):
    """Of one picture."""

    rows: int
    columns: int
    samples: int

    def __str__(self) -> str:
        return f"{self.rows}x{self.columns}x{self.samples}"


def coded_sizes(code: bytes) -> set[Size]:
    """Every size in a JPEG, JPEG-LS or JPEG 2000 stream: one in a sound stream; none where it is something else."""
    if code[:2] == b"\xff\xd8":
        return set(_jpeg(code))
    return set(_jpeg2000(code))


def _jpeg(code: bytes) -> list[Size]:
    found, place = [], 2
    while place + 4 <= len(code):
        if code[place] != 0xFF:
            break
        marker = code[place + 1]
        if marker == 0xFF:  # fill bytes
            place += 1
            continue
        if marker in (SCAN, END):
            break
        if marker in ALONE:
            place += 2
            continue
        if marker in FRAMES and place + 10 <= len(code):
            rows, columns, samples = struct.unpack_from(">HHB", code, place + 5)
            found.append(Size(rows, columns, samples))
        place += 2 + struct.unpack_from(">H", code, place + 2)[0]
    return found


def _jpeg2000(code: bytes) -> list[Size]:
    found, place = [], code.find(SIZ)
    while place >= 0 and place + 42 <= len(code):
        right, bottom, left, top = struct.unpack_from(">4I", code, place + 8)
        samples = struct.unpack_from(">H", code, place + 40)[0]
        found.append(Size(bottom - top, right - left, samples))
        place = code.find(SIZ, place + 4)
    return found
