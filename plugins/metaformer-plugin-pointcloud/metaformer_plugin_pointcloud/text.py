"""Points as lines of text: numbers between spaces, commas or semicolons."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64

_SEPARATORS = bytes.maketrans(b",;", b"  ")


def read_text(data: bytes, most: int, *, counted: bool = False) -> Float64[np.ndarray, "N W"]:
    """[N, W]: every line as many numbers. Empty lines, lines that begin with `#` or `//`, and a first line of names
    are passed over; `counted`: a first line of one number is how many there are. Raises ValueError."""
    if b"\0" in data:
        raise ValueError("bytes that are no text")
    lines = [line for line in data.translate(_SEPARATORS).splitlines() if line.strip()]
    lines = [line for line in lines if not line.lstrip().startswith((b"#", b"//"))]
    if lines and not _numbers(lines[0]):
        lines = lines[1:]
    if counted and lines and len(lines[0].split()) == 1:
        count = float(lines[0])
        lines = lines[1:]
        if count != len(lines):
            raise ValueError(f"{len(lines)} lines of points, and the first line says {count:g}")
    if len(lines) > most:
        raise ValueError(f"{len(lines)} points, more than `max_points` {most}")
    if not lines:
        raise ValueError("no line with numbers")
    width = len(lines[0].split())
    odd = next((i for i, line in enumerate(lines) if len(line.split()) != width), None)
    if odd is not None:
        raise ValueError(f"{len(lines[odd].split())} numbers for point {odd}, and {width} for the first")
    return numbers(b" ".join(lines)).reshape(len(lines), width)


def numbers(text: bytes) -> Float64[np.ndarray, " M"]:
    """Numbers between white space. Raises ValueError."""
    # One by one: an array of words would give each the room of the longest.
    return np.fromiter(map(float, text.split()), dtype=np.float64)


def _numbers(line: bytes) -> bool:
    try:
        numbers(line)
    except ValueError:
        return False
    return True
