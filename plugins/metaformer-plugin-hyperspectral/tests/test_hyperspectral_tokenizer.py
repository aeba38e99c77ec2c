"""The hyperspectral tokenizer: which numbers are in which token, what is missing, and the published parameter count."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from metaformer_plugin_hyperspectral.tokenizer import HyperspectralTokenizer

from metaformer.assemble import assemble
from metaformer.errors import DataError, MetaformerError
from metaformer.recipe_file import read_recipe
from metaformer.types import TokenBatch

RECIPES = Path(__file__).parents[3] / "recipes" / "meta_transformer"
RNG = np.random.default_rng(0)


def build(**knobs: Any) -> HyperspectralTokenizer:
    torch.manual_seed(0)
    return HyperspectralTokenizer(16, **{"num_bands": 7, **knobs}).eval()


def run(tokenizer: HyperspectralTokenizer, *values: Any) -> TokenBatch:
    pre = tokenizer.preprocess
    with torch.no_grad():
        tokens: TokenBatch = tokenizer(pre.collate([pre(value, False) for value in values]))
    return tokens


def contents(tokenizer: HyperspectralTokenizer, value: Any) -> np.ndarray:
    pre = tokenizer.preprocess
    return tokenizer.contents(pre.collate([pre(value, False)]))[0].numpy()


@pytest.mark.parametrize(("classes", "trained"), [(16, 170_512), (17, 170_512 + 769)])
def test_the_frozen_base_model_trains_as_many_parameters_as_published(classes: int, trained: int) -> None:
    # 0.17 M: Linear(1 → 768) 1536, class token 768, positions 201 · 768, norm 1536, head 16 · 769. The encoder, which
    # is frozen, may be shallow here.
    sets = (f"heads.label.num_classes={classes}", "encoders.shared.depth=1", "encoders.shared.weights=null")
    recipe = read_recipe(RECIPES / "hyperspectral_frozen.yaml", sets).recipe
    with torch.device("meta"):
        model = assemble(recipe)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == trained


def test_class_token_and_positions_start_as_coded_or_as_in_vit() -> None:
    for init, std in (("as_coded", 1.0), ("vit", 0.02)):
        tokenizer = HyperspectralTokenizer(256, num_bands=50, init=init)
        assert tokenizer.positions is not None
        assert tokenizer.positions.std().item() == pytest.approx(std, rel=0.05)


def published_neighbours(x: np.ndarray, near: int) -> np.ndarray:
    """[pixels, bands] → [near · pixels, bands] by circular shifts, as code that goes with SpectralFormer has it; for
    several pixels it lists neighbours on each side from the nearest on."""
    half, pixels = near // 2, len(x)
    shifts = list(range(1, half + 1)) if pixels > 1 else list(range(half, 0, -1))
    return np.concatenate([*(np.roll(x, s, 1) for s in shifts), x, *(np.roll(x, -s, 1) for s in range(1, half + 1))])


@pytest.mark.parametrize(("side", "near"), [(1, 1), (1, 3), (1, 7), (3, 3), (5, 1)])
def test_wrapped_neighbourhoods_are_the_published_ones(side: int, near: int) -> None:
    tokenizer = build(num_bands=9, patch_size=side, near_bands=near, ends="wrap", scaling="none")
    patch = RNG.normal(size=(side, side, 9)).astype(np.float32)
    expected = published_neighbours(patch.reshape(-1, 9), near).T
    np.testing.assert_array_equal(contents(tokenizer, patch), expected)


@pytest.mark.parametrize(
    ("near", "stride", "bands"),
    [
        (3, 1, [[0, 0, 1], [0, 1, 2], [1, 2, 3], [2, 3, 4], [3, 4, 5], [4, 5, 6], [5, 6, 6]]),
        (3, 3, [[0, 1, 2], [3, 4, 5], [6, 6, 5]]),
        (5, 4, [[0, 0, 1, 2, 3], [3, 4, 5, 6, 6]]),
    ],
)
def test_ends_are_mirrored_and_strides_make_groups(near: int, stride: int, bands: list[list[int]]) -> None:
    tokenizer = build(near_bands=near, band_stride=stride, scaling="none")
    np.testing.assert_array_equal(contents(tokenizer, np.arange(7.0)), bands)
    assert run(tokenizer, np.arange(7.0)).grid == (len(bands),)


def test_tokens_are_a_linear_map_of_their_contents_plus_positions() -> None:
    tokenizer = build(patch_size=3, near_bands=3)
    patch = RNG.normal(size=(3, 3, 7))
    tokens = run(tokenizer, patch)
    assert tokens.positions is not None
    expected = tokenizer.project(torch.from_numpy(contents(tokenizer, patch)))
    torch.testing.assert_close((tokens.x[0] - tokens.positions)[1:], expected)
    assert tokenizer.num_contents == 27


def test_missing_bands_are_masked_and_change_no_other_token() -> None:
    tokenizer = build(scaling="none")
    whole = np.arange(1.0, 8.0)
    gappy = whole.copy()
    gappy[[0, 4]] = np.nan
    one, two = run(tokenizer, whole), run(tokenizer, gappy)
    assert two.mask[0].tolist() == [True, False, True, True, True, False, True, True]
    assert two.x.isfinite().all()
    assert torch.equal(one.x[two.mask], two.x[two.mask])


def test_a_missing_number_counts_as_the_mean_of_its_tokens_others() -> None:
    tokenizer = build(near_bands=3, scaling="none")
    value = np.arange(7.0)
    value[3] = np.nan
    found = contents(tokenizer, value)
    np.testing.assert_array_equal(found[3], [2, 3, 4])
    np.testing.assert_array_equal(found[2], [1, 2, 1.5])
    assert run(tokenizer, value).mask.all()


@pytest.mark.parametrize("scaling", ["minmax", "standard"])
def test_scaling_is_the_training_pixels_and_is_saved(scaling: str) -> None:
    values = [RNG.normal(5000, 300, (3, 3, 7)) for _ in range(5)]
    values[0][1, 1, 2] = np.nan
    for value in values:
        value[..., 5] = 7.0
    tokenizer, fresh = (build(patch_size=3, scaling=scaling) for _ in range(2))
    tokenizer.fit([None, "no spectrum", *values])
    every = np.concatenate([value.reshape(-1, 7) for value in values])
    low, spread = np.nanmin(every, 0), np.nanmax(every, 0) - np.nanmin(every, 0)
    if scaling == "standard":
        low, spread = np.nanmean(every, 0), np.nanstd(every, 0)
    spread[5] = 1
    np.testing.assert_allclose(tokenizer.shift.numpy(), low)
    np.testing.assert_allclose(tokenizer.scale.numpy(), spread)
    assert not torch.allclose(run(tokenizer, *values).x, run(fresh, *values).x)
    fresh.load_state_dict(tokenizer.state_dict())
    assert torch.equal(run(tokenizer, *values).x, run(fresh, *values).x)
    exact = run(tokenizer, *values).x
    half = tokenizer.bfloat16()
    assert half.shift.dtype == torch.float64
    torch.testing.assert_close(run(half, *values).x.float(), exact, atol=0.05, rtol=0.05)
    with pytest.raises(DataError):
        build(scaling=scaling).fit(["no spectrum"])


def test_augmentation_keeps_numbers_where_they_belong() -> None:
    patch = RNG.normal(size=(3, 3, 7))
    turned = build(patch_size=3, flips=True).preprocess
    seen = {tuple(turned(patch, True)["values"][0].tolist()) for _ in range(100)}
    assert len(seen) == 8
    for _ in range(5):
        values = turned(patch, True)["values"]
        assert values[0, 4] == np.float32(patch[1, 1, 0])
        torch.testing.assert_close(
            values.sort(dim=1).values[3].double(), torch.from_numpy(np.sort(patch[..., 3].ravel()))
        )
    dropped = build(band_dropout=0.9).preprocess
    assert all(1 <= int(dropped(patch[0, 0], True)["observed"].sum()) <= 7 for _ in range(50))
    brighter = build(illumination=0.2).preprocess(patch[0, 0], True)["values"].flatten().numpy() / patch[0, 0]
    assert np.ptp(brighter) < 1e-5
    assert 0.8 <= brighter[0] <= 1.2


@pytest.mark.parametrize(
    "knobs", [{"patch_size": 2}, {"near_bands": 2}, {"near_bands": 3, "band_stride": 4}, {"near_bands": 9}]
)
def test_impossible_knobs_are_refused(knobs: dict[str, Any]) -> None:
    with pytest.raises(MetaformerError):
        build(**knobs)


def test_a_transposed_patch_is_told_what_to_do() -> None:
    with pytest.raises(DataError, match="move the bands to the last axis"):
        build(patch_size=3).preprocess(np.zeros((7, 3, 3)), False)


def test_a_spectrum_may_come_out_of_a_file(tmp_path: Path) -> None:
    scipy = pytest.importorskip("scipy.io")
    value = RNG.normal(size=7).astype(np.float32)
    np.save(tmp_path / "one.npy", value)
    scipy.savemat(tmp_path / "two.mat", {"a": value, "b": np.zeros((2, 3))})
    scipy.savemat(tmp_path / "three.mat", {"a": value[None, None]})
    pre = build(variable="a").preprocess
    for name in ("one.npy", "two.mat", "three.mat"):
        np.testing.assert_array_equal(pre(tmp_path / name, False)["values"][:, 0].numpy(), value)
