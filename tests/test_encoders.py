"""The transformer encoder and what controls put in its place."""

import pytest
import torch

from metaformer.encoders.control import NoEncoder, permutations, shuffle_contents
from metaformer.encoders.identity import IdentityEncoder
from metaformer.encoders.transformer import TransformerEncoder
from metaformer.types import TokenBatch


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def batch(b=3, t=6, d=16, prefix=1, positions=True):
    places = torch.randn(t, d) if positions else None
    return TokenBatch(
        torch.randn(b, t, d), torch.ones(b, t, dtype=torch.bool), "x", num_prefix=prefix, positions=places
    )


NORMS = {"norm_in": True, "norm_out": True}


@pytest.mark.parametrize(
    "knobs",
    [
        {"norm": "pre", **NORMS},
        {"norm": "post", **NORMS},
        {"causal": True},
        {"bias_kv": True},
        {"causal": True, "bias_kv": True},
    ],
)
def test_padding_changes_nothing(knobs):
    encoder = TransformerEncoder(dim=16, depth=3, num_heads=4, **knobs).eval()
    tokens = batch()
    mask = tokens.mask.clone()
    mask[1, 4:] = False
    mask[2] = False
    spoiled = tokens.x.clone()
    spoiled[1, 4:] = 1e3
    whole = encoder(tokens._replace(x=spoiled, mask=mask))
    alone = encoder(TokenBatch(tokens.x[1:2, :4], mask[1:2, :4], "x"))
    torch.testing.assert_close(whole.x[1:2, :4], alone.x, atol=1e-5, rtol=1e-5)
    assert whole.x.isfinite().all()


def test_encoder_is_equivariant_to_the_order_of_samples_and_tokens():
    encoder, tokens = TransformerEncoder(dim=16, depth=2, num_heads=4).eval(), batch()
    samples, places = torch.randperm(3), torch.randperm(6)
    expected = encoder(tokens).x[samples][:, places]
    torch.testing.assert_close(encoder(tokens.with_x(tokens.x[samples][:, places])).x, expected)


def test_depth_zero_is_the_identity():
    tokens = batch()
    assert torch.equal(TransformerEncoder(dim=16, depth=0, num_heads=4)(tokens).x, tokens.x)
    assert torch.equal(IdentityEncoder(dim=16)(tokens).x, tokens.x)


def test_no_encoder_fills_the_class_token_with_the_mean_of_real_patches():
    tokens = batch()
    mask = tokens.mask.clone()
    mask[0, 3:] = False
    out = NoEncoder(16)(tokens._replace(mask=mask))
    torch.testing.assert_close(out.x[0, 0], tokens.x[0, 1:3].mean(0))
    torch.testing.assert_close(out.x[1, 0], tokens.x[1, 1:].mean(0))
    assert torch.equal(out.x[:, 1:], tokens.x[:, 1:])


def test_permutations_move_real_patches_only():
    tokens = batch(b=50, t=8)
    mask = tokens.mask.clone()
    mask[:, 6:] = False
    order = permutations(tokens._replace(mask=mask), torch.Generator().manual_seed(1))
    assert torch.equal(order[:, 0], torch.zeros(50, dtype=torch.long))
    assert torch.equal(order[:, 6:], torch.arange(6, 8).expand(50, 2))
    assert torch.equal(order.sort(dim=1).values, torch.arange(8).expand(50, 8))
    assert len({tuple(row) for row in order.tolist()}) > 20


def test_shuffled_control_moves_contents_against_positions_and_keeps_names():
    encoder = TransformerEncoder(dim=16, depth=1, num_heads=4).eval()
    names = [name for name, _ in encoder.named_parameters()]
    tokens = batch()
    plain = encoder(tokens).x
    shuffle_contents(encoder)
    assert [name for name, _ in encoder.named_parameters()] == names
    shuffled = encoder(tokens).x
    assert not torch.allclose(plain, shuffled)
    assert torch.equal(shuffled, encoder(tokens).x), "evaluation must be deterministic"
    no_positions = tokens._replace(positions=None)
    torch.testing.assert_close(encoder(no_positions).x, plain)


def test_shuffled_contents_are_the_same_multiset():
    seen = []
    encoder = IdentityEncoder(dim=16).eval()
    shuffle_contents(encoder)
    tokens = batch(b=1)
    seen = (encoder(tokens).x - tokens.positions)[0]
    given = (tokens.x - tokens.positions)[0]
    distances = torch.cdist(seen, given)
    assert torch.allclose(distances.min(dim=1).values, torch.zeros(6), atol=1e-4)
    assert sorted(distances.argmin(dim=1).tolist()) == list(range(6))


@pytest.mark.parametrize("padded", [False, True])
def test_causal_tokens_depend_on_those_before_them_only(padded):
    encoder = TransformerEncoder(dim=16, depth=2, num_heads=4, causal=True, bias_kv=padded).eval()
    tokens = batch()
    mask = tokens.mask.clone()
    mask[1, 4:] = not padded
    tokens = tokens._replace(mask=mask)
    changed = tokens.x.clone()
    changed[:, 3:] = torch.randn(3, 3, 16)
    one, other = encoder(tokens).x, encoder(tokens.with_x(changed)).x
    torch.testing.assert_close(one[:, :3], other[:, :3])
    assert not torch.allclose(one[0, 3:], other[0, 3:])
    assert not torch.allclose(encoder(tokens._replace(mask=mask & (torch.arange(6) > 0))).x[0, 1:], one[0, 1:])
