"""Samples from a Hugging Face `datasets` data set: a saved folder, a folder of data files, or a hub name.

Pictures, sound and video stay as they are stored (bytes, or the name of a file): decoding is the tokenizer's
work. Code that comes with a data set is never run: `datasets` 4 dropped it, and older versions are refused.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from metaformer.base import Dataset
from metaformer.data.column import MAX_CLASSES, Classes, Columns, as_value, check_column, listing, suggestion
from metaformer.errors import DataError
from metaformer.types import Sample

SAMPLED = 1 << 20
"""Bytes at either end of a data file that go into the fingerprint, beside its size."""


class HuggingFaceDataset(Dataset):
    """One split of a Hugging Face data set; one row is one sample."""

    def __init__(
        self,
        *,
        path: str,
        split: str,
        name: str | None = None,
        revision: str | None = None,
        columns: Mapping[str, str] = {},
        id: str | None = None,
        classes: Mapping[str, tuple[str, ...]] = {},
        cache: Path | None = None,
    ) -> None:
        """Open the data set, downloading it if it is on the hub and not cached.

        path: a folder written by `save_to_disk`; a folder of Parquet, CSV, JSON, text or media files; or
            `owner/name` on the hub. A folder is looked up from the working directory.
        split: such as `train`; for anything but a saved folder also a part, `train[:90%]`.
        name: its configuration, where it has several.
        revision: commit, tag or branch on the hub; a commit makes the run repeatable.
        columns: stream or target → column; `"*"` is all the columns not otherwise used, as one mapping.
            Default: every column under its own name.
        id: column that names the samples; default: the row.
        classes: target → class names; default: those of a class-label column, or the texts of a text column.
        cache: folder for downloads and converted files; default: the one `datasets` uses.
        """
        source = f"data set {path!r}, split {split!r}"
        self._split = split
        self._table = _undecoded(_open(path, split, name, revision, cache))
        names = list(self._table.column_names)
        if not len(self._table):
            raise DataError(f"{source}: rows", "none", "name another split")
        if id is not None:
            check_column(id, names, source, f"`id: {id}`", "id")
        self._id = id
        self._columns = Columns(columns, names, source, [] if id is None else [id])
        self._used = self._table.select_columns(self._columns.read())
        self.classes = Classes(self._named(classes), self._columns.single, self._texts)

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < len(self):
            raise IndexError(index)
        row = self._used[index]
        return self._columns.sample(lambda column: _media(row[column]))

    def sample_id(self, index: int) -> str:
        if self._id is None:
            return str(index)
        name = self._table.select_columns([self._id])[index][self._id]
        return str(index if name is None else as_value(name))

    def fingerprint(self) -> str:
        """Of the split, the columns, the length, and size and both ends of every Arrow file behind them."""
        digest = hashlib.sha256(f"{self._split} {len(self)} {self._table.features}".encode())
        for entry in self._table.cache_files:
            file = Path(entry["filename"])
            size = file.stat().st_size
            digest.update(str(size).encode())
            with file.open("rb") as data:
                digest.update(data.read(SAMPLED))
                data.seek(max(0, size - SAMPLED))
                digest.update(data.read(SAMPLED))
        return f"huggingface:{len(self)}:{digest.hexdigest()}"

    def _named(self, listed: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        from datasets import ClassLabel

        features = self._table.features
        known = {
            name: tuple(features[column].names)
            for name, column in self._columns.single.items()
            if isinstance(features[column], ClassLabel)
        }
        return {**known, **listed}

    def _texts(self, column: str) -> set[str] | None:
        from datasets import Value

        kind = self._table.features[column]
        if not (isinstance(kind, Value) and kind.dtype in ("string", "large_string")):
            return None
        texts = {text for text in self._table.unique(column) if text is not None}
        return texts if 0 < len(texts) <= MAX_CLASSES else None


def _media(cell: Any) -> Any:
    """Bytes of a stored picture or sound; else the name of its file; other cells unchanged."""
    if isinstance(cell, dict) and cell.keys() == {"bytes", "path"}:
        return cell["path"] if cell["bytes"] is None else cell["bytes"]
    return cell


def _undecoded(table: Any) -> Any:
    """The data set with media columns that give what is stored."""
    from datasets import Audio, Image, Video

    for column, feature in table.features.items():
        for media in (Audio, Image, Video):
            if isinstance(feature, media):
                table = table.cast_column(column, media(decode=False))
    return table.with_format(None)


def _open(path: str, split: str, name: str | None, revision: str | None, cache: Path | None) -> Any:
    _check_installed()
    folder = Path(path)
    if not path:
        raise DataError("a Hugging Face data set", "an empty `path`", "give a folder or a name on the hub")
    if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
        if name or revision:
            raise DataError(
                f"configuration {name!r}, revision {revision!r} of {path!r}",
                "a folder written by `save_to_disk`, which has neither",
                "leave out `name` and `revision`",
            )
        return _open_saved(folder, split)
    local = path.startswith((".", "~", os.sep)) or folder.exists()
    if local and not folder.is_dir():
        found = "a file" if folder.is_file() else f"nothing at {folder.absolute()}"
        do = "give its folder, or read a single table with `use: manifest`"
        raise DataError(f"a data set in the folder {path!r}", found, do)
    return _load(path, split, name, revision, cache, local)


def _check_installed() -> None:
    try:
        import datasets
    except ImportError as error:
        do = "pip install 'metaformer[huggingface]'"
        raise DataError("a Hugging Face data set", f"`datasets` cannot be imported: {error}", do) from error
    if int(datasets.__version__.split(".")[0]) < 4:
        found = f"`datasets` {datasets.__version__}, which can run code that comes with a data set"
        raise DataError("a Hugging Face data set", found, "pip install 'datasets>=4'")


def _open_saved(folder: Path, split: str) -> Any:
    import datasets

    try:
        saved = datasets.load_from_disk(str(folder))
    except (OSError, ValueError, KeyError, TypeError) as error:
        do = "save it again with `save_to_disk`"
        raise DataError(f"the data set saved in {folder}", _first_line(error), do) from error
    splits = list(saved) if isinstance(saved, datasets.DatasetDict) else [str(saved.split or split)]
    if split not in splits:
        do = f"{suggestion(split, splits)}name one of these"
        raise DataError(f"split {split!r} of the data set saved in {folder}", listing(splits), do)
    return saved[split] if isinstance(saved, datasets.DatasetDict) else saved


def _load(path: str, split: str, name: str | None, revision: str | None, cache: Path | None, local: bool) -> Any:
    import datasets
    from datasets.exceptions import DatasetsError

    where = None if cache is None else str(cache)
    try:
        return datasets.load_dataset(path, name, split=split, revision=revision, cache_dir=where)
    except (DatasetsError, OSError, ValueError, RuntimeError, KeyError) as error:
        asked = f"data set {path!r}, split {split!r}" + (f", configuration {name!r}" if name else "")
        do = "name a split and a configuration that it has; its files must be data, not a script"
        if not local and isinstance(error, OSError):
            do = (
                "on a machine with a network: check the name and log in if it is private; without one: fetch "
                f"it elsewhere, `load_dataset({path!r}).save_to_disk('FOLDER')`, and give `path: FOLDER`"
            )
        raise DataError(asked, _first_line(error), do) from error


def _first_line(error: BaseException) -> str:
    """What the error says, with what caused it, one line each."""
    chain = [error] if error.__cause__ is None else [error, error.__cause__]
    return "; ".join((str(part).strip().splitlines() or [""])[0] or type(part).__name__ for part in chain)
