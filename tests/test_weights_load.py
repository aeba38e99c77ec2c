"""Loading is strict: everything fits and is finite, or nothing is copied and every fault is named with its fix."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from metaformer.encoders.transformer import TransformerEncoder
from metaformer.errors import WeightsError
from metaformer.weights.load import load_into
from metaformer.weights.receipt import Receipt

NAME = "encoders.shared"
State = dict[str, Tensor]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def encoder(**knobs: object) -> TransformerEncoder:
    settings = {"dim": 16, "depth": 2, "num_heads": 2} | knobs
    return TransformerEncoder(**settings)  # type: ignore[arg-type]


def random_state(**knobs: object) -> State:
    return {key: torch.randn_like(value) for key, value in encoder(**knobs).state_dict().items()}


def load(module: nn.Module, state: State, **options: object) -> Receipt:
    return load_into(module, "memory:x", name=NAME, plugins=lambda uri: state, **options)  # type: ignore[arg-type]


def refused(module: nn.Module, state: State, **options: object) -> str:
    """The error's text, after making sure that the module is untouched."""
    before = {key: value.clone() for key, value in module.state_dict().items()}
    with pytest.raises(WeightsError) as caught:
        load(module, state, **options)
    assert all(torch.equal(before[key], value) for key, value in module.state_dict().items())
    return str(caught.value)


def test_every_tensor_arrives_and_the_receipt_says_so(tmp_path: Path) -> None:
    state = random_state(norm_in=True, norm_out=True)
    save_file(state, tmp_path / "x.safetensors")
    module = encoder(norm_in=True, norm_out=True)
    parameters = dict(module.named_parameters())
    receipt = load_into(module, "file:x.safetensors", name=NAME, base=tmp_path)
    assert all(torch.equal(value, state[key]) for key, value in module.state_dict().items())
    assert all(parameters[key] is value for key, value in module.named_parameters()), "not in place"
    assert all(parameter.requires_grad for parameter in module.parameters())
    assert receipt.layout == "metaformer"
    assert set(receipt.mapped) == set(state)
    assert receipt.digest == receipt.files["x.safetensors"]
    assert receipt.cast == {}


def test_the_module_does_not_hold_on_to_the_file(tmp_path: Path) -> None:
    state = random_state()
    path = tmp_path / "x.pth"
    torch.save(state, path)
    module = encoder()
    load_into(module, f"file:{path}", name=NAME)
    with torch.no_grad():
        module.blocks[0].norm1.weight.add_(1)
    with path.open("r+b") as file:
        file.write(b"\xff" * path.stat().st_size)
    assert torch.equal(module.blocks[0].norm1.weight, state["blocks.0.norm1.weight"] + 1)
    assert torch.equal(module.blocks[1].attn.qkv.weight, state["blocks.1.attn.qkv.weight"])


@pytest.mark.parametrize("wrapper", ["state_dict", "model", "module"])
@pytest.mark.parametrize("prefix", ["", "module.", "encoder."])
def test_wrappers_and_prefixes_come_off(tmp_path: Path, wrapper: str, prefix: str) -> None:
    state = random_state()
    torch.save({wrapper: {prefix + key: value for key, value in state.items()}}, tmp_path / "x.pth")
    module = encoder()
    load_into(module, "file:x.pth", name=NAME, base=tmp_path)
    assert all(torch.equal(value, state[key]) for key, value in module.state_dict().items())


def test_missing_tensors_are_an_error_that_lists_them() -> None:
    state = random_state()
    del state["blocks.1.mlp.fc2.bias"]
    text = refused(encoder(norm_out=True), state)
    assert "missing 3 of 26: blocks.1.mlp.fc2.bias, norm_out.{weight,bias}" in text
    assert "allow_missing" in text
    assert "encoders.shared.norm_out: false" in text
    assert "encoders.shared.qkv_bias: false" in refused(encoder(), random_state(qkv_bias=False))


