"""Fusion and concatenation: what they compute, what samples without a stream give, and which weights they take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from metaformer_plugin_fusion.concatenate import ConcatenateBridge
from metaformer_plugin_fusion.fusion import FusionBridge
from metaformer_plugin_fusion.published import BERT, LAYOUTS
from safetensors.torch import save_file
from torch import Tensor

from metaformer.errors import MetaformerError, WeightsError
from metaformer.layers import Block
from metaformer.types import Part, TokenBatch
from metaformer.weights.load import load_into
from metaformer.weights.receipt import Receipt

WIDTHS = {"queries": 8, "context": 6}
KNOBS = {"depth": 2, "num_heads": 2}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def tokens(dim: int, lengths: tuple[int, ...], modality: str = "text", prefix: int = 1) -> TokenBatch:
    """Rows of so many real tokens; padding holds large numbers."""
    mask = torch.arange(max(*lengths, 1)) < torch.tensor(lengths)[:, None]
    x = torch.where(mask[:, :, None], torch.randn(*mask.shape, dim), torch.tensor(100.0))
    return TokenBatch(x, mask, modality, ids=torch.arange(mask.shape[1]).expand(mask.shape), num_prefix=prefix)


def lively(bridge: FusionBridge) -> FusionBridge:
    """Weights large enough for a part that is left out to show."""
    with torch.no_grad():
        for parameter in bridge.parameters():
            parameter.uniform_(-0.6, 0.6).add_(0.5 if parameter.ndim == 1 else 0.0)
    return bridge.eval()


# Fusion.


def test_the_queries_keep_what_they_are():
    queries, context = tokens(8, (4, 2)), tokens(6, (3, 5), "image")
    out = FusionBridge(WIDTHS, **KNOBS)({"context": context, "queries": queries})
    assert out.x.shape == (2, 4, 8)
    assert (out.mask is queries.mask, out.ids is queries.ids) == (True, True)
    assert (out.modality, out.num_prefix) == ("text", 1)


def test_two_contexts_share_what_makes_keys_and_values_of_them():
    bridge = FusionBridge({**WIDTHS, "other": 6}, **KNOBS)
    names = [name for name, _ in bridge.named_parameters()]
    assert "blocks.0.cross.kv.weight" in names
    assert "blocks.1.cross.kv.weight" not in names
    assert bridge.blocks[1].cross.kv is bridge.blocks[0].cross.kv
    queries, left, right = tokens(8, (3,)), tokens(6, (5,), "image"), tokens(6, (4,), "image")
    out, swapped = (
        lively(bridge)({"queries": queries, "context": one, "other": two}).x
        for one, two in ((left, right), (right, left))
    )
    assert not out.allclose(swapped)


@pytest.mark.parametrize(
    ("knobs", "width"), [({"depth": 3}, 6), ({"depth": 4, "cross_every": 2}, 6), ({"depth": 4}, 7)]
)
def test_two_contexts_need_an_even_depth_and_one_width(knobs, width):
    with pytest.raises(MetaformerError, match="even depth"):
        FusionBridge({**WIDTHS, "other": width}, num_heads=2, **knobs)


def test_it_is_bert_between_two_streams():
    """SA over the queries, CA of queries to context, MLP, each in x = norm(x + f(x))."""
    bridge = lively(FusionBridge(WIDTHS, **KNOBS))
    queries, context = tokens(8, (3,)), tokens(6, (5,), "image")
    y = queries.x
    for block in bridge.blocks:
        assert isinstance(block, Block)
        assert block.cross is not None
        assert block.norm_cross is not None
        y = block.norm1(y + block.attn(y))
        y = block.norm_cross(y + block.cross(y, context=context.x))
        y = block.norm2(y + block.mlp(y))
    torch.testing.assert_close(bridge({"queries": queries, "context": context}).x, y)


def test_cross_attention_in_every_so_many_blocks():
    bridge = FusionBridge(WIDTHS, depth=5, num_heads=2, cross_every=2)
    assert [block.cross is not None for block in bridge.blocks] == [True, False, True, False, True]  # type: ignore[union-attr]
    assert bridge.blocks[0].cross.kv.in_features == 6  # type: ignore[union-attr]


@pytest.mark.parametrize("norm", ["post", "pre"])
def test_a_sample_without_context_passes_as_the_queries_alone(norm):
    bridge = lively(FusionBridge(WIDTHS, norm=norm, **KNOBS))
    queries, context = tokens(8, (4, 3, 2)), tokens(6, (3, 0, 5), "image")
    out = bridge({"queries": queries, "context": context})
    y = queries.x[1:2, :3]
    for block in bridge.blocks:
        plain = Block(8, 2, norm=norm, norm_eps=1e-12)
        plain.load_state_dict({k: v for k, v in block.state_dict().items() if "cross" not in k})
        y = plain(y)
    torch.testing.assert_close(out.x[1:2, :3], y)
    other = bridge({"queries": queries, "context": context._replace(x=context.x.flip(0))})
    assert torch.equal(other.x[1], out.x[1])
    assert not torch.allclose(other.x[0], out.x[0])


def test_a_sample_without_queries_has_no_real_token():
    out = FusionBridge(WIDTHS, **KNOBS)({"queries": tokens(8, (4, 0)), "context": tokens(6, (3, 5), "image")})
    assert out.present.tolist() == [True, False]
    assert out.x.isfinite().all()


def test_a_batch_without_any_context_reaches_every_parameter_with_a_zero():
    bridge = FusionBridge(WIDTHS, **KNOBS)
    bridge({"queries": tokens(8, (4, 2)), "context": tokens(6, (0, 0), "image")}).x.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in bridge.parameters())
    assert all(not p.grad.any() for name, p in bridge.named_parameters() if "cross" in name)


@pytest.mark.parametrize("roles", [("queries",), ("queries", "context", "more"), ("text", "image"), ()])
def test_other_roles_are_refused(roles):
    with pytest.raises(MetaformerError, match="queries: STREAM, context: STREAM"):
        FusionBridge(dict.fromkeys(roles, 8))


# Weights.


def published(
    blocks: int, prefix: str = "text_encoder.bert.encoder.layer.", *, cross: bool = True, layout=BERT
) -> dict[str, Tensor]:
    """A state dict in the layout of ALBEF's text encoder, with the sizes of `WIDTHS`."""
    rows = {"mlp.fc1": 32}
    columns = {"mlp.fc2": 32, "cross.kv": 6}
    out = {}
    for i in range(blocks):
        for ours, theirs in layout.items():
            if "cross" in ours and not cross:
                continue
            for name in theirs:
                shape = (rows.get(ours, 8),) if "norm" in ours else (rows.get(ours, 8), columns.get(ours, 8))
                out[f"{prefix}{i}.{name}.weight"] = torch.randn(shape)
                out[f"{prefix}{i}.{name}.bias"] = torch.randn(rows.get(ours, 8))
    return out


