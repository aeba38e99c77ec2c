"""The encoder with experts computes what BEiT's and VLMo's code compute.

BEiT comes from transformers and timm. VLMo is no package: the second half is a plain computation of what its released
code does, token by token in double precision, over a state dict by its names.
"""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
import torch
from metaformer_plugin_experts.encoder import ExpertsEncoder
from torch import Tensor, nn
from torch.nn import functional as F

from metaformer.layers.join import join
from metaformer.types import TokenBatch
from metaformer.weights.load import load_into
from metaformer.weights.receipt import Receipt

TOLERANCE = 1e-5
DIM, DEPTH, HEADS = 48, 4, 3
IMAGE, PATCH = 40, 8
GRID = (5, 5)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@torch.no_grad()
def randomise(model: nn.Module) -> nn.Module:
    """Parameters that no initialisation would give: norms, biases, scales and tables too."""
    for name, tensor in model.named_parameters():
        tensor.copy_(value(name, tensor.shape))
    return model.eval()


def value(name: str, shape: torch.Size | tuple[int, ...]) -> Tensor:
    if "table" in name:
        return torch.randn(*shape)
    if len(shape) < 2 and re.search(r"weight$|gamma|lambda", name):
        return torch.empty(*shape).uniform_(0.6, 1.4)
    if len(shape) < 2:
        return torch.empty(*shape).uniform_(-0.2, 0.2)
    return torch.empty(*shape).uniform_(-1.0, 1.0) * 1.5 / math.prod(shape[1:]) ** 0.5


def filled(state: dict[str, Tensor], allowed: tuple[str, ...] = (), **knobs: Any) -> tuple[ExpertsEncoder, Receipt]:
    """Our encoder, NaN before, with a state dict loaded as a recipe's `weights:` are; `allowed` to stay NaN."""
    encoder = ExpertsEncoder(**{"dim": DIM, "depth": DEPTH, "num_heads": HEADS, **knobs})
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.fill_(torch.nan)
    receipt = load_into(
        encoder,
        "memory:x",
        name="encoders.shared",
        allow_missing=allowed,
        plugins=lambda uri: state,
        translate=encoder.translate,
    )
    assert bool(receipt.missing) == bool(allowed)
    return encoder.eval(), receipt


def picture(x: Tensor, grid: tuple[int, int] = GRID) -> TokenBatch:
    return TokenBatch(x, torch.ones(x.shape[:2], dtype=torch.bool), "image", grid=grid, num_prefix=1)


def assert_close(found: Tensor, expected: Tensor) -> None:
    assert expected.std() > 0.3, "the oracle's output is too flat to tell anything"
    difference = (found - expected).abs().max().item()
    assert difference <= TOLERANCE, f"largest difference {difference:.1e}"


# BEiT.

OLD_NAMES = (
    (r"^layers\.(\d+)\.attention\.q_proj", r"encoder.layer.\1.attention.attention.query"),
    (r"^layers\.(\d+)\.attention\.k_proj", r"encoder.layer.\1.attention.attention.key"),
    (r"^layers\.(\d+)\.attention\.v_proj", r"encoder.layer.\1.attention.attention.value"),
    (r"^layers\.(\d+)\.attention\.o_proj", r"encoder.layer.\1.attention.output.dense"),
    (r"^layers\.(\d+)\.relative_position", r"encoder.layer.\1.attention.attention.relative_position"),
    (r"^layers\.(\d+)\.mlp\.fc1", r"encoder.layer.\1.intermediate.dense"),
    (r"^layers\.(\d+)\.mlp\.fc2", r"encoder.layer.\1.output.dense"),
    (r"^layers\.(\d+)\.", r"encoder.layer.\1."),
    (r"^shared_position_bias", r"encoder.relative_position_bias"),
)
"""What files on the hub call what transformers 5 has."""


