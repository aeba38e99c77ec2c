"""The time series tokenizer: padding changes nothing, patches cover the series, the convolution is torch's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from metaformer_plugin_timeseries.tokenizer import TimeSeriesTokenizer
from torch import nn

from metaformer.errors import DataError, MetaformerError
from metaformer.types import TokenBatch

STEMS: list[dict[str, Any]] = [
    {"patch_length": 4},
    {"patch_length": 4, "stride": 2},
    {"patch_length": 5, "stride": 3, "positions": "none", "class_token": False},
    {"stem": "conv", "positions": "sinusoidal"},
    {"patch_length": 4, "stride": 2, "normalize": "dataset"},
]


def series(*lengths: int, gaps: bool = True) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    out = [rng.normal(3, 2, size=(length, 2)) for length in lengths]
    for one in out:
        if gaps and len(one) > 3:
            one[2, 0] = np.nan
    return out


def build(**knobs: Any) -> TimeSeriesTokenizer:
    torch.manual_seed(0)
    return TimeSeriesTokenizer(8, **{"channels": 2, "max_length": 30, **knobs})


def run(tokenizer: TimeSeriesTokenizer, values: list[Any]) -> TokenBatch:
    pre = tokenizer.preprocess
    tokens: TokenBatch = tokenizer(pre.collate([pre(value, train=False) for value in values]))
    return tokens


@pytest.mark.parametrize("knobs", STEMS)
def test_padding_changes_no_token(knobs: dict[str, Any]) -> None:
    tokenizer, values = build(**knobs), series(1, 4, 5, 9, 30)
    tokenizer.fit(values)
    together = run(tokenizer, values)
    assert together.x.isfinite().all()
    for i, value in enumerate(values):
        alone = run(tokenizer, [value])
        assert alone.mask.all()
        torch.testing.assert_close(together.x[i][together.mask[i]], alone.x[0], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("knobs", STEMS)
def test_padding_does_not_depend_on_what_it_holds(knobs: dict[str, Any]) -> None:
    tokenizer = build(**knobs)
    pre = tokenizer.preprocess
    raw = pre.collate([pre(value, train=False) for value in series(5, 13)])
    other = {key: tensor.clone() for key, tensor in raw.items()}
    other["values"][0, 5:] = 99.0
    other["observed"][0, 5:] = True
    one, two = tokenizer(raw), tokenizer(other)
    assert torch.equal(one.x[one.mask], two.x[two.mask])


@pytest.mark.parametrize(
    ("patch_length", "stride", "length", "patches"),
    [(4, None, 1, 1), (4, None, 4, 1), (4, None, 5, 2), (4, None, 8, 2), (4, 2, 5, 2), (4, 2, 6, 2), (4, 2, 7, 3)],
)
def test_patches_are_as_many_as_cover_the_series(
    patch_length: int, stride: int | None, length: int, patches: int
) -> None:
    tokenizer = build(patch_length=patch_length, stride=stride)
    tokens = run(tokenizer, series(length, 30))
    assert tokens.mask[0].sum() == patches + 1
    assert tokenizer.embed.num_windows(length) == patches
    assert tokens.x.shape[1] == tokenizer.embed.num_windows(30) + 1
    assert tokens.grid == (tokenizer.embed.num_windows(30),)
    assert tokens.num_prefix == 1


def test_patches_hold_the_steps_they_cover() -> None:
    tokenizer = build(patch_length=3, stride=2, normalize="none", positions="none", class_token=False)
    value = np.arange(10.0).reshape(5, 2)
    x = run(tokenizer, [value]).x[0]
    for i in range(2):
        window = torch.tensor(value[2 * i : 2 * i + 3], dtype=torch.float32).flatten()
        torch.testing.assert_close(x[i], tokenizer.embed.project(window))


def test_last_partial_patch_counts_as_missing() -> None:
    knobs = {"patch_length": 4, "normalize": "none", "positions": "none", "class_token": False}
    zeros, short = np.zeros((4, 2)), np.zeros((3, 2))
    with_indicator, without = build(**knobs), build(missing_indicator=False, **knobs)
    assert not torch.allclose(run(with_indicator, [zeros]).x, run(with_indicator, [short]).x)
    assert torch.equal(run(without, [zeros]).x, run(without, [short]).x)


@pytest.mark.parametrize("length", [1, 2, 7])
def test_conv_stem_is_torchs_circular_convolution(length: int) -> None:
    tokenizer = build(stem="conv", normalize="none", positions="none", class_token=False)
    conv = nn.Conv1d(2, 8, 3, padding=1, padding_mode="circular", bias=False)
    with torch.no_grad():
        conv.weight.copy_(tokenizer.embed.project.weight.unflatten(1, (3, 2)).transpose(1, 2))
    value = torch.tensor(series(length, gaps=False)[0], dtype=torch.float32)
    expected = conv(value.T.unsqueeze(0))[0].T
    torch.testing.assert_close(run(tokenizer, [value]).x[0], expected, atol=1e-5, rtol=1e-5)


def test_dataset_normalisation_is_the_training_sets_and_is_saved() -> None:
    values = series(7, 30, 2)
    fitted, fresh = build(normalize="dataset"), build(normalize="dataset")
    fitted.fit([None, "no series", *values])
    every = np.concatenate(values)
    np.testing.assert_allclose(fitted.mean.numpy(), np.nanmean(every, axis=0))
    np.testing.assert_allclose(fitted.std.numpy(), np.nanstd(every, axis=0))
    assert not torch.allclose(run(fitted, values).x, run(fresh, values).x)
    fresh.load_state_dict(fitted.state_dict())
    assert torch.equal(run(fitted, values).x, run(fresh, values).x)
    with pytest.raises(DataError):
        build(normalize="dataset").fit(["no series"])


def test_dataset_normalisation_survives_far_means_constants_and_half_precision() -> None:
    values = [one + 1e9 for one in series(20, 30)]
    values[0][:, 1] = values[1][:, 1] = 5.0
    exact, half = build(normalize="dataset"), build(normalize="dataset")
    for tokenizer in (exact, half):
        tokenizer.fit(values)
    assert exact.std[0].item() == pytest.approx(np.nanstd(np.concatenate(values)[:, 0]), rel=1e-4)
    assert exact.std[1] == 1
    half = half.bfloat16()
    assert half.mean.dtype == torch.float64
    torch.testing.assert_close(run(half, values).x.float(), run(exact, values).x, atol=0.05, rtol=0.05)


def test_fit_reads_nothing_unless_it_normalises_by_the_data_set() -> None:
    build(normalize="instance").fit(iter_that_fails())
    with pytest.raises(AssertionError):
        build(normalize="dataset").fit(iter_that_fails())


def iter_that_fails() -> Any:
    raise AssertionError("the training set was read")
    yield


@pytest.mark.parametrize("knobs", STEMS)
def test_a_channel_without_any_value_stays_finite(knobs: dict[str, Any]) -> None:
    value = series(9)[0]
    value[:, 1] = np.nan
    for fill in ("interpolate", "zero"):
        assert run(build(fill=fill, **knobs), [value]).x.isfinite().all()


@pytest.mark.parametrize("knobs", STEMS)
def test_gradients_reach_every_parameter(knobs: dict[str, Any]) -> None:
    tokenizer = build(**{**knobs, "positions": "learned", "max_length": 9})
    tokens = run(tokenizer, series(5, 9))
    weight = torch.randn(tokens.x.shape, generator=torch.Generator().manual_seed(1))
    (tokens.x * weight * tokens.mask.unsqueeze(-1)).sum().backward()
    for name, parameter in tokenizer.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("knobs", STEMS)
def test_blank_is_one_token_and_example_the_largest(knobs: dict[str, Any]) -> None:
    tokenizer = build(**knobs)
    pre = tokenizer.preprocess
    tokens = tokenizer(pre.collate([pre.blank(), pre.example()]))
    assert tokens.x.isfinite().all()
    assert tokens.mask[0].sum() == 1 + tokens.num_prefix
    assert tokens.mask[1].all()


def test_contents_are_what_is_left_without_positions() -> None:
    with_positions = run(build(positions="sinusoidal"), series(30))
    without = run(build(positions="none"), series(30))
    assert with_positions.positions is not None
    torch.testing.assert_close(with_positions.x - with_positions.positions, without.x, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("knobs", [{"patch_length": 4, "stride": 5}, {"columns": ("a",)}])
def test_impossible_knobs_are_refused(knobs: dict[str, Any]) -> None:
    with pytest.raises(MetaformerError):
        build(**knobs)
