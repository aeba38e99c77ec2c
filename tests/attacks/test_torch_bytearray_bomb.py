"""S7. A torch file of a few bytes that makes byte arrays of any size, which `weights_only` allows."""

from __future__ import annotations

import io

import pytest
import torch

from metaformer.weights.files import read_tensors


class Bomb:
    """A byte array when it is unpickled."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __reduce__(self):
        return bytearray, (self.size,)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_it_is_refused_before_memory_is_taken(tmp_path, refuse, memory, zipped):
    tame = io.BytesIO()
    torch.save({"a": torch.ones(2), "b": Bomb(1000)}, tame, _use_new_zipfile_serialization=zipped)
    tame.seek(0)
    assert torch.load(tame, weights_only=True)["b"] == bytes(1000)  # torch alone obeys
    path = tmp_path / "bomb.pt"
    torch.save({"a": torch.ones(2), "b": Bomb(10**11)}, path, _use_new_zipfile_serialization=zipped)
    with memory(200):
        refuse(lambda: read_tensors(path), "byte arrays")
