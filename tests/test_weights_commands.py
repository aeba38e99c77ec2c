"""`metaformer weights inspect` and `convert`: what they print is true, and what they write loads back equal."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from ruamel.yaml import YAML
from safetensors.torch import save_file
from torch import Tensor

from metaformer.encoders.transformer import TransformerEncoder
from metaformer.errors import MetaformerError, UsageError, WeightsError
from metaformer.weights.commands import convert_command, inspect_command
from metaformer.weights.files import file_digest, read_tensors
from metaformer.weights.load import load_into


@pytest.fixture
def state() -> dict[str, Tensor]:
    torch.manual_seed(0)
    encoder = TransformerEncoder(dim=128, depth=2, num_heads=2, mlp_ratio=2.0, norm_out=True)
    return {key: torch.randn_like(value) for key, value in encoder.state_dict().items()}


@pytest.fixture
def timm_file(state: dict[str, Tensor], tmp_path: Path) -> Path:
    """The same tensors as timm would save them, among others."""
    renamed = {key.replace("norm_out", "norm"): value for key, value in state.items()}
    path = tmp_path / "timm.safetensors"
    save_file(renamed | {"cls_token": torch.ones(1, 1, 128), "head.weight": torch.ones(3, 128)}, path)
    return path


def test_inspect_prints_layout_sizes_leftovers_and_digest(timm_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inspect_command(f"file:{timm_file}")
    out = capsys.readouterr().out
    for part in (
        "layout   timm_vit",
        "2 blocks, 128 wide, MLP 256",
        "norms beside the blocks: norm_out",
        "heads: 2 if they are 64 wide",
        "unused   1: cls_token (a tokenizer)",
        "unused   1: head.weight (a head)",
        file_digest(timm_file),
    ):
        assert part in out


def test_the_entry_inspect_proposes_loads_the_file(timm_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inspect_command(f"file:{timm_file}")
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("  recipe"))
    entry = YAML(typ="safe").load(line.removeprefix("  recipe"))
    assert entry.pop("use") == "transformer"
    uri = entry.pop("weights")
    receipt = load_into(TransformerEncoder(**entry), uri, name="encoders.shared")
    assert (receipt.missing, receipt.notes, receipt.unknown) == ((), (), ())


def test_inspect_shows_files_that_are_no_encoder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_file({"conv.weight": torch.ones(1), "conv.bias": torch.ones(1)}, tmp_path / "x.safetensors")
    inspect_command(f"file:{tmp_path / 'x.safetensors'}")
    out = capsys.readouterr().out
    assert "none for an encoder" in out
    assert "conv.{weight,bias}" in out


@pytest.mark.parametrize("to", ["metaformer", "meta_transformer"])
def test_what_convert_writes_loads_back_equal(
    to: str, state: dict[str, Tensor], timm_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out" / "encoder.safetensors"
    convert_command(f"file:{timm_file}", output, None, to)
    out = capsys.readouterr().out
    assert file_digest(output) in out
    whole = to == "metaformer"
    assert ("norm_out.{weight,bias}" in out) is not whole
    encoder = TransformerEncoder(dim=128, depth=2, num_heads=2, mlp_ratio=2.0, norm_out=whole)
    receipt = load_into(encoder, f"file:{output}", name="encoders.shared")
    assert receipt.layout == to
    assert (receipt.unused, receipt.unknown) == ({}, ())
    assert all(torch.equal(value, state[key]) for key, value in encoder.state_dict().items())
    tensors, metadata = read_tensors(output)
    assert metadata["source_digest"] == file_digest(timm_file)
    if not whole:
        assert set(tensors) == {key.removeprefix("blocks.") for key in state if key.startswith("blocks.")}


def test_convert_takes_a_part(state: dict[str, Tensor], tmp_path: Path) -> None:
    towers = {f"{tower}.{key}": value for tower in ("left", "right") for key, value in state.items()}
    save_file({key: value.clone() for key, value in towers.items()}, tmp_path / "x.safetensors")
    uri = f"file:{tmp_path / 'x.safetensors'}"
    with pytest.raises(WeightsError, match="left, right"):
        convert_command(uri, tmp_path / "a.safetensors")
    convert_command(uri, tmp_path / "a.safetensors", "right")
    convert_command(f"{uri}#right", tmp_path / "b.safetensors")
    left, right = (read_tensors(tmp_path / name)[0] for name in ("a.safetensors", "b.safetensors"))
    assert set(left) == set(right) == set(state)


def test_facts_survive_a_conversion(state: dict[str, Tensor], tmp_path: Path) -> None:
    from metaformer.weights.source import FACTS_KEY

    save_file(state, tmp_path / "x.safetensors", {FACTS_KEY: '{"num_heads": 4, "activation": "quick_gelu"}'})
    convert_command(f"file:{tmp_path / 'x.safetensors'}", tmp_path / "y.safetensors")
    encoder = TransformerEncoder(dim=128, depth=2, num_heads=2, mlp_ratio=2.0, norm_out=True)
    with pytest.raises(WeightsError) as caught:
        load_into(encoder, f"file:{tmp_path / 'y.safetensors'}", name="encoders.shared")
    assert "num_heads: 4" in caught.value.do
    assert "activation: quick_gelu" in caught.value.do


@pytest.mark.parametrize("facts", ["nonsense", "[1]", '{"num_heads": "many", "norm_eps": [], "activation": 3}'])
def test_facts_that_make_no_sense_are_as_good_as_none(facts: str, state: dict[str, Tensor], tmp_path: Path) -> None:
    from metaformer.weights.source import FACTS_KEY

    save_file(state, tmp_path / "x.safetensors", {FACTS_KEY: facts})
    encoder = TransformerEncoder(dim=128, depth=2, num_heads=2, mlp_ratio=2.0, norm_out=True)
    receipt = load_into(encoder, f"file:{tmp_path / 'x.safetensors'}", name="encoders.shared")
    assert receipt.notes == ()


def refusal(*arguments: object) -> MetaformerError:
    with pytest.raises(MetaformerError) as caught:
        convert_command(*arguments)  # type: ignore[arg-type]
    return caught.value


def test_convert_refuses_to_overwrite_and_to_guess(timm_file: Path, tmp_path: Path) -> None:
    uri, there = f"file:{timm_file}", tmp_path / "there.safetensors"
    there.write_bytes(b"precious")
    assert "exists" in refusal(uri, there).found
    assert there.read_bytes() == b"precious"
    assert isinstance(refusal(uri, tmp_path / "x.pth"), UsageError)
    assert isinstance(refusal(uri, tmp_path / "x.safetensors", None, "timm"), UsageError)
    assert "unknown scheme" in refusal("zoo:x", tmp_path / "x.safetensors").found
    assert not (tmp_path / "x.safetensors").exists()


def test_layer_scale_has_no_place_in_a_bare_block_list(state: dict[str, Tensor], tmp_path: Path) -> None:
    save_file(state | {"blocks.0.gamma1": torch.ones(128)}, tmp_path / "x.safetensors")
    uri = f"file:{tmp_path / 'x.safetensors'}"
    assert "blocks.0.gamma1" in refusal(uri, tmp_path / "y.safetensors", None, "meta_transformer").found
    convert_command(uri, tmp_path / "y.safetensors")
