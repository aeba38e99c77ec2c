"""Published weights: what is refused and how it is mended, and tables of another size."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from metaformer_plugin_experts.encoder import ExpertsEncoder
from metaformer_plugin_experts.positions import offset_rows
from metaformer_plugin_experts.resize import resize_table
from torch import Tensor, nn

from metaformer.encoders.transformer import TransformerEncoder
from metaformer.errors import WeightsError
from metaformer.weights.load import load_into
from metaformer.weights.receipt import Receipt

SMALL: dict[str, Any] = {"dim": 16, "depth": 2, "num_heads": 2}
EXPERTS = {"text": ("text",), "image": ("image",)}
SIZES = {"text": (4,), "image": (3, 3)}
OFFSETS = 25
ROWS = OFFSETS + 3 + 2 + 2 * 5


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def make(**knobs: Any) -> ExpertsEncoder:
    encoder = ExpertsEncoder(**{"experts": EXPERTS, "pair_from": 1, "relative_positions": SIZES, **SMALL, **knobs})
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.uniform_(-1, 1)
    return encoder.eval()


def load(encoder: nn.Module, state: dict[str, Tensor], *allowed: str) -> Receipt:
    return load_into(
        encoder,
        "memory:x",
        name="encoders.shared",
        allow_missing=allowed,
        plugins=lambda uri: state,
        translate=encoder.translate,
    )


def vlmo() -> dict[str, Tensor]:
    """Our weights under VLMo's names."""
    names = {"norm2.text": "norm2_text", "norm2.image": "norm2_imag", "norm2.pair": "norm2_vl"}
    names |= {"mlp.text": "mlp_text", "mlp.image": "mlp_imag", "mlp.pair": "mlp_vl"}
    names |= {"gamma1": "gamma_1", "gamma2": "gamma_2", "norm_out": "norm"}
    out = {
        "relative_position_bias_table": torch.randn(ROWS, 4),
        "text_embeddings.words": torch.ones(3),
    }
    for key, tensor in make().state_dict().items():
        if not key.startswith("positions."):
            for ours, theirs in names.items():
                key = key.replace(ours, theirs)
            out[f"transformer.{key}"] = tensor
    return out


def plain(**knobs: Any) -> dict[str, Tensor]:
    return dict(TransformerEncoder(norm_out=True, **SMALL, **knobs).state_dict())


def test_our_own_weights_load_as_they_are():
    first, second = make(), make()
    receipt = load(second, dict(first.state_dict()))
    assert (receipt.missing, receipt.unknown, receipt.unused) == ((), (), {})
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


@pytest.mark.parametrize("prefix", ["", "module.", "state_dict.model."])
def test_vlmo_behind_any_prefix(prefix):
    encoder = make()
    receipt = load(encoder, {prefix + key: tensor for key, tensor in vlmo().items()})
    assert receipt.missing == ()
    assert {*receipt.unknown, *receipt.unused} == {f"{prefix}text_embeddings.words"}


def test_a_plain_transformer_fills_one_expert():
    source = plain(layer_scale=0.3)
    encoder = make(key_bias=True, pair_from=None, relative_positions=None, plain_expert="text")
    receipt = load(encoder, source, "*.image.*")
    assert all(".image." in name for name in receipt.missing)
    assert torch.equal(encoder.blocks[1].mlp["text"].fc1.weight, source["blocks.1.mlp.fc1.weight"])
    assert torch.equal(encoder.blocks[0].gamma2, source["blocks.0.gamma2"])
    assert torch.equal(encoder.norm_out.bias, source["norm_out.bias"])


def test_a_bare_list_of_blocks_fills_the_expert_of_images():
    source = {key.removeprefix("blocks."): t for key, t in plain().items() if key.startswith("blocks.")}
    encoder = make(key_bias=True, pair_from=None, relative_positions=None, layer_scale=None, norm_out=False)
    load(encoder, source, "*.text.*")
    assert torch.equal(encoder.blocks[1].norm2["image"].weight, source["1.norm2.weight"])


def without(state: dict[str, Tensor], *words: str) -> dict[str, Tensor]:
    return {key: tensor for key, tensor in state.items() if not any(word in key for word in words)}


