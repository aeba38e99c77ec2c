"""Samples from a table of your own: CSV, JSON lines or Parquet, whose columns are streams and targets.

How cells become values: an empty CSV cell, a null and a NaN are missing. CSV knows no types, so a
column whose filled cells are all whole numbers gives integers, one of numbers floats, any other one text; a
leading zero makes text (`007` stays `007`), and `nan`, `NA`, `N/A`, `null`, `none` and `?` are missing only
among numbers. JSON lines and Parquet keep the types they have; nested lists of numbers become arrays.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from metaformer.base import Dataset
from metaformer.data.column import MAX_CLASSES, Classes, Columns, check_column
from metaformer.data.table import ArrowRows, CellType, read_csv, read_lines, read_parquet
from metaformer.errors import DataError
from metaformer.types import Sample

Format = Literal["csv", "jsonl", "parquet"]

SUFFIXES: Mapping[str, Format] = {
    ".csv": "csv",
    ".tsv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
}


@runtime_checkable
class Rows(Protocol):
    """The rows of a manifest in file order."""

    names: list[str]

    def __len__(self) -> int: ...

    def cells(self, row: int) -> Mapping[str, Any]: ...

    def column(self, name: str) -> Iterable[Any]:
        """All cells of one column."""

    def texts(self, name: str) -> set[str] | None:
        """Distinct texts of a column; None where it holds anything else, or more than MAX_CLASSES."""

    def place(self, row: int) -> int:
        """What a person calls this row: its line in JSON lines, else its number after the header."""


class ManifestDataset(Dataset):
    """A CSV, JSON-lines or Parquet file; one row is one sample."""

    def __init__(
        self,
        *,
        path: Path,
        columns: Mapping[str, str] = {},
        root: Path | None = None,
        format: Literal["auto", "csv", "jsonl", "parquet"] = "auto",
        delimiter: str | None = None,
        types: Mapping[str, CellType] = {},
        missing: tuple[str, ...] = (),
        split: str | None = None,
        split_column: str = "split",
        id: str | None = None,
        classes: Mapping[str, tuple[str, ...]] = {},
    ) -> None:
        """Open and check the whole file.

        path: the file.
        columns: stream or target → column; `"*"` is all the columns not otherwise used, as one mapping (a
            table row). Default: every column under its own name.
        root: folder of the file names in it; default: the folder of the manifest.
        format: default by the ending of `path`.
        delimiter: of CSV; default: a tab for `.tsv`, else a comma.
        types: column → type, for CSV columns whose cells look like something else.
        missing: texts that mean a missing value in every column.
        split: keep the rows whose `split_column` has this value. Class names are those of the whole file.
        id: column that names the samples; default: the row.
        classes: target → class names in index order; default: the texts of its column, sorted.
        """
        self.path, self.root = Path(path), Path(path).parent if root is None else root
        self._format, self._delimiter = self._resolve(format), delimiter
        self._types, self._missing = dict(types), frozenset(missing)
        self._rows: Rows | None = None
        rows, source = self._open(), str(self.path)
        if not len(rows):
            raise DataError(f"{source}: rows to train or test on", "none", "check that it is the right file")
        for column in types:
            check_column(column, rows.names, source, f"a type for column {column!r}", "types")
        aside = [] if id is None else [id]
        if id is not None:
            check_column(id, rows.names, source, f"`id: {id}`", "id")
        self._kept: NDArray[np.int64] | None = None
        if split is not None:
            check_column(
                split_column,
                rows.names,
                source,
                f"split {split!r} of column {split_column!r}",
                "split_column",
            )
            aside.append(split_column)
            self._kept = self._keep(rows, split, split_column)
        self._columns = Columns(columns, rows.names, source, aside)
        self._id = id
        self._length = len(rows) if self._kept is None else len(self._kept)
        self.classes = Classes(classes, self._columns.single, self._texts)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Sample:
        cells = self._open().cells(self._row(index))
        return self._columns.sample(lambda column: self._present(cells.get(column)))

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns of the file."""
        return tuple(self._open().names)

    def sample_id(self, index: int) -> str:
        rows, row = self._open(), self._row(index)
        name = None if self._id is None else rows.cells(row).get(self._id)
        return f"{self.path.name}:{rows.place(row)}" if name is None else str(name)

    def fingerprint(self) -> str:
        with self.path.open("rb") as file:
            return f"manifest:{self._length}:{hashlib.file_digest(file, 'sha256').hexdigest()}"

    def __getstate__(self) -> dict[str, Any]:
        """Without an Arrow table, which would be copied whole: a worker reads the file again."""
        return {**self.__dict__, "_rows": self._rows if isinstance(self._rows, JsonRows) else None}

    def _row(self, index: int) -> int:
        if not 0 <= index < self._length:
            raise IndexError(index)
        return index if self._kept is None else int(self._kept[index])

    def _present(self, cell: Any) -> Any:
        return None if isinstance(cell, str) and cell in self._missing else cell

    def _texts(self, column: str) -> set[str] | None:
        texts = self._open().texts(column)
        if texts is None:
            return None
        texts = texts - self._missing
        return texts if 0 < len(texts) <= MAX_CLASSES else None

    def _resolve(self, format: Literal["auto", "csv", "jsonl", "parquet"]) -> Format:
        if not self.path.is_file():
            found = "a folder" if self.path.is_dir() else f"nothing at {self.path.absolute()}"
            raise DataError(f"a manifest at {self.path}", found, "give the path of a CSV, JSONL or Parquet file")
        if format != "auto":
            return format
        if self.path.suffix.lower() not in SUFFIXES:
            raise DataError(
                f"{self.path}: the format of this manifest",
                f"the ending {self.path.suffix!r} says nothing; known are {', '.join(SUFFIXES)}",
                "set `format: csv`, `jsonl` or `parquet`",
            )
        return SUFFIXES[self.path.suffix.lower()]

    def _open(self) -> Rows:
        if self._rows is None:
            if self._format == "csv":
                tab = self.path.suffix.lower() == ".tsv"
                delimiter = self._delimiter or ("\t" if tab else ",")
                self._rows = ArrowRows(read_csv(self.path, delimiter, self._types, self._missing))
            elif self._format == "parquet":
                self._rows = ArrowRows(read_parquet(self.path))
            else:
                self._rows = JsonRows(self.path)
        return self._rows

    def _keep(self, rows: Rows, split: str, column: str) -> NDArray[np.int64]:
        values = [str(value) for value in rows.column(column)]
        kept = np.array([row for row, value in enumerate(values) if value == split], dtype=np.int64)
        if not len(kept):
            there = ", ".join(repr(value) for value in sorted(set(values))[:20])
            raise DataError(
                f"{self.path}: rows of split {split!r}", f"column {column!r} has {there}", "name one of these"
            )
        return kept


