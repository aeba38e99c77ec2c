"""The tabular tokenizer: one token per column, fitted scales that travel with the model, learned missing cells."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from metaformer_plugin_tabular.tokenizer import QUANTILES, TabularTokenizer
from torch import Tensor

from metaformer.errors import DataError, MetaformerError
from metaformer.types import TokenBatch

NUMERIC = ("a", "b")
CATEGORICAL = {"c": ("x", "y"), "d": ("x",)}
ROWS: list[dict[str, Any]] = [
    {"a": 1.0, "b": 100.0, "c": "x", "d": "x"},
    {"a": 3.0, "b": None, "c": "y", "d": None},
    {"a": 5.0, "b": 300.0, "c": "new", "d": "x"},
]


def build(**knobs: Any) -> TabularTokenizer:
    torch.manual_seed(0)
    return TabularTokenizer(8, **{"numeric": NUMERIC, "categorical": CATEGORICAL, **knobs})


def run(tokenizer: TabularTokenizer, rows: list[Any]) -> TokenBatch:
    pre = tokenizer.preprocess
    tokens: TokenBatch = tokenizer(pre.collate([pre(row, train=False) for row in rows]))
    return tokens


def column(values: list[float], **knobs: Any) -> tuple[TabularTokenizer, Tensor]:
    """A tokenizer of one column fitted on its values, and the values on its scale."""
    tokenizer = TabularTokenizer(4, numeric=("v",), **knobs)
    tokenizer.fit([{"v": value} for value in values])
    return tokenizer, tokenizer.scale(torch.tensor(values, dtype=torch.float64)[:, None])[:, 0]


@pytest.mark.parametrize("class_token", [True, False])
@pytest.mark.parametrize("scaling", ["standard", "quantile", "none"])
def test_one_token_per_column(class_token: bool, scaling: str) -> None:
    tokenizer = build(class_token=class_token, scaling=scaling)
    tokenizer.fit(ROWS)
    tokens = run(tokenizer, ROWS)
    assert tokens.x.shape == (3, 4 + class_token, 8)
    assert tokens.x.dtype == torch.float32
    assert tokens.x.isfinite().all()
    assert tokens.mask.all()
    assert tokens.num_prefix == class_token


def test_rows_do_not_see_each_other() -> None:
    tokenizer = build()
    tokenizer.fit(ROWS)
    together = run(tokenizer, ROWS)
    for i, row in enumerate(ROWS):
        assert torch.equal(run(tokenizer, [row]).x[0], together.x[i])


def test_token_is_value_times_weight_plus_bias() -> None:
    tokenizer = build(class_token=False)
    tokenizer.fit(ROWS)
    x = run(tokenizer, ROWS).x
    std = np.std([1.0, 3.0, 5.0])
    expected = (5.0 - 3.0) / std * tokenizer.weight[0] + tokenizer.bias[0]
    torch.testing.assert_close(x[2, 0], expected)
    torch.testing.assert_close(x[1, 2], tokenizer.embedding.weight[3] + tokenizer.bias[2])
    torch.testing.assert_close(x[0, 3], tokenizer.embedding.weight[6] + tokenizer.bias[3])


def test_a_missing_number_starts_as_the_average_and_is_learned() -> None:
    tokenizer = build(class_token=False)
    tokenizer.fit(ROWS)
    average = run(tokenizer, [{"b": 200.0}]).x[0, 1]
    torch.testing.assert_close(run(tokenizer, [{"a": 1}]).x[0, 1], average)
    with torch.no_grad():
        tokenizer.missing += 1
    torch.testing.assert_close(run(tokenizer, [{"a": 1}]).x[0, 1], average + 1)


def test_missing_and_unknown_categories_have_vectors_of_their_own() -> None:
    tokenizer = build(class_token=False)
    with torch.no_grad():
        tokenizer.embedding.weight.copy_(torch.arange(7.0)[:, None].expand(-1, 8))
    x = (run(tokenizer, [{"c": None}, {"c": "new"}, {"c": "x"}, {"c": "y"}]).x - tokenizer.bias)[:, 2:, 0]
    torch.testing.assert_close(x, torch.tensor([[0.0, 4], [1, 4], [2, 4], [3, 4]]))


def test_standard_scaling_matches_numpy_and_skips_missing_cells() -> None:
    tokenizer = build()
    rows = [{"a": float(v), "b": None if v % 2 else v * 1e9} for v in range(10)]
    tokenizer.fit(rows)
    for i, values in enumerate([np.arange(10.0), np.arange(0, 10, 2) * 1e9]):
        assert tokenizer.mean[i].item() == pytest.approx(values.mean())
        assert tokenizer.std[i].item() == pytest.approx(values.std())


def test_constant_and_empty_columns_stay_finite() -> None:
    for values in ([7.0] * 5, [0.1] * 3, [0.0] * 3, [float("nan")] * 4):
        tokenizer, scaled = column(values)
        assert scaled.isfinite().all()
        assert scaled.abs().max() < 1e-6
        assert tokenizer.scale(torch.tensor([[8.0]], dtype=torch.float64)).isfinite().all()


def test_huge_cells_stay_finite() -> None:
    tokenizer, _ = column([1.0, 2.0, 3.0])
    assert run(tokenizer, [{"v": 1e30}, {"v": -1e30}]).x.isfinite().all()


def test_quantile_scaling_makes_a_skewed_column_normal() -> None:
    values = np.exp(3 * np.random.default_rng(0).standard_normal(5000)).tolist()
    _, scaled = column(values, scaling="quantile")
    assert abs(scaled.mean()) < 0.02
    assert abs(scaled.std() - 1) < 0.05
    assert scaled.argsort().equal(torch.tensor(values).argsort())


def test_quantile_scaling_is_monotone_bounded_and_keeps_ties_together() -> None:
    tokenizer, scaled = column([0.0] * 80 + [1.0] * 15 + [5.0] * 5, scaling="quantile")
    assert len(scaled.unique()) == 3
    grid = torch.linspace(-10, 10, 400, dtype=torch.float64)[:, None]
    out = tokenizer.scale(grid)[:, 0]
    assert (out.diff() >= 0).all()
    assert out[0] == out[10]
    limit = torch.special.ndtri(torch.tensor(1 - 0.5 / (QUANTILES - 1), dtype=torch.float64))
    assert out.abs().max() <= limit + 1e-9


def test_quantile_scaling_agrees_with_scikit_learn_on_distinct_values() -> None:
    preprocessing = pytest.importorskip("sklearn.preprocessing")
    values = np.random.default_rng(0).gamma(2.0, size=QUANTILES)
    _, scaled = column(values.tolist(), scaling="quantile")
    theirs = preprocessing.QuantileTransformer(n_quantiles=QUANTILES, output_distribution="normal")
    expected = theirs.fit_transform(values[:, None])[:, 0]
    inner = np.argsort(values)[1:-1]
    np.testing.assert_allclose(scaled.numpy()[inner], expected[inner], atol=1e-9)


def test_fit_leaves_unusable_rows_to_the_loader_but_not_all_of_them() -> None:
    clean, dirty = build(), build()
    clean.fit(ROWS)
    dirty.fit([None, {"a": "text"}, *ROWS, {"a": float("inf")}, "no row"])
    assert torch.equal(clean.mean, dirty.mean)
    with pytest.raises(DataError):
        build().fit([{"a": "text"}])


def test_fitted_scales_are_saved_and_loaded() -> None:
    for scaling in ("standard", "quantile"):
        fitted, fresh = (
            build(scaling=scaling),
            TabularTokenizer(8, numeric=NUMERIC, categorical=CATEGORICAL, scaling=scaling),
        )
        fitted.fit(ROWS)
        assert not torch.equal(run(fitted, ROWS).x, run(fresh, ROWS).x)
        fresh.load_state_dict(fitted.state_dict())
        assert torch.equal(run(fitted, ROWS).x, run(fresh, ROWS).x)


def test_half_precision_does_not_round_the_scales() -> None:
    rows = [{"a": 1_700_000_000.0 + i} for i in range(5)]
    exact, half = build(), build()
    exact.fit(rows)
    half.fit(rows)
    half = half.bfloat16()
    assert half.mean.dtype == torch.float64
    x, expected = run(half, rows).x, run(exact, rows).x
    assert x.dtype == torch.bfloat16
    torch.testing.assert_close(x.float(), expected, atol=0.02, rtol=0.02)


def test_gradients_reach_every_parameter() -> None:
    tokenizer = build()
    weight = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(1))
    (run(tokenizer, ROWS).x * weight).sum().backward()
    for name, parameter in tokenizer.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_blank_collates_with_rows() -> None:
    pre = build().preprocess
    assert build()(pre.collate([pre(ROWS[0], train=False), pre.blank()])).x.isfinite().all()


@pytest.mark.parametrize("knobs", [{"categorical": {}}, {"numeric": ()}])
def test_tables_of_one_kind_of_column(knobs: dict[str, Any]) -> None:
    tokenizer = build(**knobs)
    tokenizer.fit(ROWS)
    assert run(tokenizer, ROWS).x.shape == (3, 3, 8)


@pytest.mark.parametrize(
    "knobs",
    [
        {"numeric": (), "categorical": {}},
        {"numeric": ("a", "a")},
        {"numeric": ("c",)},
        {"categorical": {"c": ()}},
        {"categorical": {"c": ("x", "x")}},
    ],
)
def test_impossible_columns_are_refused(knobs: dict[str, Any]) -> None:
    with pytest.raises(MetaformerError):
        build(**knobs)


def test_dates_are_tokens_that_know_elapsed_time_and_circles() -> None:
    import datetime

    torch.manual_seed(0)
    tokenizer = TabularTokenizer(8, numeric=("a",), dates=("when", "until"))
    rows = [{"a": i, "when": f"2024-{i:02d}-15", "until": "2024-02-29T12:30:00+02:00"} for i in range(1, 13)]
    tokenizer.fit(rows)
    pre = tokenizer.preprocess
    same = [
        {"a": 1, "when": when, "until": None}
        for when in ("2024-03-15", datetime.date(2024, 3, 15), np.datetime64("2024-03-15"))
    ]
    x = tokenizer(pre.collate([pre(row, False) for row in same])).x
    torch.testing.assert_close(x[0], x[1])
    torch.testing.assert_close(x[0], x[2])
    features = torch.stack([pre({**row, "until": ""}, False)["dates"] for row in rows])
    assert features[:, 1].isnan().all()
    assert torch.allclose(features[:, 0, 1] ** 2 + features[:, 0, 2] ** 2, torch.ones(12, dtype=torch.float64))
    assert features[1, 0, 0] - features[0, 0, 0] == 31
    zone, utc = (pre({"when": w}, False)["dates"][0] for w in ("2024-02-29T12:30+02:00", "2024-02-29T10:30"))
    assert torch.equal(zone, utc)
    for bad in ("yesterday", 5, "2024-13-01"):
        with pytest.raises(DataError, match="a date in column 'when'"):
            pre({"when": bad}, False)


def test_a_missing_date_has_a_token_of_its_own_that_learns() -> None:
    tokenizer = TabularTokenizer(8, dates=("when",))
    pre = tokenizer.preprocess
    tokens = tokenizer(pre.collate([pre({"when": None}, False), pre({"when": "2024-01-01"}, False)]))
    (tokens.x * torch.randn_like(tokens.x)).sum().backward()
    for parameter in (tokenizer.date_missing, tokenizer.date_weight, tokenizer.bias):
        assert parameter.grad.abs().sum() > 0
