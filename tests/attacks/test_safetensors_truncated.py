"""S3. A safetensors file that ends anywhere."""

from __future__ import annotations

import torch
from safetensors.torch import save_file

from metaformer.weights.files import read_tensors


def test_every_truncation_is_refused_at_once(tmp_path, refuse):
    path = tmp_path / "x.safetensors"
    save_file({"a": torch.arange(6.0), "b": torch.ones(2)}, path)
    whole = path.read_bytes()
    for size in range(0, len(whole), 7):
        path.write_bytes(whole[:size])
        refuse(lambda: read_tensors(path), r"x\.safetensors")
