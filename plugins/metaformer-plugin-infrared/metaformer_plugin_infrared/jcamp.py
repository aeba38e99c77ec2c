"""Reader of JCAMP-DX files (.jdx, .dx), in which instruments and libraries hand out infrared spectra.

Source: McDonald and Wilks 1988 (Applied Spectroscopy 42, 151), JCAMP-DX 4.24: (X++(Y..Y)) tables as free numbers (AFFN)
and packed (PAC), squeezed (SQZ), differenced (DIF) and repeated (DUP) ones; (XY..XY) points.
Ours differs: line checks are errors, because a lost line shifts everything behind it; the first spectrum of a file
with several is taken. Peak tables and NTUPLES are refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from metaformer.errors import DataError
from metaformer_plugin_infrared.curve import Curve

LONGEST_LINE = 2**16
"""Characters; the format asks for 80."""
NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)")
FREE = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[Ee][+-]?\d+)?|\?")
PACKED = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)|[@A-Ia-i%J-Rj-rS-Zs]\d*\.?\d*|\?")
BETWEEN = re.compile(r"[\s,;]*")
SQUEEZED = {**dict(zip("@ABCDEFGHI", range(10), strict=True)), **{c: -n for n, c in enumerate("abcdefghi", 1)}}
DIFFERENCE = {**dict(zip("%JKLMNOPQR", range(10), strict=True)), **{c: -n for n, c in enumerate("jklmnopqr", 1)}}
REPEAT = dict(zip("STUVWXYZs", range(1, 10), strict=True))
"""Letters that stand for a first digit and its sign."""
X_UNITS = {"1/CM": "1/cm", "MICROMETERS": "um", "MICROMETRES": "um", "NANOMETERS": "nm", "NANOMETRES": "nm"}


@dataclass
class Block:
    """What stands before a table, by label, and the table's lines with their numbers."""

    labels: dict[str, str] = field(default_factory=dict)
    form: str = ""
    lines: list[tuple[int, str]] = field(default_factory=list)


def read_jcamp(path: Path, longest: int) -> Curve:
    """The first spectrum, of at most `longest` points. Raises DataError naming file and line."""
    try:
        size = path.stat().st_size
        if size > 64 * longest + 2**20:
            raise DataError(f"read {path}", f"{size} bytes for at most {longest} points", "raise `max_points`")
        text = path.read_text(encoding="latin-1")
    except OSError as error:
        raise DataError(
            f"read {path}", error.strerror or str(error), "check the path and the data set's root"
        ) from error
    block = _block(text, path)
    try:
        points = int(_number(block, "NPOINTS", path))
        if not 0 < points <= longest:
            raise DataError(f"read {path}", f"{points} points, at most {longest}", "raise `max_points`")
        scale = _factor(block, "YFACTOR", path)
        if block.form == "(XY..XY)":
            axis, values = _pairs(block, path, points)
            axis *= _factor(block, "XFACTOR", path)
        else:
            axis = np.linspace(_number(block, "FIRSTX", path), _number(block, "LASTX", path), points)
            values = np.array(_table(block, path, axis))
    except OverflowError as error:
        raise DataError(f"read {path}", "a number that is too large", "get the file again") from error
    if len(values) != points:
        raise DataError(f"{points} points in {path}", f"{len(values)}", "it is cut off or damaged: get it again")
    unit = X_UNITS.get(block.labels.get("XUNITS", "").strip().upper(), "")
    return Curve(axis, values * scale, unit, block.labels.get("YUNITS", "").strip().lower())


def _block(text: str, path: Path) -> Block:
    """The first table with a spectrum in it."""
    block, inside, others = Block(), False, []
    for number, whole in enumerate(text.splitlines(), start=1):
        if len(whole) > LONGEST_LINE:
            raise _bad(path, number, f"{len(whole)} characters")
        line = whole.partition("$$")[0]
        found = re.match(r"\s*##([^=]*)=(.*)", line)
        if not found:
            if inside and line.strip():
                block.lines.append((number, line))
            continue
        if inside:
            break
        label, value = re.sub(r"[\s\-/_]", "", found[1]).upper(), found[2].strip()
        if label == "TITLE":
            block = Block()
        if label in ("XYDATA", "XYPOINTS"):
            block.form = value.upper().replace(" ", "")
            if block.form not in ("(X++(Y..Y))", "(XY..XY)"):
                raise _bad(path, number, f"a table of form {value[:40]!r}")
            inside = True
        elif label in ("PEAKTABLE", "PEAKASSIGNMENTS", "NTUPLES", "DATATABLE"):
            others.append(label)
        block.labels[label] = value
    if not block.lines:
        found_ = f"only {', '.join(others)}" if others else "no ##XYDATA= or ##XYPOINTS="
        raise DataError(f"a spectrum in {path}", found_, "give a JCAMP-DX file of a whole spectrum")
    return block


