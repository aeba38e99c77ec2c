"""Attention, MLP, block: masks, empty rows, parity with torch, identity of zero branches."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from metaformer.layers import MLP, Attention, Block, DropPath, attend
from metaformer.layers.attention import attention_weights, key_mask
from metaformer.layers.lora import LoraLinear


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def heads(b=2, h=3, t=5, s=7, k=4, dtype=torch.float64):
    return [torch.randn(b, h, n, k, dtype=dtype) for n in (t, s, s)]


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("biased", [False, True])
def test_attend_equals_torch(masked, biased):
    q, k, v = heads()
    mask = (torch.rand(2, 1, 5, 7) > 0.4) if masked else None
    if mask is not None:
        mask[..., 0] = True
    bias = torch.randn(1, 3, 5, 7, dtype=torch.float64) if biased else None
    merged = bias
    if mask is not None:
        merged = torch.zeros(2, 3, 5, 7, dtype=torch.float64) if bias is None else bias.expand(2, 3, 5, 7)
        merged = merged.masked_fill(~mask, float("-inf"))
    expected = F.scaled_dot_product_attention(q, k, v, attn_mask=merged)
    torch.testing.assert_close(attend(q, k, v, mask, bias), expected)


def test_rows_without_keys_are_zero_with_finite_gradients():
    q, k, v = (x.requires_grad_() for x in heads())
    mask = torch.ones(2, 1, 5, 7, dtype=torch.bool)
    mask[0, :, 2] = False
    mask[1] = False
    out = attend(q, k, v, mask)
    assert (out[0, :, 2] == 0).all()
    assert (out[1] == 0).all()
    out.sum().backward()
    assert all(x.grad.isfinite().all() for x in (q, k, v))
    assert (k.grad[1] == 0).all()


def test_attention_weights_are_those_attend_uses():
    q, k, v = heads()
    mask = torch.rand(2, 1, 1, 7) > 0.3
    weights = attention_weights(q, k, mask)
    torch.testing.assert_close(weights @ v, attend(q, k, v, mask))
    torch.testing.assert_close(weights.sum(-1), mask.any(-1).expand(2, 3, 5).double())


def test_key_mask_is_none_only_where_nothing_is_padded():
    assert key_mask(torch.ones(2, 3, dtype=torch.bool)) is None
    mask = torch.tensor([[True, False]])
    assert key_mask(mask).shape == (1, 1, 1, 2)


def test_self_attention_equals_torch_multihead():
    ours, theirs = Attention(12, 3), nn.MultiheadAttention(12, 3, batch_first=True)
    theirs.in_proj_weight.data.copy_(ours.qkv.weight)
    theirs.in_proj_bias.data.copy_(ours.qkv.bias)
    theirs.out_proj.load_state_dict(ours.proj.state_dict())
    x = torch.randn(2, 6, 12)
    torch.testing.assert_close(ours(x), theirs(x, x, x)[0], atol=1e-6, rtol=1e-5)


def test_cross_attention_equals_torch_multihead():
    ours = Attention(12, 3, context_dim=8)
    theirs = nn.MultiheadAttention(12, 3, batch_first=True, kdim=8, vdim=8)
    k, v = ours.kv.weight.chunk(2)
    theirs.q_proj_weight.data.copy_(ours.q.weight)
    theirs.k_proj_weight.data.copy_(k)
    theirs.v_proj_weight.data.copy_(v)
    theirs.in_proj_bias.data.copy_(torch.cat([ours.q.bias, ours.kv.bias]))
    theirs.out_proj.load_state_dict(ours.proj.state_dict())
    x, context = torch.randn(2, 6, 12), torch.randn(2, 4, 8)
    torch.testing.assert_close(ours(x, context=context), theirs(x, context, context)[0], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("biased", [False, True])
def test_a_learned_key_and_value_equal_torch_multihead(padded, biased):
    ours = Attention(12, 3, bias_kv=True)
    theirs = nn.MultiheadAttention(12, 3, batch_first=True, add_bias_kv=True)
    theirs.in_proj_weight.data.copy_(ours.qkv.weight)
    theirs.in_proj_bias.data.copy_(ours.qkv.bias)
    theirs.out_proj.load_state_dict(ours.proj.state_dict())
    theirs.bias_k.data.copy_(ours.bias_k)
    theirs.bias_v.data.copy_(ours.bias_v)
    x = torch.randn(2, 6, 12)
    present = torch.tensor([[True] * 6, [True] * 3 + [False] * 3]) if padded else None
    bias = torch.randn(2, 3, 6, 6) if biased else None
    # Both of torch's masks are added to the scores: true, or -inf, is what may not be looked at.
    padding = None if present is None else torch.zeros(2, 6).masked_fill(~present, float("-inf"))
    added = None if bias is None else bias.flatten(0, 1)
    expected = theirs(x, x, x, key_padding_mask=padding, attn_mask=added, need_weights=False)[0]
    found = ours(x, None if present is None else key_mask(present), bias)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
    found.square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in (ours.bias_k, ours.bias_v))


def test_the_learned_value_is_all_that_a_row_without_keys_sees():
    layer = Attention(12, 3, bias_kv=True)
    out = layer(torch.randn(2, 4, 12), torch.zeros(2, 1, 1, 4, dtype=torch.bool))
    torch.testing.assert_close(out, layer.proj(layer.bias_v).expand(2, 4, 12))


def test_where_a_layer_with_a_learned_key_looks():
    layer, x = Attention(12, 3, bias_kv=True), torch.randn(2, 4, 12)
    q, k, v = layer.project(x)
    assert k.shape == v.shape == (2, 3, 5, 4)
    out = (attention_weights(q, k) @ v).transpose(1, 2).flatten(2)
    torch.testing.assert_close(layer.proj(out), layer(x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_learned_key_under_autocast_and_on_the_meta_device(dtype):
    layer, x = Attention(12, 3, bias_kv=True), torch.randn(2, 4, 12)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        out = layer(x, torch.tensor([[True, True, False, False]] * 2)[:, None, None])
    assert out.dtype == dtype
    assert out.isfinite().all()
    with torch.device("meta"):
        assert Attention(12, 3, bias_kv=True)(torch.randn(2, 4, 12)).is_meta


def test_attention_refuses_a_width_its_heads_do_not_divide():
    with pytest.raises(ValueError, match="not divisible"):
        Attention(10, 3)


def test_context_goes_with_cross_attention_only():
    with pytest.raises(ValueError, match="context"):
        Attention(8, 2)(torch.randn(1, 2, 8), context=torch.randn(1, 2, 8))


@pytest.mark.parametrize("activation", ["gelu", "quick_gelu", "relu", "relu2", "swiglu"])
def test_mlp_shapes_and_activations_differ(activation):
    torch.manual_seed(1)
    mlp = MLP(8, 16, activation=activation)
    out = mlp(torch.randn(2, 3, 8))
    assert out.shape == (2, 3, 8)
    assert mlp.fc1.out_features == (32 if activation == "swiglu" else 16)


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_block_is_the_formula(norm):
    block = Block(8, 2, norm=norm, layer_scale=0.5)
    x = torch.randn(2, 3, 8)
    if norm == "pre":
        y = x + 0.5 * block.attn(block.norm1(x))
        y = y + 0.5 * block.mlp(block.norm2(y))
    else:
        y = block.norm1(x + 0.5 * block.attn(x))
        y = block.norm2(y + 0.5 * block.mlp(y))
    torch.testing.assert_close(block(x), y)


def test_post_norm_block_equals_torch_encoder_layer():
    block = Block(8, 2, norm="post", activation="gelu")
    theirs = nn.TransformerEncoderLayer(8, 2, 32, 0.0, F.gelu, batch_first=True)
    theirs.self_attn.in_proj_weight.data.copy_(block.attn.qkv.weight)
    theirs.self_attn.in_proj_bias.data.copy_(block.attn.qkv.bias)
    theirs.self_attn.out_proj.load_state_dict(block.attn.proj.state_dict())
    theirs.linear1.load_state_dict(block.mlp.fc1.state_dict())
    theirs.linear2.load_state_dict(block.mlp.fc2.state_dict())
    x = torch.randn(2, 5, 8)
    torch.testing.assert_close(block(x), theirs(x), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("scale", [None, 0.5])
def test_block_with_cross_attention_is_the_formula(norm, scale):
    block = Block(8, 2, norm=norm, layer_scale=scale, context_dim=6, bias_kv=True)
    x, context, factor = torch.randn(2, 3, 8), torch.randn(2, 5, 6), 1.0 if scale is None else scale
    branches = [
        (block.norm1, block.attn),
        (block.norm_cross, lambda y: block.cross(y, context=context)),
        (block.norm2, block.mlp),
    ]
    y = x
    for normed, branch in branches:
        y = y + factor * branch(normed(y)) if norm == "pre" else normed(y + factor * branch(y))
    torch.testing.assert_close(block(x, context=context), y)
    assert ("gamma_cross" in dict(block.named_parameters())) == (scale is not None)


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_without_context_tokens_pass_as_if_there_were_no_cross_attention(norm):
    block, plain = Block(8, 2, norm=norm, context_dim=6), Block(8, 2, norm=norm)
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.5)
    plain.load_state_dict({k: v for k, v in block.state_dict().items() if "cross" not in k})
    x, context = torch.randn(3, 4, 8), torch.randn(3, 5, 6, requires_grad=True)
    samples = torch.tensor([[True] * 5, [False] * 5, [True, True, False, False, False]])[:, None, None]
    out = block(x, context=context, context_mask=samples)
    torch.testing.assert_close(out[1], plain(x)[1])
    torch.testing.assert_close(out[:1], block(x[:1], context=context[:1]))
    torch.testing.assert_close(out[2:], block(x[2:], context=context[2:, :2]))
    out.square().sum().backward()
    assert (context.grad[1] == 0).all()
    assert context.grad[0].abs().sum() > 0
    assert all(p.grad.isfinite().all() for p in block.parameters())
    # Token by token: the last ones may look at the context, the first ones come before it.
    tokens = (torch.arange(4) >= 2)[None, None, :, None].expand(3, 1, 4, 5)
    after = block(x, context=context, context_mask=tokens)
    torch.testing.assert_close(after[:, :2], plain(x)[:, :2])
    assert not torch.allclose(after[:, 2:], plain(x)[:, 2:])


def test_a_block_takes_a_context_where_it_has_cross_attention_only():
    x = torch.randn(1, 2, 8)
    with pytest.raises(ValueError, match="context"):
        Block(8, 2)(x, context=x)
    with pytest.raises(ValueError, match="context"):
        Block(8, 2, context_dim=8)(x)


def test_pre_norm_drops_attention_weights_and_the_mlps_output_alone():
    block, x = Block(8, 2, drop=0.4), torch.randn(2, 3, 8)
    torch.manual_seed(1)
    found = block(x)
    torch.manual_seed(1)
    y = x + block.attn(block.norm1(x))
    assert torch.equal(found, y + block.mlp(block.norm2(y)))


def test_post_norm_drops_what_attention_gives_as_well():
    block, x, context = Block(8, 2, norm="post", drop=0.4, context_dim=6), torch.randn(2, 3, 8), torch.randn(2, 4, 6)
    torch.manual_seed(1)
    found = block(x, context=context)
    torch.manual_seed(1)
    y = block.norm1(x + F.dropout(block.attn(x), 0.4))
    y = block.norm_cross(y + F.dropout(block.cross(y, context=context), 0.4))
    torch.testing.assert_close(found, block.norm2(y + block.mlp(y)))


def test_zero_layer_scale_is_the_identity():
    x = torch.randn(2, 3, 8)
    assert torch.equal(Block(8, 2, layer_scale=0.0)(x), x)


def test_drop_path_drops_whole_samples_and_keeps_the_mean():
    drop, x = DropPath(0.25), torch.ones(4000, 2, 3)
    out = drop(x)
    assert out.unique().tolist() == pytest.approx([0.0, 1 / 0.75])
    assert (out.flatten(1).std(dim=1) == 0).all()
    assert out.mean().item() == pytest.approx(1.0, abs=0.05)
    assert torch.equal(drop.eval()(x), x)


def test_lora_starts_as_the_layer_it_replaces_and_merges():
    linear = nn.Linear(6, 4)
    lora = LoraLinear.replace(linear, rank=2, alpha=8.0, dropout=0.0)
    x = torch.randn(5, 6)
    assert torch.equal(lora(x), linear(x))
    assert lora.weight is linear.weight
    nn.init.normal_(lora.lora_b)
    merged = F.linear(x, lora.merged_weight(), lora.bias)
    torch.testing.assert_close(lora(x), merged)
    assert not torch.allclose(lora(x), linear(x))


def test_lora_equals_peft():
    peft = pytest.importorskip("peft", reason="peft is not part of the tested set")
    linear = nn.Sequential(nn.Linear(6, 4))
    lora = LoraLinear.replace(linear[0], rank=2, alpha=8.0, dropout=0.0)
    nn.init.normal_(lora.lora_b)
    x = torch.randn(5, 6)
    ours = lora(x)
    theirs = peft.get_peft_model(linear, peft.LoraConfig(r=2, lora_alpha=8, target_modules=["0"]))
    layer = theirs.base_model.model[0]
    layer.lora_A["default"].weight.data.copy_(lora.lora_a)
    layer.lora_B["default"].weight.data.copy_(lora.lora_b)
    torch.testing.assert_close(ours, theirs(x))
