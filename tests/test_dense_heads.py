"""Heads for every place and for the next steps: what they read, and that padding and units come out right."""

import pytest
import torch

from metaformer.errors import MetaformerError
from metaformer.heads.forecast import ForecastHead
from metaformer.heads.segmentation import SegmentationHead
from metaformer.types import Dense, TokenBatch

B, T, D, N = 2, 6, 8, 10


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def tokens(**more) -> TokenBatch:
    return TokenBatch(torch.randn(B, 1 + T, D), torch.ones(B, 1 + T, dtype=torch.bool), "any", num_prefix=1, **more)


def dense(detail=None) -> Dense:
    weight = torch.rand(B, N, 3)
    mask = torch.ones(B, N, dtype=torch.bool)
    mask[1, 7:] = False
    return Dense(torch.randint(T, (B, N, 3)), weight / weight.sum(2, keepdim=True), mask, detail)


def test_a_place_is_read_from_its_tokens_by_their_shares():
    head = SegmentationHead(D, num_classes=4, hidden=5)
    batch = tokens(dense=dense())
    found = head(batch)
    assert found.shape == (B, N, 4)
    features = head.project(head.norm(batch.x[:, 1:]))
    for place in range(N):
        mixed = sum(batch.dense.weight[0, place, k] * features[0, batch.dense.source[0, place, k]] for k in range(3))
        expected = head.linear(torch.nn.functional.gelu(mixed))
        torch.testing.assert_close(found[0, place], expected, atol=1e-5, rtol=1e-5)


def test_details_are_added_and_must_fit():
    head = SegmentationHead(D, num_classes=4, detail_dim=3)
    plain, other = (tokens()._replace(dense=dense(torch.full((B, N, 3), value))) for value in (0.0, 1.0))
    other = plain._replace(dense=plain.dense._replace(detail=other.dense.detail))
    assert not torch.allclose(head(plain), head(other))
    with pytest.raises(MetaformerError, match="details of width none"):
        head(tokens(dense=dense()))


def test_pixels_are_upsampled_from_the_grid_and_tokens_stay_tokens():
    batch = tokens(grid=(2, 3))
    assert SegmentationHead(D, num_classes=4, image_size=(8, 12))(batch).shape == (B, 96, 4)
    assert SegmentationHead(D, num_classes=4)(batch).shape == (B, T, 4)
    constant = batch.with_x(torch.ones_like(batch.x))
    logits = SegmentationHead(D, num_classes=4, image_size=(8, 12))(constant)
    torch.testing.assert_close(logits, logits[:, :1].expand_as(logits))
    with pytest.raises(MetaformerError, match="on the grid None"):
        SegmentationHead(D, num_classes=4, image_size=(8, 12))(tokens())


def test_a_forecast_is_put_back_into_the_series_units():
    head = ForecastHead(D, horizon=3, channels=2)
    batch = tokens()
    plain = head(batch).view(B, 3, 2)
    mean, std = torch.tensor([[5.0, -1.0]] * B), torch.tensor([[2.0, 0.5]] * B)
    scaled = head(batch._replace(units=(mean, std))).view(B, 3, 2)
    torch.testing.assert_close(scaled, plain * std[:, None] + mean[:, None])
    with pytest.raises(MetaformerError, match="a series of 1"):
        head(batch._replace(units=(mean[:, :1], std[:, :1])))


def test_flattened_tokens_keep_their_places_and_padding_changes_nothing():
    head = ForecastHead(D, horizon=2, num_tokens=T + 2)
    batch = tokens()
    mask = batch.mask.clone()
    mask[0, 4:] = False
    short = batch._replace(mask=mask)
    other = short.with_x(torch.where(mask.unsqueeze(-1), batch.x, torch.full_like(batch.x, 9.0)))
    torch.testing.assert_close(head(short), head(other))
    order = [0, 2, 1, 3, 4, 5, 6]
    assert not torch.allclose(head(batch), head(batch.with_x(batch.x[:, order])))
    with pytest.raises(MetaformerError, match="raise `num_tokens`"):
        ForecastHead(D, horizon=2, num_tokens=T - 1)(batch)