@pytest.mark.parametrize("layout", LAYOUTS, ids=["bert", "torchmultimodal"])
@pytest.mark.parametrize("prefix", ["", "encoder.layer.", "text_encoder.bert.encoder.layer."])
def test_published_blocks_come_under_any_prefix(layout, prefix):
    bridge, source = FusionBridge(WIDTHS, **KNOBS), published(2, prefix, layout=layout)
    others = {"bert.embeddings.word_embeddings.weight": torch.zeros(3, 8), "visual_encoder.blocks.0.x": torch.zeros(1)}
    found = bridge.translate(source | others)
    assert found.keys() == bridge.state_dict().keys()
    bridge.load_state_dict(dict(found))
    block = bridge.blocks[1]
    keys = [source[f"{prefix}1.{name}.weight"] for name in layout["cross.kv"]]
    assert torch.equal(block.cross.kv.weight, torch.cat(keys))
    assert torch.equal(block.norm_cross.bias, source[f"{prefix}1.{layout['norm_cross'][0]}.bias"])
    assert torch.equal(block.norm2.weight, source[f"{prefix}1.{layout['norm2'][0]}.weight"])


def test_names_of_ours_pass_unchanged():
    bridge = FusionBridge(WIDTHS, **KNOBS)
    state = bridge.state_dict()
    assert bridge.translate(state) is state


def test_bert_has_no_cross_attention():
    bridge = FusionBridge(WIDTHS, **KNOBS)
    found = bridge.translate(published(2, cross=False))
    assert bridge.state_dict().keys() - found.keys() == {name for name in bridge.state_dict() if "cross" in name}
    assert found.keys() <= bridge.state_dict().keys()


