"""S2. A TorchScript archive, which is a program, given as weights."""

from __future__ import annotations

import pytest
import torch

from metaformer.weights.files import read_tensors


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_it_is_refused(tmp_path, refuse):
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "evil.pt")
    refuse(lambda: read_tensors(tmp_path / "evil.pt"), "not written by torch|more than tensors")
