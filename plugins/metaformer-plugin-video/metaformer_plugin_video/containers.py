"""Which container a file is, by its first bytes, and whether all of it is there.

The demuxer is named from what is found here and FFmpeg never guesses, so that playlists, concat scripts and other
formats that open further files or addresses are refused whatever their name ends in.

Source: ISO/IEC 14496-12 (boxes of MP4 and QuickTime), RFC 8794 (EBML of Matroska and WebM), Microsoft's RIFF.
"""

from __future__ import annotations

import os
from typing import Literal

from metaformer.errors import DataError
from metaformer_plugin_video.source import Binary

Container = Literal["mov", "matroska", "avi", "animation"]
"""FFmpeg's demuxer; `animation` is Pillow's work."""
FIRST_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")
PLAYLISTS = (b"#EXTM3U", b"ffconcat", b"<?xml", b"<MPD", b"[playlist]", b"v=0", b"#!")
FOLDERS = (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"moof", b"traf")
"""Boxes that hold the boxes that are looked at."""
MAX_BOXES = 2**20
MAX_RUN = 2**22
"""Samples of one fragment that say nothing about themselves."""


def container_of(file: Binary, name: str) -> Container:
    """Raises DataError for a file that is no known container, is cut off, or says it holds more than it can."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    head = file.read(64)
    asked = f"read video {name}"
    if not head:
        raise DataError(asked, "an empty file", "replace or remove it")
    if head[4:8] in FIRST_BOXES:
        _check_boxes(file, size, asked)
        return "mov"
    if head.startswith(b"\x1a\x45\xdf\xa3"):
        _check_segment(file, size, asked)
        return "matroska"
    if head.startswith(b"RIFF") and head[8:12] == b"AVI ":
        _check_end(asked, "its RIFF chunk", 8 + int.from_bytes(head[4:8], "little"), size)
        return "avi"
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        _check_end(asked, "its RIFF chunk", 8 + int.from_bytes(head[4:8], "little"), size)
        return "animation"
    if head.startswith((b"GIF87a", b"GIF89a")):
        file.seek(max(size - 64, 0))
        if not file.read(64).rstrip(b"\0").endswith(b";"):
            raise DataError(asked, "a GIF without its last byte: it is cut off", "replace or remove it")
        return "animation"
    listing = head.lstrip().startswith(PLAYLISTS)
    found = "a list of other files, which is not followed" if listing else f"bytes {head[:12]!r}"
    raise DataError(asked, found, "readable are MP4, QuickTime, Matroska, WebM, AVI, GIF and WebP")


def _check_end(asked: str, part: str, end: int, size: int) -> None:
    if end > size + 1:  # one byte of padding after odd chunks is often left away
        raise DataError(asked, f"cut off: {part} ends at byte {end}, the file at {size}", "replace or remove it")


def _check_boxes(file: Binary, size: int, asked: str) -> None:
    """Walk the boxes: none may end behind its parent, and no table may promise more samples than can be there."""
    todo, seen, described = [(0, size)], 0, False
    while todo:
        place, end = todo.pop()
        while place + 8 <= end:
            seen += 1
            if seen > MAX_BOXES:
                raise DataError(asked, f"more than {MAX_BOXES} boxes", "replace or remove it")
            file.seek(place)
            head = file.read(16)
            length, kind, start = int.from_bytes(head[:4], "big"), head[4:8], place + 8
            if length == 1:
                length, start = int.from_bytes(head[8:16], "big"), place + 16
            elif length == 0:
                length = end - place
            if length < start - place:
                # Zeros that fill up the end of a box are common; anything else is damage.
                if not head.strip(b"\0"):
                    break
                raise DataError(asked, f"a box of {length} bytes at byte {place}", "replace or remove it")
            _check_end(asked, f"its part {kind.decode('latin-1')!r}", place + length, end)
            described = described or kind == b"moov"
            if kind in FOLDERS:
                todo.append((start, place + length))
            elif kind in (b"stsz", b"trun"):
                file.seek(start)
                _check_table(file.read(12), kind, length, size, asked)
            place += length
    if not described:
        raise DataError(asked, "no `moov` part, which describes the rest: it is cut off", "replace or remove it")


def _check_table(head: bytes, kind: bytes, length: int, size: int, asked: str) -> None:
    """`head` is what follows the box's own header: version and flags [4], then numbers."""
    one, two = int.from_bytes(head[4:8], "big"), int.from_bytes(head[8:12], "big")
    if kind == b"stsz":  # size of every sample or 0, count
        count, least = two, one * two if one else 4 * two
        most = size if one else length
    else:  # count; per sample one number for each flag among 0x100 to 0x800
        flags = int.from_bytes(head[1:4], "big") >> 8 & 0xF
        count, least, most = one, 4 * one * flags.bit_count(), length
        if not flags:
            least, most = one, MAX_RUN
    if least > most:
        raise DataError(asked, f"a table of {count} samples, more than can be there", "replace or remove it")


def _check_segment(file: Binary, size: int, asked: str) -> None:
    """EBML header, then a segment whose size is known unless it was written live."""
    file.seek(4)
    length, place = _vint(file, 4)
    if length is None:
        raise DataError(asked, "an EBML header without an end", "replace or remove it")
    file.seek(place + length)
    if file.read(4) != b"\x18\x53\x80\x67":
        raise DataError(asked, "no segment behind the EBML header: it is cut off or damaged", "replace or remove it")
    segment, start = _vint(file, place + length + 4)
    if segment is not None:
        _check_end(asked, "its segment", start + segment, size)


def _vint(file: Binary, place: int) -> tuple[int | None, int]:
    """An EBML size, None where it says unknown, and the place behind it."""
    first = file.read(1)
    width = 9 - first[0].bit_length() if first and first[0] else 0
    if not width:
        return None, place + 1
    value = first[0] & (1 << (8 - width)) - 1
    value = value << 8 * (width - 1) | int.from_bytes(file.read(width - 1), "big")
    return (None if value == (1 << 7 * width) - 1 else value), place + width