@pytest.mark.parametrize("glob", ["norm_out.*", "encoders.shared.norm_out.*", "*norm_out*"])
def test_missing_tensors_may_be_allowed_by_name_and_keep_their_values(glob: str) -> None:
    module, state = encoder(norm_out=True), random_state()
    receipt = load(module, state, allow_missing=[glob])
    assert receipt.missing == ("norm_out.weight", "norm_out.bias")
    assert torch.equal(module.norm_out.weight, torch.ones(16))  # type: ignore[union-attr]
    assert torch.equal(module.blocks[0].norm1.weight, state["blocks.0.norm1.weight"])


def test_allowing_does_not_reach_further_than_the_glob() -> None:
    state = random_state()
    del state["blocks.1.norm1.bias"]
    assert "blocks.1.norm1.bias" in refused(encoder(norm_out=True), state, allow_missing=["norm_out.*"])


def test_a_glob_that_matches_no_parameter_is_an_error() -> None:
    assert "norm_ouy.* matches no parameter" in refused(encoder(), random_state(), allow_missing=["norm_ouy.*"])


def test_another_width_is_explained() -> None:
    text = refused(encoder(dim=8), random_state())
    assert "the source is 16 wide, the recipe 8" in text
    assert "encoders.shared.dim: 16" in text
    assert "blocks.0.norm1.weight is [16], wanted [8]" in text


def test_another_mlp_is_explained() -> None:
    text = refused(encoder(mlp_ratio=2.0), random_state())
    assert "encoders.shared.mlp_ratio: 4" in text


def test_a_deeper_source_is_an_error_with_the_fix() -> None:
    text = refused(encoder(depth=1), random_state())
    assert "the source has 2 blocks, the recipe 1" in text
    assert "encoders.shared.depth: 2" in text


def test_a_shallower_source_is_an_error_unless_allowed() -> None:
    state = random_state()
    assert "encoders.shared.depth: 2" in refused(encoder(depth=3), state)
    receipt = load(encoder(depth=3), state, allow_missing=["blocks.2.*"])
    assert len(receipt.missing) == 12


@pytest.mark.parametrize("norm", ["norm_in", "norm_out"])
def test_a_norm_the_recipe_leaves_out_is_unused_and_named_with_its_knob(norm: str) -> None:
    receipt = load(encoder(), random_state(**{norm: True}))
    assert set(receipt.unused) == {f"{norm}.weight", f"{norm}.bias"}
    assert f"{NAME}.{norm}: true" in "".join(receipt.notes)
    assert f"{NAME}.{norm}: true" in str(receipt)


def test_a_bias_or_scale_the_recipe_leaves_out_is_an_error() -> None:
    assert "encoders.shared.qkv_bias: true" in refused(encoder(qkv_bias=False), random_state())
    assert "encoders.shared.layer_scale" in refused(encoder(), random_state(layer_scale=0.1))


def test_tensors_inside_blocks_that_nothing_knows_are_an_error() -> None:
    state = random_state() | {"blocks.0.attn.q_norm.weight": torch.ones(8)}
    assert "blocks.0.attn.q_norm.weight" in refused(encoder(), state)


def test_tensors_outside_are_listed_by_owner_or_as_unknown() -> None:
    extra = {"cls_token": torch.ones(1), "head.weight": torch.ones(1), "banana": torch.ones(1)}
    receipt = load(encoder(), random_state() | extra)
    assert receipt.unused == {"cls_token": "a tokenizer", "head.weight": "a head"}
    assert receipt.unknown == ("banana",)


def test_all_faults_come_at_once() -> None:
    state = random_state(depth=3) | {"blocks.0.extra": torch.ones(1)}
    del state["blocks.0.norm1.weight"]
    text = refused(encoder(mlp_ratio=2.0, norm_out=True), state)
    for part in ("3 blocks", "blocks.0.extra", "missing 3 of", "mlp_ratio: 4"):
        assert part in text


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_casts_are_recorded(dtype: torch.dtype) -> None:
    state = {key: value.to(dtype) for key, value in random_state().items()}
    module = encoder()
    receipt = load(module, state)
    assert set(receipt.cast) == set(state)
    assert set(receipt.cast.values()) == {f"{str(dtype).removeprefix('torch.')} → float32"}
    key = "blocks.0.attn.qkv.weight"
    assert torch.equal(module.state_dict()[key], state[key].float())
    assert module.blocks[0].norm1.weight.dtype == torch.float32


