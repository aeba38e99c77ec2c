"""Spectra: units, the common axis, what chemometrics does to them, and the statistics of a training set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from metaformer_plugin_infrared.curve import Curve
from metaformer_plugin_infrared.smooth import derivative, normal_variate
from metaformer_plugin_infrared.spectrum import SpectrumTokenizer

from metaformer.errors import DataError, MetaformerError

RNG = np.random.default_rng(0)
PLAIN = {"snv": False, "scaling": "none"}


@pytest.mark.parametrize(("order", "window", "degree"), [(0, 5, 2), (1, 7, 2), (2, 9, 3), (1, 3, 1), (0, 41, 4)])
def test_smoothed_derivatives_are_those_of_scipy(order, window, degree):
    signal = pytest.importorskip("scipy.signal")
    values = RNG.normal(size=41).cumsum()
    expected = signal.savgol_filter(values, window, degree, deriv=order)
    np.testing.assert_allclose(derivative(values, order, window, degree), expected, atol=1e-9)


def test_smoothing_leaves_polynomials_alone_and_gaps_gaps():
    x = np.arange(20.0)
    np.testing.assert_allclose(derivative(x**2 - x, 1, 5, 2), 2 * x - 1, atol=1e-8)
    x[10] = np.nan
    assert np.isnan(derivative(x, 0, 5, 2)).nonzero()[0].tolist() == [8, 9, 10, 11, 12]


def test_normal_variate_takes_offset_and_gain_away():
    values = RNG.normal(size=30)
    np.testing.assert_allclose(normal_variate(3 * values + 7), normal_variate(values), atol=1e-12)
    assert not normal_variate(np.full(5, 0.1)).any()
    values[3] = np.nan
    assert np.isnan(normal_variate(values)).sum() == 1


def test_units_of_the_axis():
    curve = Curve(np.array([4000.0, 1000.0]), np.zeros(2), "1/cm")
    np.testing.assert_allclose(curve.in_unit("nm", "it").axis, [2500, 10000])
    np.testing.assert_allclose(curve.in_unit("um", "it").axis, [2.5, 10])
    back = curve.in_unit("um", "it").in_unit("1/cm", "it")
    np.testing.assert_allclose(back.axis, curve.axis)
    with pytest.raises(DataError, match="unit of its axis"):
        Curve(np.arange(2.0), np.zeros(2)).in_unit("nm", "it")


def test_absorbance_out_of_transmittance():
    share = Curve(None, np.array([1.0, 0.1, 0.0]), y_unit="transmittance")
    np.testing.assert_allclose(share.absorbance("it").values, [0, 1, 6])
    percent = Curve(None, np.array([100.0, 10.0]), y_unit="% transmittance")
    np.testing.assert_allclose(percent.absorbance("it").values, [0, 1], atol=1e-12)
    for unit in ("", "kubelka-munk"):
        with pytest.raises(DataError, match="as absorbance"):
            Curve(None, np.ones(2), y_unit=unit).absorbance("it")


def read(value, **knobs):
    return SpectrumTokenizer(8, **{**PLAIN, **knobs}).preprocess.read(value)


def test_a_common_axis_in_any_order_with_what_is_not_covered_missing():
    axis = RNG.permutation(np.arange(900.0, 1000.0))
    found = read({"axis": axis, "values": 2 * axis}, points=5, axis=(880.0, 980.0))
    np.testing.assert_allclose(found, [np.nan, 2 * 905, 2 * 930, 2 * 955, 2 * 980])
    columns = read(np.stack([axis, 2 * axis], axis=1), points=5, axis=(880.0, 980.0))
    np.testing.assert_array_equal(columns, found)


def test_files_of_every_kind_give_the_same(tmp_path: Path):
    axis, values = np.arange(400.0, 410.0), RNG.random(10).round(3)
    lines = [f"{a:g},{v:g}" for a, v in zip(axis, values, strict=True)]
    (tmp_path / "two.csv").write_text("wavenumber,absorbance\n" + "\n".join(lines))
    (tmp_path / "row.csv").write_text(",".join(f"{v:g}" for v in values) + "\n")
    (tmp_path / "column.tsv").write_text("\n".join(f"{v:g}" for v in values) + "\n")
    np.save(tmp_path / "values.npy", values)
    head = "##TITLE=x\n##XUNITS=1/CM\n##YUNITS=ABSORBANCE\n##FIRSTX=400\n##LASTX=409\n##NPOINTS=10\n"
    ordinates = " ".join(f"{round(v * 1000)}" for v in values)
    (tmp_path / "a.dx").write_text(f"{head}##YFACTOR=0.001\n##XYDATA=(X++(Y..Y))\n400 {ordinates}\n##END=\n")
    for name in ("two.csv", "row.csv", "column.tsv", "values.npy", "a.dx"):
        found = read(tmp_path / name, points=10, axis=(400.0, 409.0))
        np.testing.assert_allclose(found, values, atol=1e-9, err_msg=name)
    micrometres = read(tmp_path / "a.dx", points=3, axis=(24.6, 24.9), axis_unit="um", absorbance=True)
    assert np.isfinite(micrometres).all()


def test_what_cannot_be_used_is_refused(tmp_path: Path):
    axis = np.arange(10.0)
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "three.csv").write_text("1,2,3\n4,5,6\n")
    for value, knobs in (
        (np.zeros(9), {}),
        ({"axis": axis, "values": axis}, {}),  # no common axis
        ({"axis": axis, "values": axis}, {"axis": (20.0, 30.0)}),  # nothing there
        ({"axis": axis * 0, "values": axis}, {"axis": (0.0, 9.0)}),
        ({"axis": axis * np.nan, "values": axis}, {"axis": (0.0, 9.0)}),
        (np.full(10, 1e31), {}),
        (np.full(10, np.nan), {}),
        (tmp_path / "empty.csv", {}),
        (tmp_path / "three.csv", {}),
        (tmp_path / "absent.csv", {}),
        (tmp_path / "file.pickle", {}),
        (np.zeros(100), {"max_points": 20}),
    ):
        with pytest.raises(DataError):
            read(value, points=10, **knobs)


def test_scaling_is_that_of_the_training_set_and_stays_exact_in_half_precision():
    spectra = RNG.normal(5, 2, (50, 6))
    spectra[3, 2] = np.nan
    spectra[:, 5] = 7
    tokenizer = SpectrumTokenizer(8, points=6, snv=False, patch_length=2)
    tokenizer.fit([*spectra, None, "bad"])
    np.testing.assert_allclose(tokenizer.mean, np.nanmean(spectra, axis=0))
    np.testing.assert_allclose(tokenizer.std, [*np.nanstd(spectra, axis=0)[:5], 1.0])
    raw = tokenizer.preprocess.collate([tokenizer.preprocess(s, False) for s in spectra])
    contents = tokenizer.contents(raw)
    assert contents.shape == (50, 3, tokenizer.num_contents)
    np.testing.assert_allclose(contents[..., 0].mean(dim=0).detach(), 0, atol=1e-5)
    assert contents[3, 1, 0] == 0
    mean = tokenizer.mean.clone()
    assert torch.equal(tokenizer.bfloat16().mean, mean)
    with pytest.raises(DataError, match="none that can be used"):
        SpectrumTokenizer(8, points=6).fit([None, "bad"])


def test_gaps_have_tokens_of_their_own():
    tokenizer = SpectrumTokenizer(8, points=6, patch_length=2, **PLAIN)
    whole, gap = np.arange(6.0), np.arange(6.0)
    gap[2] = np.nan
    tokens = tokenizer(tokenizer.preprocess.collate([tokenizer.preprocess(s, False) for s in (whole, gap)]))
    assert torch.isfinite(tokens.x).all()
    same = (tokens.x[0] == tokens.x[1]).all(dim=1).tolist()
    assert same == [True, True, False, True]


def test_knobs_that_contradict_each_other_are_refused():
    for knobs in (
        {"axis": (3.0, 3.0)},
        {"derivative": 1},
        {"window": 4},
        {"window": 3, "degree": 3},
        {"window": 11},
        {"window": 5, "derivative": 2, "degree": 1},
    ):
        with pytest.raises(MetaformerError):
            SpectrumTokenizer(8, points=10, **knobs)
