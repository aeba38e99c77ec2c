"""The cases of this plugin, which `metaformer plugins check` and the tests run."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from metaformer.testing import Check, dataset_checks, tokenizer_checks

RNG = np.random.default_rng(0)
SERIES = [RNG.normal(3, 2, size=(length, 2)) for length in (1, 9, 30, 24)]
SERIES[2][4:6, 0] = np.nan
BAD = [np.zeros((4, 3)), np.full((4, 2), np.nan), [["x", "y"]], np.full((3, 2), 1e31), np.zeros((0, 2)), 5]
CURVES = {"channels": 2, "max_length": 30}
KNOBS: tuple[dict[str, Any], ...] = (
    {**CURVES, "patch_length": 4},
    {**CURVES, "patch_length": 5, "stride": 3, "normalize": "dataset", "positions": "none", "class_token": False},
    {**CURVES, "stem": "conv", "positions": "sinusoidal", "fill": "zero"},
)

DATED = [RNG.normal(3, 2, size=(length, 2 + 3)) for length in (5, 30, 17)]
DATED[1][4:6, 0] = np.nan
NOT_DATED = [np.zeros((4, 2)), "x", np.full((4, 5), 1e9)]
CALENDAR = {**CURVES, "patch_length": 4, "stride": 2, "calendar": 3}

TS = """@problemName small
@univariate true
@equalLength true
@seriesLength 3
@classLabel true up down
@data
1,2,3:up
3,2,1:down
"""


def ts_file(root: Path) -> Mapping[str, Any]:
    """Two short series."""
    (root / "small.ts").write_text(TS)
    return {"path": root / "small.ts"}


def ett(root: Path, rows: int = 200) -> Mapping[str, Any]:
    """A table in the layout of ETT-small: hours with a daily wave in seven channels."""
    lines, draw = ["date,HUFL,HULL,MUFL,MULL,LUFL,LULL,OT"], np.random.default_rng(0)
    day = np.datetime64("2016-07-01T00:00:00")
    for row in range(rows):
        cells = ",".join(f"{value:.3f}" for value in draw.normal(row % 24, 1, 7))
        lines.append(f"{str(day + np.timedelta64(row, 'h')).replace('T', ' ')},{cells}")
    (root / "ETTh1.csv").write_text("\n".join(lines) + "\n")
    return {"path": root / "ETTh1.csv"}


def checks() -> Iterator[Check]:
    """The tokenizer, files of both kinds, and the bundled sets where aeon is there."""
    for knobs in KNOBS:
        yield from tokenizer_checks(("timeseries", knobs), SERIES, bad=BAD)
    yield from tokenizer_checks(("timeseries", CALENDAR), DATED, bad=NOT_DATED)
    yield from dataset_checks(("ts_file", {}), files=ts_file)
    windows = {"split": "valid", "length": 24, "horizon": 8, "calendar": True}
    yield from dataset_checks(("forecast", windows), limit=3, files=ett)
    if importlib.util.find_spec("aeon"):
        yield from dataset_checks(("aeon", {"name": "basic_motions", "split": "valid"}), limit=5)
        yield from dataset_checks(("pressure", {"split": "valid", "step": 50}), limit=3)