def test_numbers_that_are_not_finite_or_not_real_are_refused() -> None:
    key = "blocks.1.attn.proj.weight"
    for bad in (torch.nan, torch.inf):
        state = random_state()
        state[key][3, 3] = bad
        assert f"{key} is not finite" in refused(encoder(), state)
    quantised = random_state() | {key: torch.ones(16, 16, dtype=torch.int8)}
    assert "int8" in refused(encoder(), quantised)
    huge = random_state() | {key: torch.full((16, 16), 1e30)}
    assert "float16" in refused(encoder().half(), huge)


def test_a_pre_norm_file_does_not_go_into_a_post_norm_encoder() -> None:
    state = {key.removeprefix("blocks."): value for key, value in random_state().items()}
    assert "encoders.shared.norm: pre" in refused(encoder(norm="post"), state)
    load(encoder(norm="post"), random_state())  # our own naming says nothing about it


def split_heads(state: State) -> State:
    """The state dict as transformers 5 names it."""
    names = {"attn.proj": "attention.o_proj", "norm1": "layernorm_before", "norm2": "layernorm_after"}
    out: State = {}
    for key, value in state.items():
        key = key.replace("blocks.", "layers.")
        for ours, theirs in names.items():
            key = key.replace(ours, theirs)
        parts = dict(zip("qkv", value.chunk(3), strict=True)) if "attn.qkv" in key else {}
        for part, rows in parts.items():
            out[key.replace("attn.qkv", f"attention.{part}_proj")] = rows
        if not parts:
            out[key] = value
    return out


def test_split_rows_are_joined_and_the_receipt_names_all_three() -> None:
    state, module = random_state(), encoder()
    receipt = load(module, split_heads(state))
    assert all(torch.equal(value, state[key]) for key, value in module.state_dict().items())
    assert receipt.mapped["blocks.1.attn.qkv.bias"] == tuple(f"layers.1.attention.{part}_proj.bias" for part in "qkv")
    assert "joined   4: blocks.0-1.attn.qkv.{weight,bias}" in str(receipt)


def test_a_join_of_unequal_or_absent_parts_is_an_error() -> None:
    state = split_heads(random_state())
    key = "layers.0.attention.k_proj.weight"
    uneven = state | {key: state[key][:4]}
    assert "shapes differ" in refused(encoder(), uneven)
    del state[key]
    assert "cannot be joined: the source lacks layers.0.attention.k_proj.weight" in refused(encoder(), state)


# Modules with names of their own


def test_another_module_takes_its_own_names_from_a_run(tmp_path: Path) -> None:
    head, run = nn.Linear(3, 2), tmp_path / "run"
    (run / "checkpoints/best").mkdir(parents=True)
    weights = {"heads.label.weight": torch.randn(2, 3), "heads.label.bias": torch.randn(2)}
    save_file(weights | {"heads.other.weight": torch.ones(1)}, run / "checkpoints/best/model.safetensors")
    receipt = load_into(head, f"run:{run}", name="heads.label")
    assert torch.equal(head.weight, weights["heads.label.weight"])
    assert (receipt.layout, receipt.unknown) == ("plain", ())
    other = nn.Linear(3, 2)
    load_into(other, f"run:{run}#heads.label", name="heads.renamed")
    assert torch.equal(other.bias, weights["heads.label.bias"])
    with pytest.raises(WeightsError, match=r"did you mean #heads\.label"):
        load_into(other, f"run:{run}#heads.labels", name="heads.renamed")


def test_an_encoder_comes_from_a_run_half_trained_and_half_frozen(tmp_path: Path) -> None:
    state, run = random_state(), tmp_path / "run"
    (run / "checkpoints/latest").mkdir(parents=True)
    trained = {f"{NAME}.{key}": value for key, value in state.items() if "norm" in key}
    frozen = {f"{NAME}.{key}": value for key, value in state.items() if "norm" not in key}
    save_file(trained | {"heads.x.weight": torch.ones(1)}, run / "checkpoints/latest/model.safetensors")
    save_file(frozen, run / "frozen.safetensors")
    module = encoder()
    receipt = load_into(module, f"run:{run}", name=NAME)
    assert all(torch.equal(value, state[key]) for key, value in module.state_dict().items())
    assert set(receipt.files) == {"model.safetensors", "frozen.safetensors"}
    assert receipt.digest not in receipt.files.values()


