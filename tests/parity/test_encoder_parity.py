"""Our transformer encoder, filled from every known layout, computes what the source's own code computes.

Each oracle gets random weights wide enough for a swapped or forgotten tensor to show, turns one image into tokens
and tokens into features; ours starts as NaN everywhere, is filled by `load_into` alone, and gets the same tokens.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from metaformer.encoders.transformer import TransformerEncoder
from metaformer.types import TokenBatch
from metaformer.weights.load import load_into
from metaformer.weights.receipt import Receipt

TOLERANCE = 1e-5
IMAGE, PATCH = 64, 16


@dataclass(frozen=True)
class Size:
    dim: int
    depth: int
    heads: int


BASE, LARGE = Size(768, 12, 12), Size(1024, 24, 16)
SLOW = pytest.mark.thorough
"""Half a minute for the same layouts with more of everything."""
WHOLE = pytest.param(LARGE, marks=SLOW)
SIZES = pytest.mark.parametrize("size", [BASE, WHOLE], ids=["base", "large"])


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@contextmanager
def without_memory() -> Iterator[None]:
    """Skip the initialisation of modules whose parameters are about to be overwritten."""
    with torch.device("meta"):
        yield


@torch.no_grad()
def randomise(model: nn.Module) -> nn.Module:
    """Every parameter and persistent buffer gets values that no initialisation would give: norms and biases too."""
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if not tensor.is_floating_point():
            continue
        if tensor.ndim < 2 and name.endswith("weight"):
            tensor.uniform_(0.6, 1.4)
        elif tensor.ndim < 2:
            tensor.uniform_(-0.2, 0.2)
        else:
            width = 1.2 / tensor[0].numel() ** 0.5
            tensor.uniform_(-width, width)
    return model.eval()


def build(make: Callable[[], nn.Module]) -> nn.Module:
    with without_memory():
        model = make()
    return randomise(model.to_empty(device="cpu"))


def ours(size: Size, **knobs: object) -> TransformerEncoder:
    """Our encoder with NaN for every value, so that a tensor that was not loaded cannot go unnoticed."""
    with without_memory():
        encoder = TransformerEncoder(dim=size.dim, depth=size.depth, num_heads=size.heads, **knobs)  # type: ignore[arg-type]
    encoder.to_empty(device="cpu")
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.fill_(torch.nan)
    return encoder.eval()


def fill(encoder: TransformerEncoder, state: dict[str, Tensor], layout: str, size: Size, tmp_path: Path) -> Receipt:
    """Load through a safetensors file at base size, and through the plugins' hook at large, to spare the disk."""
    if size is BASE:
        path = tmp_path / "source.safetensors"
        save_file({key: value.clone() for key, value in state.items()}, path)
        receipt = load_into(encoder, f"file:{path}", name="encoders.shared")
        path.unlink()  # pytest keeps the folders of its last runs
    else:
        receipt = load_into(encoder, "memory:source", name="encoders.shared", plugins=lambda uri: state)
    assert receipt.layout == layout
    assert receipt.missing == ()
    assert receipt.unknown == ()
    assert set(receipt.mapped) == set(encoder.state_dict())
    return receipt


@torch.no_grad()
def run(encoder: TransformerEncoder, x: Tensor) -> Tensor:
    mask = torch.ones(x.shape[:2], dtype=torch.bool)
    return encoder(TokenBatch(x, mask, "image")).x


def assert_close(found: Tensor, expected: Tensor) -> None:
    assert expected.std() > 0.5, "the oracle's output is too flat to tell anything"
    difference = (found - expected).abs().max().item()
    assert difference <= TOLERANCE, f"largest difference {difference:.1e}"


def pixels() -> Tensor:
    return torch.rand(1, 3, IMAGE, IMAGE) * 2 - 1


# timm


def timm_blocks(size: Size) -> nn.Module:
    from timm.models.vision_transformer import Block

    return build(
        lambda: nn.Sequential(
            *(Block(size.dim, size.heads, qkv_bias=True, norm_layer=nn.LayerNorm) for _ in range(size.depth))
        )
    )


