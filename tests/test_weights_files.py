"""Weight files: every honest form is read, every other named for what it is; attacks/ has the dishonest ones."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from metaformer.errors import WeightsError
from metaformer.weights.files import file_digest, read_tensors, tensor_digest, write_tensors

STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2)}


def assert_equal(found: dict[str, torch.Tensor]) -> None:
    assert set(found) == set(STATE)
    assert all(torch.equal(found[key], STATE[key]) for key in STATE)


@pytest.mark.parametrize("name", ["x.safetensors", "x.bin", "no_suffix"])
def test_safetensors_are_read_whatever_they_are_called(tmp_path: Path, name: str) -> None:
    save_file(STATE, tmp_path / name, {"format": "pt"})
    tensors, metadata = read_tensors(tmp_path / name)
    assert_equal(tensors)
    assert metadata == {"format": "pt"}


@pytest.mark.parametrize("name", ["x.pth", "x.pt", "x.bin", "no_suffix", "wrong.safetensors"])
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_torch_files_are_read_whatever_they_are_called(tmp_path: Path, name: str, zipped: bool) -> None:
    torch.save(STATE, tmp_path / name, _use_new_zipfile_serialization=zipped)
    assert_equal(read_tensors(tmp_path / name)[0])


@pytest.mark.parametrize(
    "content",
    [
        {"state_dict": STATE, "epoch": 3},
        {"model": STATE, "args": argparse.Namespace(lr=0.1)},
        {"model": {"state_dict": STATE}},
        {"module": STATE},
        {key: torch.nn.Parameter(value) for key, value in STATE.items()},
        STATE | {"epoch": 3},
    ],
)
def test_the_state_dict_is_found_inside_a_training_checkpoint(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "x.pth")
    tensors = read_tensors(tmp_path / "x.pth")[0]
    assert_equal(tensors)
    assert not any(tensor.requires_grad for tensor in tensors.values())


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"version https://git-lfs example\noid sha256:0\n", "LFS pointer"),
        (b"<!DOCTYPE html><html></html>", "web page"),
        (b"hello there, this is text", "neither"),
        (b"\x80\x02garbage", "damaged"),
        (b"PK\x03\x04garbage", "damaged"),
    ],
)
def test_other_files_are_named_for_what_they_are(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(WeightsError, match=reason):
        read_tensors(tmp_path / "x.pth")


@pytest.mark.parametrize("content", [[torch.ones(1)], {"epoch": 3}, {"weights": {"a": torch.ones(1)}}, {}])
def test_torch_files_without_a_state_dict_are_refused(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(WeightsError, match=r"instead of a dictionary|without tensors"):
        read_tensors(tmp_path / "x.pth")


def test_truncated_files_are_refused(tmp_path: Path) -> None:
    for path, save in ((tmp_path / "x.pth", torch.save), (tmp_path / "x.safetensors", save_file)):
        save(STATE, path)
        path.write_bytes(path.read_bytes()[:-20])
        with pytest.raises(WeightsError):
            read_tensors(path)


def test_a_folder_or_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="a folder"):
        read_tensors(tmp_path)
    with pytest.raises(WeightsError, match="no such file"):
        read_tensors(tmp_path / "absent")


def test_writing_is_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "new" / "x.safetensors"
    write_tensors(path, STATE, {"k": "v"})
    tensors, metadata = read_tensors(path)
    assert_equal(tensors)
    assert metadata == {"k": "v"}
    before = file_digest(path)
    with pytest.raises(WeightsError, match="exists"):
        write_tensors(path, {"other": torch.zeros(1)}, {})
    assert file_digest(path) == before
    assert [entry.name for entry in path.parent.iterdir()] == ["x.safetensors"]


def test_writing_parts_of_one_storage_and_to_a_place_that_cannot_be(tmp_path: Path) -> None:
    whole = torch.arange(6.0)
    write_tensors(tmp_path / "x.safetensors", {"a": whole[:3], "b": whole}, {})
    assert torch.equal(read_tensors(tmp_path / "x.safetensors")[0]["a"], whole[:3])
    (tmp_path / "file").touch()
    with pytest.raises(WeightsError, match="writing"):
        write_tensors(tmp_path / "file" / "x.safetensors", STATE, {})


def test_digests_follow_names_types_shapes_and_values() -> None:
    digest = tensor_digest(STATE)
    assert digest == tensor_digest(dict(reversed(STATE.items())))
    weight, bias = STATE["a.weight"], STATE["a.bias"]
    others = [
        {"a.weight": weight, "a.bia": bias},
        {"a.weight": weight, "a.bias": bias.double()},
        {"a.weight": weight.reshape(3, 2), "a.bias": bias},
        {"a.weight": weight, "a.bias": -bias},
    ]
    assert len({digest, *(tensor_digest(other) for other in others)}) == 5
    assert tensor_digest({"a": torch.ones(2, dtype=torch.bfloat16), "s": torch.tensor(1.0)}).startswith("sha256:")
