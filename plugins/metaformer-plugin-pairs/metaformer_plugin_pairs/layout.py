"""Reading the JSON files of published data sets without trust in them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from metaformer.errors import DataError

LARGEST = 2 << 30
"""Bytes of a JSON file that are read: VQA v2's largest has 0.4 GB."""


def read_json(path: Path, get: str) -> Any:
    """A whole JSON file. `get`: where it comes from. Raises DataError."""
    text = _text(path, get)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"JSON in {path}", str(error), f"get the file again: {get}") from error


def read_lines(path: Path, get: str) -> Iterator[dict[str, Any]]:
    """A JSON object per line."""
    for number, line in enumerate(_text(path, get).splitlines(), start=1):
        if not line.strip():
            continue
        try:
            found = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"JSON in {path}, line {number}", str(error), f"get the file again: {get}") from error
        if not isinstance(found, dict):
            raise DataError(f"an object in {path}, line {number}", type(found).__name__, f"get the file again: {get}")
        yield found


def field(record: Any, key: str, kind: type | tuple[type, ...], where: str) -> Any:
    """One entry of a record. Raises DataError naming the file where it is not there or something else."""
    value = record.get(key) if isinstance(record, dict) else None
    if not isinstance(value, kind) or isinstance(value, bool):
        raise DataError(f"{key!r} in {where}", f"{value!r:.60}", "use the published file")
    return value


def digest(*parts: Any) -> str:
    """Of what a data set has read."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def need_folder(path: Path, what: str, get: str) -> None:
    """Raises DataError where a folder is not there."""
    if not path.is_dir():
        raise DataError(f"{what}: the folder {path}", "it is not there", get)


def _text(path: Path, get: str) -> str:
    try:
        size = path.stat().st_size
        if size > LARGEST:
            raise DataError(f"read {path}", f"{size} bytes", f"at most {LARGEST}")
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"read {path}", f"{type(error).__name__}: {error}", get) from error