def test_what_else_is_in_a_block_stays_for_the_loading_to_refuse():
    source = published(2) | {
        "text_encoder.bert.encoder.layer.1.attention.self.distance_embedding.weight": torch.ones(2)
    }
    assert "blocks.1.attention.self.distance_embedding.weight" in FusionBridge(WIDTHS, **KNOBS).translate(source)


def dropped(state: dict[str, Tensor], end: str) -> dict[str, Tensor]:
    assert any(key.endswith(end) for key in state)
    return {key: value for key, value in state.items() if not key.endswith(end)}


REFUSED = {
    "more blocks": (published(4), "4 blocks, and 2 here"),
    "more blocks, told which": (published(4), "layer.2-3"),
    "fewer blocks": (published(1), "depth: 1"),
    "not from 0": ({k.replace(".0.", ".6.").replace(".1.", ".7."): v for k, v in published(2).items()}, "blocks 6, 7"),
    "two stacks": (published(2) | published(2, "text_encoder_m.bert.encoder.layer."), "2 parts"),
    "no key": (dropped(published(2), "1.crossattention.self.key.weight"), "block 1 lacks crossattention.self.key"),
    "other widths": (
        published(2) | {"text_encoder.bert.encoder.layer.0.attention.self.key.weight": torch.ones(4, 8)},
        "cannot be joined",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_weights_that_do_not_fit_are_refused(case):
    source, told = REFUSED[case]
    with pytest.raises(WeightsError, match=told):
        FusionBridge(WIDTHS, **KNOBS).translate(source)


def test_post_norm_weights_do_not_go_into_pre_norm_blocks():
    with pytest.raises(WeightsError, match="norm: post"):
        FusionBridge(WIDTHS, norm="pre", **KNOBS).translate(published(2))


LAYERS = "text_encoder.bert.encoder.layer"


def load(folder: Path, state: dict[str, Tensor], part: str, **knobs: Any) -> tuple[FusionBridge, Receipt]:
    """Out of a file, as a recipe's `weights:` does."""
    save_file(state, folder / "albef.safetensors")
    bridge = FusionBridge(WIDTHS, depth=2, num_heads=2)
    uri = f"file:{folder / 'albef.safetensors'}#{part}"
    return bridge, load_into(bridge, uri, name="bridges.fused", translate=bridge.translate, **knobs)


@pytest.mark.parametrize("part", [f"{LAYERS}.2-3", f"{LAYERS}_m.0-1"])
def test_the_upper_blocks_of_albef_load_with_a_receipt(tmp_path, part):
    state = published(4) | published(2, f"{LAYERS}_m.") | {"visual_encoder.blocks.0.attn.qkv.weight": torch.ones(24, 8)}
    bridge, receipt = load(tmp_path, state, part)
    assert receipt.missing == ()
    assert set(receipt.mapped) == set(bridge.state_dict())
    path, _, last = part.rpartition(".")
    query = state[f"{path}.{last[-1]}.crossattention.self.query.weight"]
    assert torch.equal(bridge.blocks[1].cross.q.weight, query)


def test_berts_upper_blocks_load_where_cross_attention_may_be_new(tmp_path):
    state = {k.replace("LayerNorm.weight", "LayerNorm.gamma"): v for k, v in published(4, cross=False).items()}
    state = {k.replace("LayerNorm.bias", "LayerNorm.beta"): v for k, v in state.items()}
    with pytest.raises(WeightsError, match="missing 16 of"):
        load(tmp_path, state, f"{LAYERS}.2-3")
    bridge, receipt = load(tmp_path, state, f"{LAYERS}.2-3", allow_missing=["*cross*"])
    assert set(receipt.missing) == {name for name in bridge.state_dict() if "cross" in name}
    assert torch.equal(bridge.blocks[1].norm2.weight, state[f"{LAYERS}.3.output.LayerNorm.gamma"])


def test_what_blocks_have_no_place_for_is_refused(tmp_path):
    state = published(2) | {f"{LAYERS}.1.attention.self.distance_embedding.weight": torch.ones(2)}
    with pytest.raises(WeightsError, match="no place"):
        load(tmp_path, state, LAYERS)


# Concatenation.


def test_tokens_follow_one_another_in_the_recipes_order():
    left, right = tokens(8, (3, 0), "text"), tokens(8, (2, 4), "image", prefix=0)._replace(grid=(2, 2), ids=None)
    out = ConcatenateBridge({"left": 8, "right": 8})({"right": right, "left": left})
    assert out.x.shape == (2, 7, 8)
    assert out.modality == "text+image"
    assert out.joined == (Part("text", 3, 1, None), Part("image", 4, 0, (2, 2)))
    assert (out.num_prefix, out.ids, out.positions) == (1, None, None)
    assert torch.equal(out.x[0, :5], torch.cat([left.x[0, :3], right.x[0, :2]]))
    assert out.mask.sum(dim=1).tolist() == [5, 4]
    assert not out.x[1, :3].any(), "a stream that is not there is 0"


def test_a_joint_sequence_keeps_ids_positions_and_the_parts_of_its_parts():
    a, b = tokens(8, (3,)), tokens(8, (2,))
    a, b = (t._replace(positions=torch.ones(t.x.shape[1:])) for t in (a, b))
    pair = ConcatenateBridge({"a": 8, "b": 8})({"a": a, "b": b})
    assert pair.ids is not None
    assert pair.ids.tolist() == [[0, 1, 2, 0, 1]]
    assert pair.positions is not None
    assert pair.positions.shape == (1, 5, 8)
    three = ConcatenateBridge({"a": 8, "b": 8})({"a": pair, "b": b})
    assert [part.length for part in three.joined] == [3, 2, 2]


def test_features_are_vectors_side_by_side():
    left, right = tokens(8, (3, 2, 0)), tokens(6, (2, 0, 0), "image", prefix=0)
    bridge = ConcatenateBridge({"left": 8, "right": 6}, by="features")
    out = bridge({"left": left, "right": right})
    assert (bridge.dim, out.x.shape, out.num_prefix) == (14, (3, 1, 14), 1)
    assert out.mask.tolist() == [[True], [True], [False]]
    assert torch.equal(out.x[:2, 0, :8], left.x[:2, 0])
    torch.testing.assert_close(out.x[0, 0, 8:], right.x[0, :2].mean(dim=0))
    assert not out.x[1, 0, 8:].any()
    assert not out.x[2].any()
    mean = ConcatenateBridge({"left": 8, "right": 6}, by="features", pool="mean")({"left": left, "right": right})
    torch.testing.assert_close(mean.x[0, 0, :8], left.x[0, :3].mean(dim=0))
    first = ConcatenateBridge({"left": 8, "right": 6}, by="features", pool="cls")({"left": left, "right": right})
    assert torch.equal(first.x[0, 0, 8:], right.x[0, 0])


def test_one_pooler_reads_every_stream_and_loads_from_bert():
    bridge = ConcatenateBridge({"left": 8, "right": 8}, by="features", pooler=True)
    source = {"bert.pooler.dense.weight": torch.randn(8, 8), "bert.pooler.dense.bias": torch.randn(8)}
    bridge.load_state_dict(dict(bridge.translate(source | {"bert.embeddings.x": torch.ones(1)})))
    left, right = tokens(8, (3, 2)), tokens(8, (2, 0), "image")
    out = bridge({"left": left, "right": right})
    weight, bias = source.values()
    torch.testing.assert_close(out.x[:, 0, :8], torch.tanh(left.x[:, 0] @ weight.T + bias))
    assert not out.x[1, 0, 8:].any()
    with pytest.raises(WeightsError, match="2 of them"):
        bridge.translate({"a.pooler.dense.weight": torch.ones(1), "b.pooler.dense.weight": torch.ones(1)})
    assert bridge.translate(bridge.state_dict()).keys() == bridge.state_dict().keys()


@pytest.mark.parametrize(
    ("widths", "knobs", "told"),
    [
        ({"a": 8, "b": 6}, {}, "by: features"),
        ({"a": 8, "b": 6}, {"by": "features", "pooler": True}, "pooler: false"),
        ({"a": 8, "b": 8}, {"pooler": True}, "by: features"),
        ({"a": 8, "b": 8}, {"pool": "mean"}, "by: features"),
        ({}, {}, "no roles"),
    ],
)
def test_knobs_that_make_no_sense_are_refused(widths, knobs, told):
    with pytest.raises(MetaformerError, match=told):
        ConcatenateBridge(widths, **knobs)
