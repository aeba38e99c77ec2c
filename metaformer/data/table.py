"""CSV and Parquet files as Arrow tables, and the rows of such a table.

CSV knows no types; see `metaformer.data.manifest` for what its cells become.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from metaformer.errors import DataError

CellType = Literal["int", "float", "str"]

MAX_LINE = 16 << 20
"""Bytes of one line of CSV or JSON lines."""
MAX_HEADER = 4 << 20
"""Characters of a CSV file's line of names."""
MAX_COLUMNS = 100_000
MAX_CELLS = 1 << 28
"""Cells of a Parquet table, which is read whole: 2 GiB of numbers. A few kilobytes can stand for any number."""

INTEGER = r"^[+-]?(0|[1-9][0-9]*)$"
NUMBER = r"^[+-]?((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?$"
NOT_NUMBERS = ("nan", "na", "n/a", "null", "none", "?")


class ArrowRows:
    """Rows of an Arrow table."""

    def __init__(self, table: Any) -> None:
        self.names: list[str] = list(table.column_names)
        self._length: int = table.num_rows
        self._columns = {name: table.column(name).combine_chunks() for name in self.names}

    def __len__(self) -> int:
        return self._length

    def cells(self, row: int) -> Mapping[str, Any]:
        return Cells(self._columns, row)

    def column(self, name: str) -> Iterable[Any]:
        return (cell.as_py() for cell in self._columns[name])

    def texts(self, name: str) -> set[str] | None:
        import pyarrow as pa
        import pyarrow.compute as pc

        column = self._columns[name]
        kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
            return None
        return {text for text in pc.unique(column).to_pylist() if text is not None}

    def place(self, row: int) -> int:
        return row + 1


class Cells(Mapping[str, Any]):
    """One row of Arrow columns, each cell made a Python value when asked for."""

    def __init__(self, columns: Mapping[str, Any], row: int) -> None:
        self._columns, self._row = columns, row

    def __getitem__(self, name: str) -> Any:
        return self._columns[name][self._row].as_py()

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def __len__(self) -> int:
        return len(self._columns)


def read_csv(path: Path, delimiter: str, types: Mapping[str, CellType], missing: Iterable[str]) -> Any:
    """The file as an Arrow table with a type per column; DataError naming the line for what is malformed."""
    import pyarrow as pa
    import pyarrow.csv as pacsv

    ragged: list[Any] = []

    def refuse(row: Any) -> str:
        ragged.append(row)
        return "error"

    if len(delimiter) != 1 or delimiter in '"\r\n':
        raise DataError(f"{path}: delimiter {delimiter!r}", "not a separator", "give one character, such as ';'")
    names = _header(path, delimiter)
    try:
        table = pacsv.read_csv(
            path,
            # One thread: only then does Arrow know the number of a malformed row. A row fits in a block.
            read_options=pacsv.ReadOptions(use_threads=False, block_size=MAX_LINE),
            parse_options=pacsv.ParseOptions(delimiter=delimiter, newlines_in_values=True, invalid_row_handler=refuse),
            convert_options=pacsv.ConvertOptions(
                column_types={name: pa.string() for name in names},
                null_values=["", *missing],
                strings_can_be_null=True,
            ),
        )
    except (pa.ArrowException, OSError) as error:
        if ragged:
            row = ragged[0]
            raise DataError(
                f"{path}: {row.expected_columns} columns in row {row.number} (the header is row 1)",
                f"{row.actual_columns}: {row.text[:80]!r}",
                'complete the row, or quote cells that contain the delimiter ("a,b")',
            ) from error
        _check_utf8(path)
        raise DataError(f"{path} as CSV", str(error), "repair the file") from error
    _check_last_quote(path, table)
    columns = {name: _typed(path, name, table.column(name), types.get(name)) for name in names}
    return pa.table(columns)


def _header(path: Path, delimiter: str) -> list[str]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = iter(lambda: file.readline(MAX_HEADER + 1), "")
            names = next(csv.reader(map(_not_too_long, lines), delimiter=delimiter, strict=True), [])
    except UnicodeDecodeError:
        _check_utf8(path)
        raise
    except csv.Error as error:
        raise DataError(f"{path}: a header line of column names", str(error), "repair the first line") from error
    if not names:
        raise DataError(f"{path}: a header line of column names", "an empty file", "write the names first")
    if len(names) > MAX_COLUMNS:
        found = f"{len(names)} columns, more than {MAX_COLUMNS}"
        raise DataError(f"{path}: a header line of column names", found, "keep rows of numbers as arrays in .npy files")
    twice = sorted(name for name, count in Counter(names).items() if count > 1)
    if twice:
        raise DataError(f"{path}: column names in the header", f"{twice[0]!r} twice", "rename one of them")
    return names


