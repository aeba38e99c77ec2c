"""S7. A Parquet file of some kilobytes that unfolds to any number of rows, or names one long text for each of them."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from metaformer.data import table
from metaformer.data.manifest import ManifestDataset

TEXT = "x" * 1_000_000


@pytest.fixture
def rows(tmp_path):
    """5 million rows in 4 columns; the real cap is as far above as the real bombs are."""
    path = tmp_path / "m.parquet"
    zeros = pa.array(memoryview(bytes(5_000_000)).cast("b"), type=pa.int8())
    pq.write_table(pa.table(dict.fromkeys("abcd", zeros)), path)
    assert path.stat().st_size < 200_000
    return path


def test_rows_without_end_are_refused_before_memory_is_taken(rows, refuse, memory, monkeypatch):
    monkeypatch.setattr(table, "MAX_CELLS", 10_000_000)
    with memory(16):
        refuse(lambda: ManifestDataset(path=rows), "20000000 cells")


def test_what_the_cap_allows_is_read(rows):
    assert len(ManifestDataset(path=rows)) == 5_000_000


@pytest.mark.parametrize("kind", [pa.string(), pa.binary()])
def test_a_long_text_in_every_row_stays_one_text(tmp_path, memory, kind):
    path = tmp_path / "m.parquet"
    texts = pa.DictionaryArray.from_arrays(pa.array([0] * 300, type=pa.int32()), pa.array([TEXT], type=kind))
    pq.write_table(pa.table({"a": texts}), path, store_schema=False)
    assert path.stat().st_size < 100_000
    with memory(50):
        data = ManifestDataset(path=path)
        assert len(data) == 300
        assert len(data[299]["a"]) == len(TEXT)
    assert pq.read_table(path).nbytes == pytest.approx(300 * len(TEXT), rel=0.01)  # what it would be otherwise


def test_what_is_no_parquet(tmp_path, refuse, memory):
    path = tmp_path / "m.parquet"
    for content in (b"", b"PAR1", b"PAR1" + b"\xff" * 100 + b"\xff\xff\xff\x7fPAR1", b"PAR1\0\0\0\0PAR1"):
        path.write_bytes(content)
        with memory(50):
            refuse(lambda: ManifestDataset(path=path), "as Parquet")
