"""S7. A CSV or JSON-lines file with a line of a gigabyte, or a line of names without end."""

from __future__ import annotations

import pytest

from metaformer.data.manifest import ManifestDataset

GIGABYTE = 1 << 30


@pytest.mark.parametrize("start", [b"a\n", b'a\n"', b"", b'"', b"a,b\n1,2\n"])
@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_it_is_refused_before_memory_is_taken(tmp_path, refuse, memory, start, ending):
    path = tmp_path / f"m.{ending}"
    path.write_bytes(start)
    with path.open("r+b") as file:
        file.truncate(GIGABYTE)  # a hole: zeros that take no room on the disk
    with memory(200):
        refuse(lambda: ManifestDataset(path=path))


@pytest.mark.parametrize("names", [b"a," * 3_000_000, b"a," * 1_000_000, b",".join(b"%d" % i for i in range(150_000))])
def test_names_without_end(tmp_path, refuse, memory, names):
    path = tmp_path / "m.csv"
    path.write_bytes(names + b"z\n1\n")
    with memory(200):
        refuse(lambda: ManifestDataset(path=path), "header line of column names")