def _pairs(block: Block, path: Path, points: int) -> tuple[np.ndarray, np.ndarray]:
    numbers: list[float] = []
    for number, line in block.lines:
        numbers += [_value(token) for token in _tokens(line, FREE, path, number)]
        if len(numbers) > 2 * points:
            raise _bad(path, number, f"more than {points} points")
    if len(numbers) % 2:
        raise _bad(path, block.lines[-1][0], "an abscissa without its ordinate")
    table = np.array(numbers).reshape(-1, 2)
    return table[:, 0].copy(), table[:, 1].copy()


def _table(block: Block, path: Path, axis: np.ndarray) -> list[float]:
    """Ordinates before YFACTOR; every line's abscissa and check value is compared with what they ought to be."""
    body = "".join(line for _, line in block.lines)
    # An E is an exponent in free numbers and a squeezed 5 in packed ones, which have other letters, too.
    form = PACKED if re.search(r"[@%A-DF-Za-df-s]", body) else FREE
    step = abs(axis[1] - axis[0]) if len(axis) > 1 else np.inf
    factor = _factor(block, "XFACTOR", path)
    values: list[float] = []
    difference: float | None = None
    for number, line in block.lines:
        first = (NUMBER if form is PACKED else FREE).match(line.strip())
        if not first:
            raise _bad(path, number, f"no abscissa: {line[:40]!r}")
        repeated = difference is not None  # a line after differences begins with the last ordinate again
        place = len(values) - repeated
        if place >= len(axis) or not abs(float(first[0]) * factor - axis[place]) <= 1.01 * step + abs(factor):
            expected = f"{axis[place]:g}" if place < len(axis) else "the end"
            raise _bad(path, number, f"abscissa {float(first[0]) * factor:g} where {expected} is due: a lost line?")
        difference = None
        for token in _tokens(line.strip()[first.end() :], form, path, number):
            letter, digits = token[0], token[1:]
            if letter in REPEAT:
                count = int(f"{REPEAT[letter]}{digits}") - 1
                if not values or repeated or len(values) + count > len(axis):
                    raise _bad(path, number, f"{token!r} repeats nothing, or beyond {len(axis)} points")
                for _ in range(count):
                    values.append(values[-1] + (difference or 0.0))
                continue
            if letter in DIFFERENCE:
                if not values:
                    raise _bad(path, number, f"{token!r} is the difference to nothing")
                difference = _digits(DIFFERENCE[letter], digits)
                value = values[-1] + difference
            else:
                difference = None
                value = _digits(SQUEEZED[letter], digits) if letter in SQUEEZED else _value(token)
                if repeated:
                    if value != values[-1] and not abs(value - values[-1]) <= 1e-9 * abs(value):
                        raise _bad(path, number, f"check value {value:g}, and the line before ends with {values[-1]:g}")
                    repeated = False
                    continue
            repeated = False
            values.append(value)
            if len(values) > len(axis):
                raise _bad(path, number, f"more than {len(axis)} points")
    return values


def _tokens(line: str, form: re.Pattern[str], path: Path, number: int) -> Iterator[str]:
    place = BETWEEN.match(line).end()  # type: ignore[union-attr] # matches nothing, too
    while place < len(line):
        found = form.match(line, place)
        if not found:
            raise _bad(path, number, f"no number: {line[place : place + 20]!r}")
        yield found[0]
        place = BETWEEN.match(line, found.end()).end()  # type: ignore[union-attr]


def _digits(first: int, digits: str) -> float:
    """The letter's signed digit before the others; a minus holds for all of them."""
    return float(f"{first}{digits}")


def _value(token: str) -> float:
    return float("nan") if token == "?" else float(token)


def _factor(block: Block, label: str, path: Path) -> float:
    return _number(block, label, path) if label in block.labels else 1.0


def _number(block: Block, label: str, path: Path) -> float:
    text = block.labels.get(label)
    if text is None:
        raise DataError(f"##{label}= in {path}", "it is absent", "get the file again")
    try:
        number = float(text.replace(",", "."))
    except ValueError as error:
        raise DataError(f"a number for ##{label}= in {path}", repr(text[:40]), "get the file again") from error
    if not np.isfinite(number):
        raise DataError(f"a number for ##{label}= in {path}", repr(text[:40]), "get the file again")
    return number


def _bad(path: Path, number: int, found: str) -> DataError:
    return DataError(f"read {path}", f"line {number}: {found}", "it is damaged or no JCAMP-DX: get it again")