def old(state: dict[str, Tensor]) -> dict[str, Tensor]:
    out = {}
    for key, tensor in state.items():
        for pattern, new in OLD_NAMES:
            key, count = re.subn(pattern, new, key)
            if count:
                break
        out[f"beit.{key}"] = tensor
    index = "beit.encoder.layer.0.attention.attention.relative_position_bias.relative_position_index"
    return out | {index: torch.zeros(4, 4, dtype=torch.long)}


@pytest.mark.parametrize("shared", [False, True], ids=["each layer", "shared"])
@pytest.mark.parametrize("names", ["new", "old"])
@torch.no_grad()
def test_huggingface_beit(names: str, shared: bool) -> None:
    from transformers import BeitConfig, BeitModel

    config = BeitConfig(
        hidden_size=DIM,
        num_hidden_layers=DEPTH,
        num_attention_heads=HEADS,
        intermediate_size=4 * DIM,
        image_size=IMAGE,
        patch_size=PATCH,
        use_relative_position_bias=not shared,
        use_shared_relative_position_bias=shared,
        use_mean_pooling=False,
        layer_scale_init_value=0.1,
        attn_implementation="eager",
    )
    oracle = randomise(BeitModel(config))
    state = dict(oracle.state_dict())
    experts = {"image": ("image",), "text": ("text",)}
    knobs = {"norm_eps": config.layer_norm_eps, "relative_positions": {"image": GRID, "text": (3,)}}
    lacking = ("*.text.*", "*_text.*", "*_reads_*")
    encoder, receipt = filled(old(state) if names == "old" else state, lacking, experts=experts, **knobs)
    assert not any("layer" in name for name in receipt.unknown)
    pixels = torch.rand(2, 3, IMAGE, IMAGE) * 2 - 1
    expected = oracle(pixels).last_hidden_state
    assert_close(encoder(picture(oracle.embeddings(pixels))).x, expected)


