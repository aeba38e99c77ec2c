"""S7. A name of shards that unfolds to any number of names."""

from __future__ import annotations

import pytest

from metaformer.data.webdataset import WebDataset


@pytest.mark.parametrize(
    "shards", ["{0..99999999999}", "{0..99999}" * 4, "{a,b}" * 60, "{" * 5000, "{0.." + "9" * 5000 + "}"]
)
def test_it_is_refused_at_once(refuse, memory, shards, tmp_path):
    with memory(50):
        refuse(lambda: WebDataset(shards=shards, root=tmp_path))
