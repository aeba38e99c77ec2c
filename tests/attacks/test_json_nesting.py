"""S7. A line of JSON that nests for ever, or is one endless number."""

from __future__ import annotations

import pytest

from metaformer.data.manifest import ManifestDataset


@pytest.mark.parametrize("line", ["[" * 100_000, '{"a":' * 100_000, '{"a": ' + "1" * 1_000_000 + "}", '{"a": 1e', "\0"])
def test_it_is_refused_at_once(tmp_path, refuse, memory, line):
    path = tmp_path / "m.jsonl"
    path.write_text('{"a": 1}\n' + line + "\n")
    with memory(100):
        refuse(lambda: ManifestDataset(path=path), "line 2 as a JSON object")