@SIZES
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
@torch.no_grad()
def test_published_meta_transformer_layout(size: Size, suffix: str, tmp_path: Path) -> None:
    """A bare list of timm blocks, saved as the published encoders are."""
    oracle, path = timm_blocks(size), tmp_path / f"encoder.{suffix}"
    if suffix == "pth":
        torch.save(oracle.state_dict(), path)
    else:
        save_file(oracle.state_dict(), path)
    encoder = ours(size)
    receipt = load_into(encoder, f"file:{path}", name="encoders.shared")
    assert receipt.layout == "meta_transformer"
    assert (receipt.missing, receipt.unused, receipt.unknown) == ((), {}, ())
    assert len(receipt.mapped) == len(oracle.state_dict()) == 12 * size.depth
    x = torch.randn(1, 17, size.dim)
    assert_close(run(encoder, x), oracle(x))
    path.unlink()


@SIZES
@pytest.mark.parametrize("clip", [False, True], ids=["vit", "clip"])
@torch.no_grad()
def test_timm_vision_transformer(size: Size, clip: bool, tmp_path: Path) -> None:
    import timm

    names = {
        BASE: ("base_patch16_224", "base_patch16_clip_224"),
        LARGE: ("large_patch16_224", "large_patch14_clip_224"),
    }
    oracle = build(lambda: timm.create_model(f"vit_{names[size][clip]}", img_size=IMAGE, patch_size=PATCH))
    encoder = ours(size, norm_in=clip, norm_out=True, norm_eps=1e-5 if clip else 1e-6)
    receipt = fill(encoder, oracle.state_dict(), "timm_vit", size, tmp_path)
    assert set(receipt.unused.values()) == {"a tokenizer", "a head"}
    image = pixels()
    tokens = oracle._pos_embed(oracle.patch_embed(image))
    assert_close(run(encoder, tokens), oracle.forward_features(image))


# open_clip


@SIZES
@torch.no_grad()
def test_open_clip_vision_tower(size: Size, tmp_path: Path) -> None:
    """The whole model at base size, whose text tower must be left alone; the bare tower at large."""
    from open_clip.model import CLIP
    from open_clip.transformer import VisionTransformer

    vision = {"image_size": IMAGE, "patch_size": PATCH, "width": size.dim, "layers": size.depth}
    if size is BASE:
        text = {"width": 64, "heads": 2, "layers": 2, "vocab_size": 100, "context_length": 8}
        model = build(lambda: CLIP(embed_dim=32, vision_cfg=vision, text_cfg=text))
        tower = model.visual
    else:
        tower = model = build(lambda: VisionTransformer(**vision, heads=size.heads, mlp_ratio=4.0, output_dim=32))
    encoder = ours(size, norm_in=True, norm_out=True)
    receipt = fill(encoder, model.state_dict(), "open_clip", size, tmp_path)
    expected = {"a tokenizer", "a head"} | ({"a text tower"} if size is BASE else set())
    assert set(receipt.unused.values()) == expected

    seen: dict[str, Tensor] = {}
    tower.ln_pre.register_forward_pre_hook(lambda module, args: seen.update(tokens=args[0]))
    tower.transformer.register_forward_hook(lambda module, args, out: seen.update(features=out))
    tower(pixels())
    assert_close(run(encoder, seen["tokens"]), tower.ln_post(seen["features"]))


# transformers


VIT_OLD_NAMES = (
    (r"^layers\.(\d+)\.attention\.q_proj", r"encoder.layer.\1.attention.attention.query"),
    (r"^layers\.(\d+)\.attention\.k_proj", r"encoder.layer.\1.attention.attention.key"),
    (r"^layers\.(\d+)\.attention\.v_proj", r"encoder.layer.\1.attention.attention.value"),
    (r"^layers\.(\d+)\.attention\.o_proj", r"encoder.layer.\1.attention.output.dense"),
    (r"^layers\.(\d+)\.mlp\.fc1", r"encoder.layer.\1.intermediate.dense"),
    (r"^layers\.(\d+)\.mlp\.fc2", r"encoder.layer.\1.output.dense"),
    (r"^layers\.(\d+)\.", r"encoder.layer.\1."),
)


def rename(state: dict[str, Tensor], rules: tuple[tuple[str, str], ...], prefix: str) -> dict[str, Tensor]:
    """The names files on the hub have, which transformers 5 converts while it loads."""
    renamed = {}
    for key, value in state.items():
        for pattern, new in rules:
            key, count = re.subn(pattern, new, key)
            if count:
                break
        renamed[prefix + key] = value
    return renamed


