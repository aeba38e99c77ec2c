"""Post-norm blocks and the bridge `fusion` compute what BERT, BLIP's text model and ALBEF's fusion layers compute.

The oracles get random weights wide enough for a swapped or forgotten tensor to show; ours start as NaN and are filled
by the loading of published weights alone. Both streams are padded, and compared where they are real.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from metaformer_plugin_fusion.fusion import FusionBridge
from metaformer_plugin_fusion.published import translate_blocks
from safetensors.torch import save_file
from torch import Tensor, nn

from metaformer.encoders.transformer import TransformerEncoder
from metaformer.heads.language import LanguageHead
from metaformer.layers import Block
from metaformer.layers.attention import key_mask
from metaformer.types import TokenBatch
from metaformer.weights.load import load_into
from tests.parity.towers import randomise

TOLERANCE = 1e-5
LENGTHS, SEEN = (7, 5, 2), (3, 9, 6)
SIZES = pytest.mark.parametrize("size", [(64, 48, 4, 4), (768, 1024, 12, 6)], ids=lambda size: f"{size[0]}x{size[3]}")
"""Width, width of the context, heads, depth."""


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def padded(lengths: tuple[int, ...], dim: int, modality: str) -> TokenBatch:
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return TokenBatch(torch.randn(*mask.shape, dim), mask, modality, num_prefix=1)


@torch.no_grad()
def spoiled(module: nn.Module) -> nn.Module:
    """NaN for every value, so that what is not loaded cannot go unnoticed."""
    for parameter in module.parameters():
        parameter.fill_(torch.nan)
    return module.eval()


def assert_close(found: Tensor, expected: Tensor, mask: Tensor) -> None:
    found, expected = found[mask], expected[mask]
    assert expected.std() > 0.5, "the oracle's output is too flat to tell anything"
    difference = (found - expected).abs().max().item()
    assert difference <= TOLERANCE, f"largest difference {difference:.1e}"


def fill(bridge: FusionBridge, state: Mapping[str, Tensor], folder: Path, part: str = "") -> None:
    """Out of a safetensors file, as a recipe's `weights:` does."""
    path = folder / "published.safetensors"
    save_file({key: value.clone() for key, value in state.items()}, path)
    receipt = load_into(bridge, f"file:{path}{part}", name="bridges.fused", translate=bridge.translate)
    path.unlink()  # pytest keeps the folders of its last runs
    assert (receipt.missing, receipt.unknown) == ((), ())
    assert set(receipt.mapped) == set(bridge.state_dict())


# BERT


def bert(dim: int, heads: int, depth: int, drop: float = 0.0) -> nn.Module:
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=50,
        hidden_size=dim,
        intermediate_size=4 * dim,
        num_hidden_layers=depth,
        num_attention_heads=heads,
        hidden_dropout_prob=drop,
        attention_probs_dropout_prob=drop,
        attn_implementation="eager",
    )
    return randomise(BertModel(config, add_pooling_layer=False))


@SIZES
@torch.no_grad()
def test_post_norm_blocks_are_berts(size: tuple[int, int, int, int]) -> None:
    dim, _, heads, depth = size
    oracle, text = bert(dim, heads, depth), padded(LENGTHS, dim, "text")
    encoder = spoiled(TransformerEncoder(dim=dim, depth=depth, num_heads=heads, norm="post", norm_eps=1e-12))
    found = translate_blocks(oracle.state_dict(), depth)
    assert found is not None
    encoder.load_state_dict(found)
    allowed = key_mask(text.mask)
    assert allowed is not None
    y = text.x
    for layer in oracle.encoder.layer:
        y = layer(y, torch.zeros(allowed.shape).masked_fill(~allowed, torch.finfo(torch.float32).min))
    assert_close(encoder(text).x, y, text.mask)


def test_dropout_in_training_is_berts() -> None:
    """The same places are dropped: from one seed both draw alike."""
    oracle = bert(64, 4, 2, drop=0.3).train()
    encoder = TransformerEncoder(dim=64, depth=2, num_heads=4, norm="post", norm_eps=1e-12, drop=0.3).train()
    found = translate_blocks(oracle.state_dict(), 2)
    assert found is not None
    encoder.load_state_dict(found)
    x = torch.randn(3, 6, 64)
    torch.manual_seed(1)
    expected = x
    for layer in oracle.encoder.layer:
        expected = layer(expected)
    torch.manual_seed(1)
    tokens = TokenBatch(x, torch.ones(3, 6, dtype=torch.bool), "text")
    assert_close(encoder(tokens).x, expected, tokens.mask)
    oracle.eval()
    assert (oracle.encoder.layer[0](x) - encoder.eval().blocks[0](x)).abs().max() <= TOLERANCE
    assert (oracle.encoder.layer[0](x) - expected).abs().max() > 0.1


# BLIP, whose text model is ALBEF's with cross-attention in every layer


def blip(dim: int, context: int, heads: int, depth: int) -> nn.Module:
    from transformers import BlipTextConfig
    from transformers.models.blip.modeling_blip_text import BlipTextModel

    config = BlipTextConfig(
        vocab_size=50,
        hidden_size=dim,
        encoder_hidden_size=context,
        intermediate_size=4 * dim,
        num_hidden_layers=depth,
        num_attention_heads=heads,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        layer_norm_eps=1e-12,
        is_decoder=True,  # gives the layers cross-attention; the call below has no causal mask
        attn_implementation="eager",
    )
    return randomise(BlipTextModel(config))


