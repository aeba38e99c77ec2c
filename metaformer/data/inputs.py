"""What a user hands to `metaformer predict` and `embed`: manifests, folders, files, literal values."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from metaformer.base import Preprocess
from metaformer.data.manifest import ManifestDataset
from metaformer.errors import DataError, UsageError
from metaformer.types import Sample

_TABLES = {".csv", ".jsonl", ".parquet"}


def read_inputs(
    inputs: Sequence[str], preprocess: Mapping[str, Preprocess], columns: Mapping[str, str]
) -> tuple[list[Sample], Path | None]:
    """Samples, and the folder their relative file names refer to. Each input is one of

    - a CSV, JSONL or Parquet manifest with columns named like streams (or by the recipe's `columns`);
    - a folder: every file in it; a file; or a value: a text, or a JSON object (a row);
    - `STREAM=` and one of the latter, where the model reads several streams.
    """
    samples: list[Sample] = []
    root: Path | None = None
    for text in inputs:
        stream, value = _stream_of(text, preprocess)
        path = Path(value)
        if stream is None and path.suffix in _TABLES and path.is_file() and _is_manifest(path, preprocess, columns):
            dataset = ManifestDataset(path=path, columns=dict(columns))
            if root not in (None, dataset.root):
                raise UsageError("give manifests of one folder at a time", f"{root} and {dataset.root}")
            root = dataset.root
            samples += [{**dataset[i], "__id__": dataset.sample_id(i)} for i in range(len(dataset))]
            continue
        stream = stream or _only(preprocess)
        reads_files = preprocess[stream].reads_files
        if reads_files and path.is_dir():
            files = sorted(p for p in path.iterdir() if p.is_file() and not p.name.startswith("."))
            samples += [{stream: p.absolute(), "__id__": str(p)} for p in files]
        else:
            samples.append({stream: _value(value, path, reads_files), "__id__": value})
    if not samples:
        raise DataError("at least one sample is needed", f"none in {', '.join(inputs) or 'the inputs'}")
    return samples, root


def _stream_of(text: str, preprocess: Mapping[str, Preprocess]) -> tuple[str | None, str]:
    name, sign, rest = text.partition("=")
    return (name, rest) if sign and name in preprocess else (None, text)


def _only(preprocess: Mapping[str, Preprocess]) -> str:
    if len(preprocess) > 1:
        raise UsageError(
            "say which stream an input is for", f"the model reads {', '.join(preprocess)}", "write --input STREAM=VALUE"
        )
    return next(iter(preprocess))


def _is_manifest(path: Path, preprocess: Mapping[str, Preprocess], columns: Mapping[str, str]) -> bool:
    """Whether a table has a column for a stream; otherwise it may be one sample's own file."""
    try:
        names = set(ManifestDataset(path=path).columns)
    except DataError:
        if any(p.reads_files for p in preprocess.values()):
            return False
        raise
    return "*" in columns.values() or any(columns.get(stream, stream) in names for stream in preprocess)


def _value(value: str, path: Path, reads_files: bool) -> object:
    if reads_files:
        if not path.exists():
            raise DataError(f"read {value}", "no such file")
        return path.absolute()
    if value.lstrip().startswith("{"):
        try:
            return json.loads(value)
        except ValueError as error:
            raise UsageError("an input that begins with { is a JSON object", f"{error}") from error
    if path.is_file():
        return path.read_bytes()
    return value
