"""Text from strangers (names of samples, classes, files, tensors) as no terminal obeys it and no eye is led by it."""

from __future__ import annotations


def printable(text: str, lines: bool = True) -> str:
    """`text` with control, bidirectional and other invisible characters written out, such as `\\x1b` and `\\u202e`.

    `lines`: line breaks stay; without, they are written out as well, for what must stay on one line."""
    return "".join(c if c.isprintable() or (lines and c == "\n") else _written(c) for c in text)


def _written(c: str) -> str:
    code = ord(c)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
