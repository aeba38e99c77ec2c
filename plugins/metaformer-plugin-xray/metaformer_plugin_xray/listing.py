"""Lists that come with collections of radiographs: tables of files and labels, and paths that stay below a root."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from metaformer.errors import DataError


def read_table(path: Path, columns: Sequence[str], get: str) -> list[dict[str, str]]:
    """Rows of a CSV file with a header that has at least `columns`. `get` says where the file comes from."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            absent = [column for column in columns if column not in (reader.fieldnames or ())]
            if absent:
                raise DataError(f"columns {', '.join(absent)} in {path}", f"{reader.fieldnames}", get)
            rows = []
            for row in reader:
                if any(row[column] is None for column in columns):
                    raise DataError(f"read {path}", f"line {reader.line_num} is cut off", "get the file again")
                rows.append({column: row[column] for column in columns})
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"read {path}", str(error)[:200], get) from error
    if not rows:
        raise DataError(f"read {path}", "no rows", "get the file again")
    return rows


def read_names(path: Path, get: str) -> list[str]:
    """One name per line."""
    try:
        names = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"read {path}", str(error)[:200], get) from error
    if not names:
        raise DataError(f"read {path}", "an empty list", get)
    return names


def below(root: Path, name: str, where: Path) -> Path:
    """`root`/`name`; DataError where the name would leave the root."""
    pure = PurePosixPath(name.replace("\\", "/"))
    if pure.is_absolute() or ".." in pure.parts or not pure.parts:
        raise DataError(f"files below {root}", f"{name!r} in {where}", "repair the list")
    return root / pure


def held_out(keys: Sequence[str], share: float, seed: int) -> set[str]:
    """A seeded share of the different keys, at least one, whatever their order."""
    unique = sorted(set(keys))
    order = np.random.default_rng(seed).permutation(len(unique))
    return {unique[i] for i in order[: max(1, round(len(unique) * share))]}


def digest(parts: Iterable[str]) -> str:
    found = hashlib.sha256()
    for part in parts:
        found.update(part.encode("utf-8", "surrogateescape") + b"\0")
    return found.hexdigest()
