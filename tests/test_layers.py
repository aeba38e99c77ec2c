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
