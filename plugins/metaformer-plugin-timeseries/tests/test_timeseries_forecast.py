"""Forecasting: windows and splits, the calendar, and the tokens against a dense computation in float64."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from metaformer_plugin_timeseries.conformance import ett
from metaformer_plugin_timeseries.datasets import AeonDataset
from metaformer_plugin_timeseries.forecast import CALENDAR, ForecastDataset, PressureDataset, read_steps
from metaformer_plugin_timeseries.tokenizer import TimeSeriesTokenizer

from metaformer.errors import DataError
from metaformer.layers.positions import sinusoid
from metaformer.train import train_command

RECIPES = Path(__file__).parents[3] / "recipes"
RNG = np.random.default_rng(0)


def test_targets_follow_their_inputs_and_stay_in_their_part(tmp_path: Path) -> None:
    path = ett(tmp_path)["path"]
    parts, table = (100, 40, 60), read_steps(path)[1]
    sets = {
        split: ForecastDataset(path=path, split=split, length=24, horizon=8, parts=parts, standardize=False)
        for split in ("train", "valid", "test")
    }
    assert [len(sets[split]) for split in sets] == [100 - 24 - 8 + 1, 40 - 8 + 1, 60 - 8 + 1]
    for split, first, last in (("train", 24, 100), ("valid", 100, 140), ("test", 140, 200)):
        one, end = sets[split][0], sets[split][len(sets[split]) - 1]
        np.testing.assert_array_equal(one["series"], table[first - 24 : first])
        np.testing.assert_array_equal(one["future"], table[first : first + 8].ravel())
        np.testing.assert_array_equal(end["future"], table[last - 8 : last].ravel())


def test_scaling_knows_the_training_part_only(tmp_path: Path) -> None:
    path = ett(tmp_path)["path"]
    data = ForecastDataset(path=path, split="test", length=24, horizon=8, parts=(100, 40, 60))
    known = read_steps(path)[1][:100]
    np.testing.assert_allclose(data.table[:100].mean(axis=0), 0, atol=1e-9)
    np.testing.assert_allclose(data.table * known.std(axis=0) + known.mean(axis=0), read_steps(path)[1])


def test_the_calendar_is_informers(tmp_path: Path) -> None:
    data = ForecastDataset(
        path=ett(tmp_path)["path"], split="train", length=48, horizon=8, parts=(150, 25, 25), calendar=True
    )
    inputs = data[0]["series"]
    assert inputs.shape == (48, 7 + CALENDAR)
    np.testing.assert_allclose(inputs[:24, 7], np.arange(24) / 23 - 0.5)
    np.testing.assert_allclose(inputs[0, 8:], [4 / 6 - 0.5, -0.5, (183 - 1) / 365 - 0.5])  # a Friday, day 183


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no rows"),
        ("date,a\n2016-07-01,1,2\n", "3 cells"),
        ("date,a\n2016-07-01,x\n", "could not convert"),
        ("date,a\n2016-07-01,inf\n", "infinite"),
        ("date\n2016-07-01\n", "no rows of numbers"),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(DataError, match=says):
        read_steps(tmp_path / "a.csv")
    with pytest.raises(DataError, match="lower `length`"):
        ForecastDataset(path=ett(tmp_path)["path"], split="train", length=150, horizon=50, parts=(150, 25, 25))


def test_the_published_stem_has_19200_parameters_and_is_the_dense_sum() -> None:
    torch.manual_seed(0)
    knobs = {"stem": "conv", "positions": "sinusoidal", "class_token": False, "missing_indicator": False}
    tokenizer = TimeSeriesTokenizer(768, channels=7, max_length=96, normalize="none", calendar=4, **knobs).double()
    assert sum(parameter.numel() for parameter in tokenizer.parameters()) == 7 * 3 * 768 + 4 * 768 == 19_200
    values, features = RNG.normal(size=(96, 7)), RNG.normal(size=(96, 4)) / 4
    raw = tokenizer.preprocess.collate([tokenizer.preprocess(np.concatenate([values, features], axis=1), False)])
    raw = {key: tensor.double() if tensor.is_floating_point() else tensor for key, tensor in raw.items()}
    raw["values"], raw["calendar"] = torch.tensor(values)[None], torch.tensor(features)[None]
    kernel = tokenizer.embed.project.weight.detach().numpy().reshape(768, 3, 7)
    dense = np.zeros((96, 768))
    for step in range(96):
        for tap in range(3):
            dense[step] += kernel[:, tap] @ values[(step + tap - 1) % 96]
        dense[step] += tokenizer.calendar.weight.detach().numpy() @ features[step]
    dense += sinusoid(96, 768).double().numpy()
    np.testing.assert_allclose(tokenizer(raw).x[0].detach().numpy(), dense, atol=1e-10)


def test_channels_may_be_streams_of_one_sample() -> None:
    knobs = {"name": "japanese_vowels", "split": "valid"}
    whole, cut = AeonDataset(**knobs), AeonDataset(**knobs, streams={"low": (0, 1), "high": (11,)})
    np.testing.assert_array_equal(cut[3]["low"], whole[3]["series"][:, :2])
    np.testing.assert_array_equal(cut[3]["high"], whole[3]["series"][:, 11:])
    with pytest.raises(DataError, match="channel 12 of a stream"):
        AeonDataset(**knobs, streams={"low": (12,)})


def test_every_part_of_the_bundled_series_has_windows() -> None:
    parts = [PressureDataset(split=split) for split in ("train", "valid", "test")]
    assert all(len(part) > 1000 for part in parts)


@pytest.mark.parametrize("which", ["frozen", "tuned"])
def test_the_papers_recipe_trains_on_a_file_of_the_layout(which: str, tmp_path: Path) -> None:
    path = ett(tmp_path, 320)["path"]
    sets = [
        *(f"tasks.ett.data.{part}.path={path}" for part in ("train", "valid")),
        *(f"tasks.ett.data.{part}.parts=[205, 10, 105]" for part in ("train", "valid")),
        *("encoders.shared.weights=null", "encoders.shared.dim=16", "encoders.shared.depth=1"),
        *("encoders.shared.num_heads=2", "steps=2", "batch_size=4", "engine={use: torch}", "schedule.warmup=1"),
        *("loader.workers=0", f"output={tmp_path}"),
    ]
    train_command([RECIPES / "meta_transformer" / f"timeseries_{which}.yaml"], sets)
    (result,) = tmp_path.rglob("result.json")
    metrics = json.loads(result.read_text())["this run"]["metrics"]
    assert set(metrics) == {"ett/loss", "ett/mse", "ett/mae"}
    assert all(np.isfinite(value) for value in metrics.values())
