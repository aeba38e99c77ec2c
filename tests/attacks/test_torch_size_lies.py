"""S3, S7. A torch file whose tensors claim more than the bytes it has."""

from __future__ import annotations

import zipfile

import pytest
import torch

from metaformer.weights.files import read_tensors

LARGE = b"\x8a\x06" + (10**13).to_bytes(6, "little")
"""A pickled number: ten million million."""
PLACES = {
    "shape": (b"QK\x00K\x05\x85", b"QK\x00" + LARGE + b"\x85"),
    "offset": (b"QK\x00K\x05\x85", b"Q" + LARGE + b"K\x05\x85"),
    "stride": (b"K\x01\x85", LARGE + b"\x85"),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_it_is_refused_before_memory_is_taken(tmp_path, refuse, memory, place, zipped):
    honest, path = tmp_path / "honest.pt", tmp_path / "evil.pt"
    torch.save({"a": torch.arange(5.0)}, honest, _use_new_zipfile_serialization=zipped)
    lie(honest, path, *PLACES[place])
    with memory(200):
        refuse(lambda: read_tensors(path), "more than")


def test_a_storage_that_claims_more_has_only_what_is_there(tmp_path, refuse, memory):
    honest, path = tmp_path / "honest.pt", tmp_path / "evil.pt"
    torch.save({"a": torch.arange(5.0)}, honest)
    lie(honest, path, b"K\x05tq\x07Q", LARGE + b"tq\x07Q")
    with memory(200):
        assert torch.equal(read_tensors(path)[0]["a"], torch.arange(5.0))
    torch.save({"a": torch.arange(5.0)}, honest, _use_new_zipfile_serialization=False)
    lie(honest, path, b"K\x05Ntq\x07Q", LARGE + b"Ntq\x07Q")
    with memory(200):
        refuse(lambda: read_tensors(path), "damaged")


def lie(honest, path, old, new):
    """Copies a torch file with some bytes of its pickle replaced."""
    if not zipfile.is_zipfile(honest):
        assert old in honest.read_bytes()
        path.write_bytes(honest.read_bytes().replace(old, new, 1))
        return
    with zipfile.ZipFile(honest) as before, zipfile.ZipFile(path, "w") as after:
        for member in before.infolist():
            content = before.read(member)
            if member.filename.endswith("data.pkl"):
                assert old in content
                content = content.replace(old, new, 1)
            after.writestr(member.filename, content)


def test_a_view_that_repeats_one_number_is_refused(tmp_path, refuse, memory):
    torch.save({"a": torch.zeros(1).expand(10**9, 10**6)}, tmp_path / "x.pth")
    with memory(200):
        refuse(lambda: read_tensors(tmp_path / "x.pth"), "more than the bytes")
