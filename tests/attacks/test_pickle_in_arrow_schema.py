"""S2. A Parquet column of pyarrow's old extension type, whose description is a pickle."""

from __future__ import annotations

import pickle

import pyarrow as pa
import pyarrow.parquet as pq

from metaformer.data.manifest import ManifestDataset


def test_it_is_only_numbers_to_us(tmp_path, trap):
    content = pickle.dumps(trap)
    trap.would_spring(lambda: pickle.loads(content))
    about = {"ARROW:extension:name": "arrow.py_extension_type", "ARROW:extension:metadata": content}
    schema = pa.schema([pa.field("a", pa.int64(), metadata=about)], metadata={"pandas": content})
    pq.write_table(pa.table({"a": [1, 2]}, schema=schema), tmp_path / "m.parquet")
    data = ManifestDataset(path=tmp_path / "m.parquet")
    assert [data[i] for i in range(2)] == [{"a": 1}, {"a": 2}]
    assert not trap.sprung