@pytest.mark.parametrize(
    ("source", "knobs", "words"),
    [
        (vlmo, {"pair_from": None}, ("mlp_vl", "pair_from")),
        (vlmo, {"experts": {"image": ("image",)}, "relative_positions": {"image": (3, 3)}}, ("serves text",)),
        (vlmo, {"relative_positions": None}, ("relative_positions: {image: [14, 14], text: [195]}",)),
        (vlmo, {"depth": 3, "pair_from": 1}, ("depth: 2",)),
        (vlmo, {"depth": 1, "pair_from": 0}, ("depth: 2",)),
        (vlmo, {"layer_scale": None}, ("no place", "gamma")),
        (lambda: without(vlmo(), "mlp_vl", "norm2_vl"), {}, ("missing", "mlp.pair", "allow_missing")),
        (lambda: without(vlmo(), "v_bias"), {}, ("q_bias", "lacks attn.v_bias")),
        (lambda: without(vlmo(), "table"), {}, ("missing 4", "positions.within_text")),
        (lambda: vlmo() | {"relative_position_bias_table": torch.ones(ROWS + 1, 4)}, {}, ("no square",)),
        (lambda: vlmo() | {"relative_position_bias_table": torch.ones(ROWS)}, {}, ("one shape",)),
        (lambda: vlmo() | {"other.blocks.0.attn.qkv.weight": torch.ones(2)}, {}, ("2 parts", "#transformer")),
        (plain, {"relative_positions": None}, ("bias of the keys", "key_bias: true")),
        (
            plain,
            {"experts": {"a": ("x",), "b": ("y",)}, "relative_positions": None, "key_bias": True},
            ("one MLP per block", "plain_expert: one of a, b"),
        ),
        (lambda: dict(make().state_dict()), {"relative_positions": None}, ("the recipe has none",)),
        (lambda: {"a": torch.ones(2)}, {}, ("no known layout",)),
    ],
)
def test_sources_that_do_not_fit(source, knobs, words):
    encoder = make(**knobs)
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    with pytest.raises(WeightsError) as error:
        load(encoder, source())
    assert all(word in str(error.value) for word in words), str(error.value)
    assert error.value.do
    assert all(torch.equal(tensor, before[name]) for name, tensor in encoder.state_dict().items())


def test_nothing_inside_a_block_is_left_out():
    with pytest.raises(WeightsError, match=r"no place in the recipe's blocks for blocks\.0\.extra"):
        load(make(), vlmo() | {"transformer.blocks.0.extra": torch.ones(2)})


# Tables of another size.


def test_loading_resizes_tables():
    first = make()
    larger = make(relative_positions={"text": (3,), "image": (5, 5)})
    load(larger, dict(first.state_dict()))
    small, large = (e.positions.within_image.weight for e in (first, larger))
    assert torch.equal(large[-3:], small[-3:])
    # Near offsets are those of near places, which stay a step apart.
    centre = large[:-3].view(9, 9, -1)[3:6, 3:6]
    torch.testing.assert_close(centre, small[:-3].view(5, 5, -1)[1:4, 1:4])
    text = first.positions.within_text.weight
    assert torch.equal(larger.positions.within_text.weight, torch.cat([text[1:6], text[-3:]]))


@pytest.mark.parametrize(("small", "large"), [(14, 24), (14, 30), (3, 5), (16, 17)])
def test_resizing_is_the_reference_codes(small, large):
    """Old offsets at geometric distances, and FITPACK's cubic spline through them."""
    from scipy.interpolate import RectBivariateSpline

    table = torch.randn((2 * small - 1) ** 2 + 3, 2, dtype=torch.float64)
    low, high = 1.0 + 1e-9, 1.5
    for _ in range(60):
        q = (low + high) / 2
        low, high = (low, q) if (1 - q ** (small - 1)) / (1 - q) > large - 1 else (q, high)
    steps = [sum(q**i for i in range(n + 1)) for n in range(small - 1)]
    at = [-step for step in reversed(steps)] + [0.0, *steps]
    wanted = torch.arange(1 - large, large, dtype=torch.float64).clamp(at[0], at[-1]).numpy()
    found = resize_table(table, (small, small), (large, large))
    for column in range(2):
        z = table[:-3, column].view(2 * small - 1, -1).numpy()
        expected = torch.from_numpy(RectBivariateSpline(at, at, z, s=0)(wanted, wanted))
        torch.testing.assert_close(found[:-3, column].view(2 * large - 1, -1), expected, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("old", [(1,), (2,), (1, 2), ()])
def test_resizing_where_there_is_little(old):
    new = tuple(size + 2 for size in old)
    table = torch.ones(offset_rows(old) + 3, 1)
    torch.testing.assert_close(resize_table(table, old, new), torch.ones(offset_rows(new) + 3, 1))