class JsonRows:
    """Rows of a JSON-lines file: checked once, kept as places in the file, read again when asked for."""

    def __init__(self, path: Path) -> None:
        self._path = path
        names: dict[str, set[str] | None] = {}
        starts, lines, start = [], [], 0
        for number, line in read_lines(path):
            if line.strip():
                for name, value in self._parse(line.removeprefix(b"\xef\xbb\xbf"), number).items():
                    self._note(names, name, value)
                starts.append(start)
                lines.append(number)
            start += len(line)
        self.names = list(names)
        self._texts = names
        self._starts, self._lines = np.array(starts, dtype=np.int64), np.array(lines, dtype=np.int64)

    def __len__(self) -> int:
        return len(self._starts)

    def cells(self, row: int) -> Mapping[str, Any]:
        # Opened for each sample: workers that share an open file would share its position.
        with self._path.open("rb") as file:
            file.seek(int(self._starts[row]))
            return self._parse(file.readline().removeprefix(b"\xef\xbb\xbf"), int(self._lines[row]))

    def column(self, name: str) -> Iterable[Any]:
        return (self.cells(row).get(name) for row in range(len(self)))

    def texts(self, name: str) -> set[str] | None:
        return self._texts[name]

    def place(self, row: int) -> int:
        return int(self._lines[row])

    @staticmethod
    def _note(names: dict[str, set[str] | None], name: str, value: Any) -> None:
        texts = names.setdefault(name, set())
        if texts is None or value is None:
            return
        if isinstance(value, str) and len(texts) <= MAX_CLASSES:
            texts.add(value)
        else:
            names[name] = None

    def _parse(self, line: bytes, number: int) -> dict[str, Any]:
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            where = f"{self._path}: line {number} as a JSON object"
            at = f"{error.msg} at character {error.pos + 1}" if isinstance(error, json.JSONDecodeError) else str(error)
            raise DataError(where, at, "write one complete JSON object per line, in UTF-8") from error
        if not isinstance(value, dict):
            found = f"a {type(value).__name__}" + (": this may be ordinary JSON" if number == 1 else "")
            raise DataError(f"{self._path}: line {number} as a JSON object", found, "write one object per line")
        return value