@pytest.mark.parametrize("size", [(40, 40), (24, 40)], ids=["square", "wide"])
@torch.no_grad()
def test_timm_beit(size: tuple[int, int]) -> None:
    from timm.models.beit import Beit

    oracle = randomise(
        Beit(
            img_size=size,
            patch_size=PATCH,
            embed_dim=DIM,
            depth=DEPTH,
            num_heads=HEADS,
            num_classes=0,
            global_pool="token",
            init_values=0.1,
            use_abs_pos_emb=False,
            use_rel_pos_bias=True,
        )
    )
    grid = (size[0] // PATCH, size[1] // PATCH)
    knobs = {"experts": {"image": ("image",)}, "relative_positions": {"image": grid}}
    encoder, _ = filled(dict(oracle.state_dict()), **knobs)
    pixels = torch.rand(2, 3, *size) * 2 - 1
    patches = oracle.patch_embed(pixels)
    tokens = torch.cat([oracle.cls_token.expand(2, -1, -1), patches], dim=1)
    assert_close(encoder(picture(tokens, grid)).x, oracle.forward_features(pixels))


# VLMo.

PAIR_FROM = 2
WORDS = 9
"""Beside the class token, that its table has room for."""
SIDE = 3
OFFSETS = (2 * SIDE - 1) ** 2
ROWS = OFFSETS + 3 + 2 + 2 * (WORDS + 1)


def published() -> dict[str, Tensor]:
    """A state dict of VLMo's, by its names: blocks, the table, and some of what is beside them."""
    shapes: dict[str, tuple[int, ...]] = {"relative_position_bias_table": (ROWS, HEADS * DEPTH)}
    for i in range(DEPTH):
        at = f"transformer.blocks.{i}."
        kinds = ("text", "imag", "vl") if i >= PAIR_FROM else ("text", "imag")
        for norm in ("norm1", *(f"norm2_{kind}" for kind in kinds)):
            shapes |= {f"{at}{norm}.weight": (DIM,), f"{at}{norm}.bias": (DIM,)}
        for kind in kinds:
            shapes |= {f"{at}mlp_{kind}.fc1.weight": (4 * DIM, DIM), f"{at}mlp_{kind}.fc1.bias": (4 * DIM,)}
            shapes |= {f"{at}mlp_{kind}.fc2.weight": (DIM, 4 * DIM), f"{at}mlp_{kind}.fc2.bias": (DIM,)}
        shapes |= {f"{at}attn.qkv.weight": (3 * DIM, DIM), f"{at}attn.q_bias": (DIM,), f"{at}attn.v_bias": (DIM,)}
        shapes |= {f"{at}attn.proj.weight": (DIM, DIM), f"{at}attn.proj.bias": (DIM,)}
        shapes |= {f"{at}gamma_1": (DIM,), f"{at}gamma_2": (DIM,)}
    shapes |= {"transformer.norm.weight": (DIM,), "transformer.norm.bias": (DIM,)}
    shapes |= {"transformer.patch_embed.proj.weight": (DIM, 3, 2, 2), "transformer.cls_token": (1, 1, DIM)}
    shapes |= {"text_embeddings.word_embeddings.weight": (7, DIM), "pooler.dense.weight": (DIM, DIM)}
    return {name: value(name, shape) for name, shape in shapes.items()}


def row(query: tuple[str, int], key: tuple[str, int]) -> int:
    """Of the table, for two tokens by kind and place, the class token's being -1."""
    (kind, i), (other, j) = query, key
    if kind != other:
        return OFFSETS + 3 + (0 if kind == "text" else 1)
    last = OFFSETS + 3 if kind == "imag" else ROWS
    if i < 0 and j < 0:
        return last - 1
    if i < 0:
        return last - 3
    if j < 0:
        return last - 2
    if kind == "imag":
        down, right = i // SIDE - j // SIDE, i % SIDE - j % SIDE
        return (down + SIDE - 1) * (2 * SIDE - 1) + right + SIDE - 1
    return OFFSETS + 3 + 2 + (j - i) + WORDS - 1


def vlmo(state: dict[str, Tensor], x: Tensor, real: Tensor, kinds: list[str], pair: bool) -> Tensor:
    """Tokens [B T D] of one kind or of text before image, real [B T] → VLMo's output, in double."""
    state = {name: tensor.double() for name, tensor in state.items()}
    x = x.double()
    places = [(kind, kinds[:t].count(kind) - 1) for t, kind in enumerate(kinds)]
    table = state["relative_position_bias_table"]
    bias = torch.stack([torch.stack([table[row(query, key)] for key in places]) for query in places])
    for i in range(DEPTH):
        part = {name.split(f"blocks.{i}.")[1]: t for name, t in state.items() if f"transformer.blocks.{i}." in name}
        y = norm(x, part, "norm1")
        zero = torch.zeros(DIM, dtype=torch.float64)
        q, k, v = (
            (y @ weight.T + shift).view(*y.shape[:2], HEADS, -1)
            for weight, shift in zip(
                part["attn.qkv.weight"].chunk(3), (part["attn.q_bias"], zero, part["attn.v_bias"]), strict=True
            )
        )
        scores = torch.einsum("bqhe,bkhe->bhqk", q, k) / (DIM // HEADS) ** 0.5
        scores = scores + bias[..., i * HEADS : (i + 1) * HEADS].permute(2, 0, 1)
        weights = scores.masked_fill(~real[:, None, None], float("-inf")).softmax(-1)
        y = torch.einsum("bhqk,bkhe->bqhe", weights, v).flatten(2)
        x = x + part["gamma_1"] * (y @ part["attn.proj.weight"].T + part["attn.proj.bias"])
        columns = []
        for t, kind in enumerate(kinds):
            expert = "vl" if pair and i >= PAIR_FROM else kind
            y = norm(x[:, t], part, f"norm2_{expert}")
            y = F.gelu(y @ part[f"mlp_{expert}.fc1.weight"].T + part[f"mlp_{expert}.fc1.bias"])
            y = y @ part[f"mlp_{expert}.fc2.weight"].T + part[f"mlp_{expert}.fc2.bias"]
            columns.append(x[:, t] + part["gamma_2"] * y)
        x = torch.stack(columns, dim=1)
    return norm(x, {name.removeprefix("transformer."): t for name, t in state.items()}, "norm")


def norm(x: Tensor, part: dict[str, Tensor], name: str) -> Tensor:
    return F.layer_norm(x, (DIM,), part[f"{name}.weight"], part[f"{name}.bias"], eps=1e-6)


def encoder_of(state: dict[str, Tensor], **knobs: Any) -> ExpertsEncoder:
    experts = {"text": ("text",), "image": ("image",)}
    sizes = {"text": (WORDS,), "image": (SIDE, SIDE)}
    encoder, receipt = filled(
        state, **{"experts": experts, "relative_positions": sizes, "pair_from": PAIR_FROM, **knobs}
    )
    assert not any("block" in name for name in (*receipt.unknown, *receipt.unused))
    assert {name.partition(".")[0] for name in receipt.unknown} <= {"text_embeddings", "transformer"}
    return encoder


def streams() -> tuple[TokenBatch, TokenBatch]:
    """Texts of three and six tokens, and two pictures."""
    mask = torch.arange(6) < torch.tensor([3, 6])[:, None]
    text = TokenBatch(torch.randn(2, 6, DIM), mask, "text", num_prefix=1)
    return text, picture(torch.randn(2, 1 + SIDE * SIDE, DIM), (SIDE, SIDE))


@pytest.mark.parametrize("key_bias", [False, True])
@pytest.mark.parametrize("route", ["text", "image", "pair", "text through pair", "image through pair"])
@torch.no_grad()
def test_vlmo(route: str, key_bias: bool) -> None:
    state = published()
    text, image = streams()
    tokens = {"text": text, "image": image, "pair": join([text, image])}[route.split()[0]]
    if "through" in route:
        tokens = tokens._replace(expert="pair")
    kinds = [{"text": "text", "image": "imag"}[part.modality] for part in tokens.parts for _ in range(part.length)]
    expected = vlmo(state, tokens.x, tokens.mask, kinds, "pair" in route)
    found = encoder_of(state, key_bias=key_bias).double()(tokens.with_x(tokens.x.double())).x
    assert_close(found[tokens.mask], expected[tokens.mask])
    single = encoder_of(state, key_bias=key_bias)(tokens).x
    assert_close(single[tokens.mask], expected[tokens.mask].float())


@pytest.mark.parametrize("damage", ["text offsets", "pairs", "class rows", "norm of pairs", "scale"])
@torch.no_grad()
def test_small_mistakes_show(damage: str) -> None:
    """What a wrong table of names could do moves the output far beyond the tolerance."""
    state = published()
    text, image = streams()
    both = join([text, image])
    expected = encoder_of(dict(state))(both).x[both.mask]
    table = state["relative_position_bias_table"].clone()
    if damage == "text offsets":
        table[OFFSETS + 5 : -3] = table[OFFSETS + 5 : -3].flip(0)
    elif damage == "pairs":
        table[OFFSETS + 3 : OFFSETS + 5] = table[OFFSETS + 3 : OFFSETS + 5].flip(0)
    elif damage == "class rows":
        table[OFFSETS : OFFSETS + 2] = table[OFFSETS : OFFSETS + 2].flip(0)
    elif damage == "norm of pairs":
        state["transformer.blocks.3.norm2_vl.weight"] = state["transformer.blocks.3.norm2_text.weight"]
    else:
        first, second = (state[f"transformer.blocks.1.gamma_{i}"] for i in (1, 2))
        state |= {"transformer.blocks.1.gamma_1": second, "transformer.blocks.1.gamma_2": first}
    state["relative_position_bias_table"] = table
    assert (encoder_of(state)(both).x[both.mask] - expected).abs().max() > 100 * TOLERANCE
