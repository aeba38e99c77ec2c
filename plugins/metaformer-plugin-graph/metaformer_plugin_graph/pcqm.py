"""PCQM4Mv2 in OGB's layout: molecules as SMILES, and the gap between two of their orbitals, in electronvolts.

Source: OGB-LSC (arXiv 2103.09430), CC BY 4.0; calculated by the PubChemQC project (Nakata and Shimazaki, 2017).
Of the unpacked archive `raw/data.csv.gz` and `split_dict.pt` are read, the latter by a reader that knows arrays of
numbers and nothing else; the `processed` folder holds pickled objects and is left alone.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import math
import zlib
from collections.abc import Iterator
from io import TextIOWrapper
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Int64

from metaformer.base import Dataset
from metaformer.errors import DataError
from metaformer.types import Sample
from metaformer_plugin_graph.molecule import MAX_TEXT, import_rdkit, read_smiles

GET = "unpack pcqm4m-v2.zip of OGB-LSC, and give that folder as root (raw/data.csv.gz, split_dict.pt)"
MAX_LINE = MAX_TEXT + 200
MAX_ROWS = 10**7
"""PCQM4Mv2 has 3.7 million."""


class PcqmDataset(Dataset):
    """{`stream`: {num_nodes, edge_index, x [N, 9], edge_attr [E, 3]}, `target`: electronvolts, or None}.

    For `{use: graph, node_categorical: [119, 5, 12, 12, 10, 6, 6, 2, 2], edge_categorical: [5, 6, 2]}`. Splits are
    the official ones, by PubChem's numbers; the two test splits have no targets. Needs
    `pip install 'metaformer-plugin-graph[molecules]'`: molecules are made of their SMILES when they are asked for.
    """

    def __init__(
        self,
        *,
        root: Path,
        split: Literal["train", "valid", "test-dev", "test-challenge"],
        stream: str = "graph",
        target: str = "gap",
    ) -> None:
        import_rdkit()  # better now than at the first sample
        self.stream, self.target = stream, target
        self.path = root / "raw" / "data.csv.gz"
        wanted = read_split(root / "split_dict.pt", split)
        # One text and one array instead of millions of objects: they go to every worker.
        texts, ends, gaps, rows = bytearray(), [0], [], []
        keep = np.zeros(int(wanted.max()) + 1, dtype=bool)
        keep[wanted] = True
        total = 0
        for row, (smiles, gap) in enumerate(self._rows()):
            total += 1
            if row < len(keep) and keep[row]:
                texts += smiles.encode()
                ends.append(len(texts))
                gaps.append(gap)
                rows.append(row)
        if total < len(keep):
            raise DataError(f"PCQM4Mv2 file {self.path}", f"{total} molecules, and the split names {len(keep)}", GET)
        self.texts, self.ends = bytes(texts), np.array(ends, dtype=np.int64)
        self.gaps, self.rows = np.array(gaps, dtype=np.float64), np.array(rows, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Sample:
        text = self.texts[self.ends[index] : self.ends[index + 1]].decode()
        graph = read_smiles(text, f" in row {self.rows[index]} of {self.path}")
        gap = float(self.gaps[index])
        return {self.stream: graph, self.target: None if math.isnan(gap) else gap}

    def sample_id(self, index: int) -> str:
        return str(self.rows[index])

    def fingerprint(self) -> str:
        digest = hashlib.sha256(self.texts)
        for array in (self.ends, self.gaps, self.rows):
            digest.update(array.tobytes())
        return f"pcqm4m:{digest.hexdigest()}"

    def _rows(self) -> Iterator[tuple[str, float]]:
        try:
            with gzip.open(self.path, "rb") as file, TextIOWrapper(file, "ascii", newline="") as text:
                lines = csv.reader(iter(lambda: text.readline(MAX_LINE), ""))
                header = next(lines, [])
                columns = [header.index(name) for name in ("smiles", "homolumogap")]
                for row in lines:
                    if len(row) != len(header):
                        raise ValueError(f"a line of {len(row)} cells: {str(row)[:60]}")
                    smiles, gap = (row[column] for column in columns)
                    value = float(gap or "nan")
                    if math.isinf(value):
                        raise ValueError(f"a gap of {gap}")
                    yield smiles, value
        except FileNotFoundError as error:
            raise DataError(f"PCQM4Mv2 file {self.path}", "no such file", GET) from error
        except (OSError, EOFError, ValueError, zlib.error, csv.Error) as error:
            raise DataError(f"PCQM4Mv2 file {self.path}", str(error)[:120], GET) from error


def read_split(path: Path, split: str) -> Int64[np.ndarray, " n"]:
    """Rows of a split. Raises DataError."""
    asked = f"PCQM4Mv2 split {split} in {path}"
    if not path.is_file():
        raise DataError(asked, "no such file", GET)
    try:
        with torch.serialization.safe_globals(_arrays()):
            found = torch.load(path, weights_only=True)
    # Damaged archives come out of torch's reader as any of these.
    except (RuntimeError, UnpicklingError, ValueError, TypeError, EOFError, KeyError, OSError, IndexError) as error:
        raise DataError(asked, str(error).splitlines()[0][:120] if str(error) else type(error).__name__, GET) from error
    rows: Any = found.get(split) if isinstance(found, dict) else None
    if rows is None:
        raise DataError(asked, "no such split in it", GET)
    rows = np.asarray(rows)
    if rows.ndim != 1 or rows.dtype.kind not in "iu" or not len(rows) or rows.min() < 0 or rows.max() >= MAX_ROWS:
        raise DataError(asked, f"{rows.dtype} {list(rows.shape)}, where row numbers are needed", GET)
    whole: Int64[np.ndarray, " n"] = rows.astype(np.int64)
    return whole


def _arrays() -> list[Any]:
    """What the restricted reader may make beside tensors: arrays of whole numbers."""
    # An array's own `__reduce__` names the function that begins it, which has no public name.
    begin: Any = np.zeros(0, np.int64).__reduce__()[0]
    return [
        np.ndarray,
        np.dtype,
        type(np.dtype(np.int64)),
        # The name that files of numpy 1 have for it, and that of numpy 2.
        (begin, "numpy.core.multiarray._reconstruct"),
        (begin, "numpy._core.multiarray._reconstruct"),
    ]