def ask_blip(model: nn.Module, queries: TokenBatch, context: TokenBatch | None, decoder: bool = False) -> Tensor:
    """Samples one by one, each with the real tokens of its context: transformers 5.23 does not hand
    `encoder_attention_mask` on to its cross-attention, which then sees padding as well."""
    rows = []
    for i, (x, mask) in enumerate(zip(queries.x, queries.mask, strict=True)):
        seen = {} if context is None else {"encoder_hidden_states": context.x[i, context.mask[i]][None]}
        out = model(encoder_embeds=x[None], attention_mask=mask[None].long(), is_decoder=decoder, **seen)
        rows.append(out.last_hidden_state)
    return torch.cat(rows)


@pytest.mark.parametrize(
    ("size", "causal"), [((64, 48, 4, 4), False), ((64, 48, 4, 4), True), ((768, 1024, 12, 6), False)]
)
@torch.no_grad()
def test_fusion_is_blips_multimodal_text_model(size: tuple[int, int, int, int], causal: bool, tmp_path: Path) -> None:
    """And its decoder, which is ALBEF's of answers."""
    dim, width, heads, depth = size
    oracle = blip(dim, width, heads, depth)
    bridge = spoiled(FusionBridge({"queries": dim, "context": width}, depth=depth, num_heads=heads, causal=causal))
    state = {f"text_encoder.{key}": value for key, value in oracle.state_dict().items()}
    fill(bridge, state, tmp_path, part="#text_encoder")
    queries, context = padded(LENGTHS, dim, "text"), padded(SEEN, width, "image")
    out = bridge({"queries": queries, "context": context})
    assert_close(out.x, ask_blip(oracle, queries, context, causal), queries.mask)


@torch.no_grad()
def test_two_contexts_are_read_in_turn_as_albef_does_for_two_pictures(tmp_path: Path) -> None:
    """Twelve of its layers, of which each two begin as one of the six that were pre-trained."""
    dim, width, heads, depth = 64, 48, 4, 3
    oracle = blip(dim, width, heads, depth)
    widths = {"queries": dim, "context": width, "other": width}
    bridge = spoiled(FusionBridge(widths, depth=2 * depth, num_heads=heads))
    fill(bridge, oracle.state_dict(), tmp_path)
    queries, left, right = padded((6, 6), dim, "text"), padded((9, 9), width, "image"), padded((5, 5), width, "image")
    x = queries.x
    for layer in oracle.encoder.layer:
        for context in (left, right):
            x = layer(x, encoder_hidden_states=context.x)
    out = bridge({"queries": queries, "context": left, "other": right})
    assert_close(out.x, x, queries.mask)


@torch.no_grad()
def test_samples_without_context_are_blips_text_alone(tmp_path: Path) -> None:
    oracle = blip(64, 48, 4, 3)
    bridge = spoiled(FusionBridge({"queries": 64, "context": 48}, depth=3, num_heads=4))
    fill(bridge, oracle.state_dict(), tmp_path)
    queries, context = padded(LENGTHS, 64, "text"), padded((3, 0, 6), 48, "image")
    out = bridge({"queries": queries, "context": context}).x
    lacking = ~context.present[:, None]
    assert_close(out, ask_blip(oracle, queries, None), queries.mask & lacking)
    there = queries.with_x(queries.x[::2])._replace(mask=queries.mask[::2])
    expected = ask_blip(oracle, there, context._replace(x=context.x[::2], mask=context.mask[::2]))
    assert_close(out[::2], expected, there.mask)


# torchmultimodal


@SIZES
@torch.no_grad()
def test_fusion_is_torchmultimodals_albef(size: tuple[int, int, int, int], tmp_path: Path) -> None:
    pytest.importorskip("torchmultimodal", reason="torchmultimodal is not installed: scripts/setup.sh")
    from torchmultimodal.models.albef import multimodal_encoder as albef

    dim, _, heads, depth = size
    oracle = randomise(
        albef.ALBEFMultimodalEncoder(dim, depth, heads, 4 * dim, layer_norm_eps=1e-12, transform_act_fn=nn.GELU)
    )
    bridge = spoiled(FusionBridge({"queries": dim, "context": dim}, depth=depth, num_heads=heads))
    fill(bridge, oracle.state_dict(), tmp_path)
    queries, context = padded(LENGTHS, dim, "text"), padded(SEEN, dim, "image")
    expected = oracle(queries.x, queries.mask.long(), context.x, context.mask.long())
    assert_close(bridge({"queries": queries, "context": context}).x, expected, queries.mask)


# Sizes


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_albefs_text_and_fusion_have_the_published_size() -> None:
    """123.7 M: BERT's embeddings, six layers for text, six for fusion, and the language head, whose decoder is tied."""
    words, places, kinds, dim = 30522, 512, 2, 768
    embeddings = (words + places + kinds) * dim + 2 * dim
    with torch.device("meta"):
        fusion = FusionBridge({"queries": dim, "context": dim})
        text = TransformerEncoder(dim=dim, depth=6, num_heads=12, norm="post", norm_eps=1e-12)
        head = LanguageHead(dim, {"caption": words}, stream="caption")
    assert all(count(block) == 9_451_776 for block in fusion.blocks if isinstance(block, Block))
    assert count(fusion) == 56_710_656
    assert count(text) == 42_527_232
    assert embeddings == 23_837_184
    language = count(head) - head.decoder.weight.numel()
    assert language == 622_650
    total = embeddings + count(text) + count(fusion) + language
    assert total == 123_697_722
    assert round(total / 1e6, 1) == 123.7