@pytest.mark.parametrize(
    ("size", "generation"),
    [(BASE, "new"), (BASE, "new_task"), (BASE, "old"), (BASE, "old_task"), pytest.param(LARGE, "old", marks=SLOW)],
    ids=lambda value: {BASE: "base", LARGE: "large"}.get(value, value),
)
@torch.no_grad()
def test_huggingface_vit(size: Size, generation: str, tmp_path: Path) -> None:
    from transformers import ViTConfig, ViTModel

    config = ViTConfig(
        hidden_size=size.dim,
        num_hidden_layers=size.depth,
        num_attention_heads=size.heads,
        intermediate_size=4 * size.dim,
        image_size=IMAGE,
        patch_size=PATCH,
        attn_implementation="eager",
    )
    oracle = build(lambda: ViTModel(config))
    prefix = "vit." if generation.endswith("task") else ""
    rules = VIT_OLD_NAMES if generation.startswith("old") else ()
    state = rename(oracle.state_dict(), rules, prefix)
    if rules:
        assert f"{prefix}encoder.layer.0.attention.attention.query.weight" in state
    encoder = ours(size, norm_out=True, norm_eps=config.layer_norm_eps)
    layout = "huggingface_vit_old" if rules else "huggingface_vit"
    receipt = fill(encoder, state, layout, size, tmp_path)
    assert len(receipt.mapped["blocks.0.attn.qkv.weight"]) == 3
    image = pixels()
    expected = oracle(image).last_hidden_state
    assert_close(run(encoder, oracle.embeddings(image)), expected)


@pytest.mark.parametrize(
    ("size", "generation", "activation"),
    [
        (BASE, "new", "gelu"),
        (BASE, "new", "quick_gelu"),
        (BASE, "old", "gelu"),
        (BASE, "old", "quick_gelu"),
        pytest.param(LARGE, "old", "quick_gelu", marks=SLOW),
    ],
    ids=lambda value: {BASE: "base", LARGE: "large"}.get(value, value),
)
@torch.no_grad()
def test_huggingface_clip_vision(size: Size, generation: str, activation: str, tmp_path: Path) -> None:
    from transformers import CLIPVisionConfig, CLIPVisionModel

    config = CLIPVisionConfig(
        hidden_size=size.dim,
        num_hidden_layers=size.depth,
        num_attention_heads=size.heads,
        intermediate_size=4 * size.dim,
        image_size=IMAGE,
        patch_size=PATCH,
        hidden_act=activation,
        attn_implementation="eager",
    )
    oracle = build(lambda: CLIPVisionModel(config))
    # Position ids are counted, not learned: building without memory leaves them unset.
    oracle.embeddings.position_ids.copy_(torch.arange(oracle.embeddings.num_positions))
    state = rename(oracle.state_dict(), (), "vision_model." if generation == "old" else "")
    encoder = ours(size, norm_in=True, norm_out=True, activation=activation)
    fill(encoder, state, "huggingface_clip", size, tmp_path)
    image = pixels()
    expected = oracle.post_layernorm(oracle(image).last_hidden_state)
    assert_close(run(encoder, oracle.embeddings(image)), expected)


# The tests above can fail


@pytest.mark.parametrize("damage", ["swap q and k", "norms of the last block", "one bias"])
@torch.no_grad()
def test_small_mistakes_show(damage: str) -> None:
    """What a wrong table could do to one block moves the output far beyond the tolerance."""
    oracle = timm_blocks(BASE)
    state = dict(oracle.state_dict())
    if damage == "swap q and k":
        q, k, v = state["11.attn.qkv.weight"].chunk(3)
        state["11.attn.qkv.weight"] = torch.cat([k, q, v])
    elif damage == "norms of the last block":
        state["11.norm1.weight"], state["11.norm2.weight"] = state["11.norm2.weight"], state["11.norm1.weight"]
    else:
        state["11.mlp.fc2.bias"] = torch.zeros_like(state["11.mlp.fc2.bias"])
    encoder = ours(BASE)
    load_into(encoder, "memory:damaged", name="encoders.shared", plugins=lambda uri: state)
    x = torch.randn(1, 17, BASE.dim)
    assert (run(encoder, x) - oracle(x)).abs().max() > 100 * TOLERANCE