def _not_too_long(line: str) -> str:
    if len(line) > MAX_HEADER:
        raise csv.Error(f"more than {MAX_HEADER} characters without a line break")
    return line


def read_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Number and bytes of each line of a file; DataError for one that no memory should have to hold."""
    with path.open("rb") as file:
        number = 0
        while line := file.readline(MAX_LINE + 1):
            number += 1
            if len(line) > MAX_LINE:
                found = f"more than {MAX_LINE} bytes without a line break"
                raise DataError(f"{path}: line {number}", found, "keep long values in files of their own")
            yield number, line


def _check_utf8(path: Path) -> None:
    for number, line in read_lines(path):
        try:
            line.decode("utf-8")
        except UnicodeDecodeError as error:
            found = f"line {number} has byte 0x{line[error.start]:02x} at {error.start}"
            raise DataError(f"{path} as UTF-8 text", found, "save the file as UTF-8") from error


def _check_last_quote(path: Path, table: Any) -> None:
    """DataError if the last cell was never closed: Arrow takes the rest of the file for its text in silence."""
    last = table.column(table.num_columns - 1)
    if not len(last) or "\n" not in (last[-1].as_py() or ""):
        return
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 100))
        if not file.read().rstrip().endswith(b'"'):
            row = table.num_rows
            found = f"a quote that opens in row {row} after the header and never closes"
            raise DataError(f"{path} as CSV", found, "close it, or double a quote that belongs to the text")


def _typed(path: Path, name: str, cells: Any, asked: CellType | None) -> Any:
    """Text cells as integers or floats, where all that are filled say so."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if asked == "str" or cells.null_count == len(cells):
        return cells
    text = pc.utf8_trim_whitespace(cells)
    spelled = pc.is_in(pc.utf8_lower(text), value_set=pa.array(NOT_NUMBERS))
    text = pc.if_else(spelled, pa.scalar(None, pa.string()), text)
    kinds = {"int": (INTEGER, pa.int64()), "float": (NUMBER, pa.float64())}
    for kind, (pattern, arrow) in kinds.items():
        fits = pc.match_substring_regex(text, pattern)
        if asked not in (None, kind):
            continue
        # min_count: a column of nothing but `NA` is text
        if pc.all(fits, min_count=1).as_py():
            try:
                return pc.cast(pc.utf8_ltrim(text, characters="+"), arrow)
            except pa.ArrowInvalid as error:  # beyond 64 bits: an identifier, not a quantity
                if asked is None:
                    return cells
                raise DataError(f"{path}: column {name!r} as {kind}", str(error), "correct `types`") from error
        if asked == kind:
            row = pc.index(fits, False).as_py()
            if row < 0:  # nothing but words for a missing number
                return text
            found = f"{cells[row].as_py()!r} in row {row + 1} after the header"
            raise DataError(f"{path}: column {name!r} as {kind}", found, "correct the cell or `types`")
    return cells


def read_parquet(path: Path) -> Any:
    """The file as an Arrow table; texts as references to the distinct ones, so that none is unfolded a million
    times before anyone asks."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path, memory_map=True) as file:
            cells = file.metadata.num_rows * file.metadata.num_columns
            texts = [field.name for field in file.schema_arrow if _is_text(field.type)]
        if cells > MAX_CELLS:
            found = f"{cells} cells, more than {MAX_CELLS}"
            raise DataError(f"{path} as Parquet", found, "split the file, or leave out columns")
        table = pq.read_table(path, memory_map=True, partitioning=None, read_dictionary=texts)
        # Damaged texts would show only where a cell is read.
        table.validate(full=True)
        return table
    except (pa.ArrowException, OSError, ValueError) as error:  # names that are no UTF-8 are a ValueError
        raise DataError(f"{path} as Parquet", str(error), "write the file again; it may be cut short") from error


def _is_text(kind: Any) -> bool:
    import pyarrow as pa

    # The others that hold bytes cannot be read as references.
    return bool(pa.types.is_string(kind) or pa.types.is_binary(kind))