def test_parameters_beyond_the_table_come_from_a_run_under_their_own_names() -> None:
    module, state = encoder(), random_state()
    module.blocks[0].attn.qkv.register_parameter("lora_a", nn.Parameter(torch.zeros(2, 16)))
    key = "blocks.0.attn.qkv.lora_a"
    state = {f"{NAME}.{name}": value for name, value in (state | {key: torch.ones(2, 16)}).items()}
    assert load(module, state).mapped[key] == (f"{NAME}.{key}",)
    assert torch.equal(module.state_dict()[key], torch.ones(2, 16))
    assert "low-rank updates" in refused(encoder(), state)


def test_a_plain_module_is_found_under_a_prefix_and_is_strict() -> None:
    module = nn.Linear(3, 2)
    state = {"a.b.weight": torch.randn(2, 3), "a.b.bias": torch.randn(2), "c": torch.ones(1)}
    receipt = load(module, state)
    assert torch.equal(module.weight, state["a.b.weight"])
    assert receipt.unknown == ("c",)
    assert "missing 1 of 2: bias" in refused(module, {"weight": torch.ones(2, 3)})
    assert "nothing in it has a name" in refused(module, {"x": torch.ones(1)})
    assert "weight is [3, 2], wanted [2, 3]" in refused(module, {"weight": torch.ones(3, 2), "bias": torch.ones(2)})


def test_buffers_are_loaded_too() -> None:
    module, other = nn.BatchNorm1d(4), nn.BatchNorm1d(4)
    other(torch.randn(8, 4) * 3 + 1)
    load(module, dict(other.state_dict()))
    assert torch.equal(module.running_mean, other.running_mean)  # type: ignore[arg-type]
    assert module.num_batches_tracked == 1


class Positions(nn.Module):
    def __init__(self, length: int) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.zeros(1, length, 4))


def stretch(tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    return nn.functional.interpolate(tensor.transpose(1, 2), size=shape[1], mode="linear").transpose(1, 2)


def test_what_may_be_resized_is_and_is_recorded() -> None:
    module, state = Positions(10), {"positions": torch.randn(1, 5, 4)}
    receipt = load(module, state, resize={"positions": stretch})
    assert receipt.resized == {"positions": ((1, 5, 4), (1, 10, 4))}
    assert torch.equal(module.positions, stretch(state["positions"], (1, 10, 4)))
    assert "shapes differ" in refused(Positions(10), state)
    assert load(Positions(5), state, resize={"positions": stretch}).resized == {}


def test_meta_modules_and_empty_ones_are_refused() -> None:
    with torch.device("meta"):
        module = encoder()
    with pytest.raises(WeightsError, match="meta device"):
        load(module, random_state())
    with pytest.raises(WeightsError, match="no parameters"):
        load(nn.ReLU(), random_state())


def test_an_unknown_scheme_names_the_schemes() -> None:
    with pytest.raises(WeightsError, match=r"did you mean `openclip:`\?.*timm:NAME"):
        load_into(encoder(), "open_clip:ViT-B-16/x", name=NAME, plugins=lambda uri: None)


def test_a_plugins_tensors_may_be_selected_by_part() -> None:
    state = {f"tower.{key}": value for key, value in random_state().items()}
    module = encoder()
    load_into(module, "zoo:thing#tower", name=NAME, plugins=lambda uri: state)
    assert torch.equal(module.blocks[0].norm1.weight, state["tower.blocks.0.norm1.weight"])


def test_loading_uses_no_randomness_and_warns_of_nothing(tmp_path: Path) -> None:
    torch.save(random_state(), tmp_path / "x.pth")
    module, before = encoder(), torch.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_into(module, "file:x.pth", name=NAME, base=tmp_path)
    assert torch.equal(before, torch.get_rng_state())
