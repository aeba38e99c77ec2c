"""The CPU attention kernels: blocked, whole and fused agree, forward and backward, however the blocks are cut."""

import pytest
import torch

from metaformer.layers import Attention, attend
from metaformer.layers import attention as attention_module
from metaformer.layers.attention import attention_weights


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def reference(q, k, v, mask, grad):
    """In double precision, by the formula; the output and the three gradients."""
    inputs = [x.detach().double().requires_grad_() for x in (q, k, v)]
    out = attention_weights(inputs[0], inputs[1], mask) @ inputs[2]
    return [out, *torch.autograd.grad(out, inputs, grad.double())]


def masks(b, h, t, s):
    some = torch.rand(b, h, t, s) > 0.4
    some[0, :, 1] = False
    padding = torch.arange(s) < torch.tensor([s, 2, 0])[:b, None, None, None]
    return {"none": None, "padding": padding, "causal": torch.ones(t, s).tril().bool()[None, None], "some": some}


# Scores of one head take 5 * 7 * 2 = 70 bytes: two heads of a sample, one sample, two samples with a rest.
@pytest.mark.parametrize("block", [1, 140, 300, 600])
@pytest.mark.parametrize("keep", [0, 1 << 20], ids=["again", "kept"])
@pytest.mark.parametrize("kind", ["none", "padding", "causal", "some"])
def test_blocked_attention_equals_the_formula(monkeypatch, block, keep, kind):
    monkeypatch.setattr(attention_module, "_BLOCK_BYTES", block)
    monkeypatch.setattr(attention_module, "_KEEP_CELLS", keep)
    q, k, v = (torch.randn(3, 3, n, 4).bfloat16().requires_grad_() for n in (5, 7, 7))
    mask, grad = masks(3, 3, 5, 7)[kind], torch.randn(3, 3, 5, 4).bfloat16()
    out = attend(q, k, v, mask)
    assert "Blocked" in out.grad_fn.name()
    found = [out, *torch.autograd.grad(out, (q, k, v), grad)]
    for got, want in zip(found, reference(q, k, v, mask, grad), strict=True):
        torch.testing.assert_close(got.double(), want, atol=0.04, rtol=0.02)
        assert got.isfinite().all()


def test_blocked_attention_is_exact_in_double_precision(monkeypatch):
    monkeypatch.setattr(attention_module, "_HALF", (torch.float64,))
    monkeypatch.setattr(attention_module, "_BLOCK_BYTES", 300)
    q, k, v = (torch.randn(2, 3, n, 4, dtype=torch.float64, requires_grad=True) for n in (5, 7, 7))
    for mask in masks(2, 3, 5, 7).values():
        assert torch.autograd.gradcheck(lambda q, k, v, m=mask: attend(q, k, v, m), (q, k, v))


def test_blocked_attention_keeps_no_probabilities_without_gradients(monkeypatch):
    q, k, v = (torch.randn(2, 3, 5, 4).bfloat16() for _ in range(3))
    whole = attend(q, k, v)
    monkeypatch.setattr(attention_module, "_BLOCK_BYTES", 1)
    torch.testing.assert_close(attend(q, k, v), whole)
    assert not attend(q, k, v).requires_grad


@pytest.mark.parametrize("which", [0, 1, 2])
def test_blocked_attention_gives_gradients_where_one_input_is_trained(monkeypatch, which):
    monkeypatch.setattr(attention_module, "_BLOCK_BYTES", 1)
    inputs = [torch.randn(2, 3, 5, 4).bfloat16() for _ in range(3)]
    inputs[which].requires_grad_()
    attend(*inputs).float().square().sum().backward()
    assert inputs[which].grad.abs().sum() > 0


@pytest.mark.parametrize("context_dim", [None, 8])
def test_autocast_takes_the_blocked_kernel_and_stays_close_to_fp32(monkeypatch, context_dim):
    monkeypatch.setattr(attention_module, "_BLOCK_BYTES", 1)
    layer = Attention(12, 3, context_dim=context_dim)
    x, mask = torch.randn(2, 6, 12), torch.ones(2, 1, 1, 6, dtype=torch.bool)
    mask[1, ..., 3:] = False
    context = None if context_dim is None else torch.randn(2, 6, context_dim)
    with torch.autocast("cpu", torch.bfloat16):
        half = layer(x, mask, context=context)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), layer(x, mask, context=context), atol=0.03, rtol=0.03)
    half.float().sum().backward()
    assert all(p.grad.isfinite().all() for p in layer.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_samples_and_no_keys_are_fine(dtype):
    q, k = torch.randn(0, 3, 5, 4, dtype=dtype), torch.randn(0, 3, 7, 4, dtype=dtype)
    assert attend(q, k, k).shape == q.shape
    q, k = torch.randn(2, 3, 5, 4, dtype=dtype), torch.randn(2, 3, 0, 4, dtype=dtype)
    assert (attend(q, k, k) == 0).all()
