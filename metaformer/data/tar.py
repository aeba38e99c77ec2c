"""The members of an uncompressed tar, read from its headers alone; nothing is ever extracted.

Source: POSIX.1-2017 pax, section "ustar Interchange Format"; the GNU tar manual for long names.
Ours differs: Python's `tarfile` reads what a header claims before anyone can object, and a million headers for
half a minute; here whatever is no plain file, leaves the archive, or claims more than is there is an error first.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple
from zlib import adler32

from metaformer.errors import DataError

BLOCK = 512
"""Headers and contents start at multiples of this."""
MAX_MEMBERS = 100_000
"""Members of a shard, so that a bomb of millions is refused within a second."""
MAX_NOTE = 64 * 1024
"""Bytes of a long name or of extended attributes, which come before a member."""
MAX_NOTES = 4
"""How many of those: attributes of all members, its own, a long name, a long link."""

ZEROS = bytes(BLOCK)
USUAL = re.compile(rb"([0-7]{11})[ \0]([0-7]{11})[ \0]([0-7]{6})[ \0]{2}")
"""Size, time and sum of a header, which stand in a row, as nearly every writer has them."""
COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zX", b"\x28\xb5\x2f\xfd")


class TarMember(NamedTuple):
    """A plain file in a tar: its name and where its content lies."""

    name: str
    offset: int
    size: int
    mtime: int


class _Refused(Exception):
    """Inside this file only: what is wrong, and the member it is wrong with."""

    def __init__(self, found: str, name: bytes = b"") -> None:
        super().__init__(found)
        self.found, self.name = found, _text(name)


def read_members(path: Path) -> list[TarMember]:
    """The plain files of a tar, in order; DataError for a damaged, compressed or hostile one."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return _members(descriptor, os.fstat(descriptor).st_size)
    except _Refused as error:
        if error.name:
            asked, do = f"{path}: member {error.name!r}", "write a shard of plain files"
            raise DataError(asked, error.found, do) from None
        damage = "a compressed file: decompress it, to read samples in any order"
        found = damage if os.pread(descriptor, 4, 0).startswith(COMPRESSED) else error.found
        raise DataError(f"{path} as an uncompressed tar", found, "write the shard again") from None
    finally:
        os.close(descriptor)


def _members(descriptor: int, total: int) -> list[TarMember]:
    """One loop without calls on the usual way: a shard has a hundred thousand headers."""
    members: list[TarMember] = []
    at = entries = notes = 0
    long_name: bytes | None = None
    while (header := os.pread(descriptor, BLOCK, at)) != ZEROS:
        entries += 1
        if entries > MAX_MEMBERS:
            raise _Refused(f"more than {MAX_MEMBERS} members: write smaller shards")
        if len(header) < BLOCK:
            raise _damaged(at)
        usual = USUAL.match(header, 124)
        numbers = [int(field, 8) for field in usual.groups()] if usual else _numbers(header, at)
        size, mtime, told = numbers
        # Adler-32's low half is one more than the sum of all bytes, modulo 65521. The field of the sum itself
        # counts as spaces in it.
        if (told + sum(header[148:156]) - 8 * 32 + 1) % 65521 != adler32(header) & 0xFFFF:
            raise _damaged(at)
        name, kind = header[:100].rstrip(b"\0"), header[156:157]
        if header[345] and header[257:263] == b"ustar\0":
            name = header[345:500].split(b"\0", 1)[0] + b"/" + name
        body, at = at + BLOCK, at + BLOCK + -(-size // BLOCK) * BLOCK
        # Files end with a block of zeros at least, so even the last content is followed by something.
        if at >= total:
            raise _Refused(f"no end mark after byte {body - BLOCK}: it is cut short, or a size there lies")
        if kind in b"LKxg":
            notes += 1
            if notes > MAX_NOTES:
                raise _Refused(f"more than {MAX_NOTES} headers about one member", name)
            long_name = _note(descriptor, body, size, kind, name) or long_name
            continue
        notes = 0
        if long_name is not None:
            name, long_name = long_name, None
        if kind not in b"05" or name[:1] == b"/" or b".." in name:
            _refuse(name, kind, header)
        if kind != b"5" and not (kind == b"\0" and name.endswith(b"/")):  # the oldest tars mark folders so
            members.append(TarMember(name.decode("utf-8", "surrogateescape"), body, size, mtime))
    return members


def _numbers(header: bytes, at: int) -> list[int]:
    """Size, time and sum of a header, in any of the ways that numbers are written."""
    try:
        return [_number(header[start:end]) for start, end in ((124, 136), (136, 148), (148, 156))]
    except ValueError:
        raise _damaged(at) from None


def _damaged(at: int) -> _Refused:
    return _Refused(f"no header and no end mark at byte {at}: it is cut short or damaged")


def _note(descriptor: int, at: int, size: int, kind: bytes, name: bytes) -> bytes | None:
    """The name that a header for what comes after it gives, if it gives one."""
    if size > MAX_NOTE:
        raise _Refused(f"{size} bytes of attributes before it", name)
    note = os.pread(descriptor, size, at)
    if kind == b"L":
        return note.split(b"\0", 1)[0]
    return _pax_name(note, at) if kind == b"x" else None


def _number(field: bytes) -> int:
    """Octal digits, or GNU's binary form for what they cannot say; ValueError for anything else."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    digits = field.split(b"\0", 1)[0].strip()
    if digits and not digits.isdigit():  # `int` would take signs and underscores as well
        raise ValueError
    return int(digits or b"0", 8)


def _refuse(name: bytes, kind: bytes, header: bytes) -> None:
    if kind in b"12":
        raise _Refused(f"a link to {_text(header[157:257].split(bytes(1), 1)[0])!r}", name)
    if kind not in b"\x0005":
        raise _Refused("a device, pipe or sparse file", name)
    if name.startswith(b"/") or b".." in name.split(b"/"):
        raise _Refused("a name that leaves the archive", name)


def _pax_name(note: bytes, at: int) -> bytes | None:
    """The path in a member's extended attributes. A size there, for members beyond 8 GiB, is refused: it would
    make readers disagree about where the next header stands."""
    name: bytes | None = None
    while note:
        length, _, rest = note.partition(b" ")
        if not length.isdigit() or len(length) > 9 or not len(length) < int(length) <= len(note):
            raise _Refused(f"damaged attributes at byte {at}")
        if note[int(length) - 1 : int(length)] != b"\n":
            raise _Refused(f"damaged attributes at byte {at}")
        key, equals, value = rest[: int(length) - len(length) - 2].partition(b"=")
        if not equals or key == b"size" or key.startswith(b"GNU.sparse"):
            raise _Refused(f"attributes at byte {at} that change what follows ({_text(key)})")
        name = value if key == b"path" else name
        note = note[int(length) :]
    return name


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")
