"""One series: shapes, gaps, normalisation, files, and what is refused."""

from __future__ import annotations

import io
import pickle
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from metaformer.arrays.series import SeriesPreprocess
from metaformer.errors import DataError
from metaformer.types import Raw

NAN = float("nan")


def prepare(value: Any, channels: int = 1, max_length: int = 50, **knobs: Any) -> Raw:
    return SeriesPreprocess(channels, max_length, **knobs)(value, train=False)


def test_arrays_lists_and_tensors_are_length_by_channels() -> None:
    table = [[1.0, 2], [3, 4], [5, 6]]
    raws = [prepare(v, 2, normalize="none") for v in (table, np.array(table), torch.tensor(table))]
    for raw in raws:
        assert raw["values"].tolist() == table
        assert raw["values"].dtype == torch.float32
        assert raw["observed"].all()
        assert raw["mask"].shape == (3,)
    assert prepare([1, 2, 3], normalize="none")["values"].tolist() == [[1.0], [2.0], [3.0]]


def test_instance_normalisation_over_what_is_observed() -> None:
    series = np.random.default_rng(0).normal(5, 3, size=(40, 2))
    series[::3, 0] = NAN
    raw = prepare(series, 2)
    for channel in range(2):
        values = raw["values"][raw["observed"][:, channel], channel]
        assert abs(values.mean()) < 1e-5
        assert abs(values.std(unbiased=False) - 1) < 1e-4


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e5])
@pytest.mark.parametrize("shift", [0.0, 1e9])
def test_instance_normalisation_forgets_shift_and_scale(scale: float, shift: float) -> None:
    series = np.random.default_rng(0).normal(size=(40, 1))
    expected = prepare(series * 1e3)["values"]
    if scale >= 1:
        torch.testing.assert_close(prepare(series * scale + shift)["values"], expected, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("value", [7.0, 1e30, 0.0])
def test_constant_and_huge_series_stay_finite(value: float) -> None:
    assert prepare([value] * 5)["values"].abs().max() < 1e-3
    assert prepare([value, -value, value])["values"].isfinite().all()


def test_gaps_are_bridged_or_left() -> None:
    series = [[NAN, NAN], [1, NAN], [NAN, NAN], [3, NAN], [NAN, NAN]]
    raw = prepare(series, 2, normalize="none")
    assert raw["values"][:, 0].tolist() == [1, 1, 2, 3, 3]
    assert raw["values"][:, 1].isnan().all()
    assert raw["observed"].tolist() == [[not np.isnan(v) for v in row] for row in series]
    assert prepare(series, 2, normalize="none", fill="zero")["values"][2].isnan().all()
    assert prepare([1, None, 3], normalize="none")["values"].flatten().tolist() == [1, 2, 3]


def test_too_long_is_cut_or_refused() -> None:
    assert len(prepare(range_of(60), normalize="none")["values"]) == 50
    with pytest.raises(DataError, match="at most 50 steps"):
        prepare(range_of(60), truncate=False)
    assert len(prepare(range_of(50), truncate=False)["values"]) == 50


def range_of(length: int) -> list[float]:
    return [float(i) for i in range(length)]


@pytest.mark.parametrize(
    "value",
    [
        [],
        [[]],
        np.zeros((0, 1)),
        np.zeros((2, 2, 1)),
        [NAN, NAN],
        [1.0, float("inf")],
        [1.0, -1e31],
        ["a", "b"],
        np.array(["a"]),
        [1 + 2j],
        np.array([1j]),
        [[1, 2], [3]],
        "1,2,3",
        b"123",
        5.0,
        {"a": 1},
        [10**400],
    ],
)
def test_what_is_no_series_is_refused(value: Any) -> None:
    with pytest.raises(DataError) as caught:
        prepare(value)
    assert caught.value.found
    assert caught.value.do


def test_wrong_number_of_channels_says_so_and_guesses_a_transposition() -> None:
    with pytest.raises(DataError, match="transpose"):
        prepare(np.zeros((2, 9)), 2)
    with pytest.raises(DataError, match="`channels`"):
        prepare(np.zeros((9, 3)), 2)


def test_csv_with_and_without_header(tmp_path: Path) -> None:
    file = tmp_path / "x.csv"
    file.write_text("1,2\n3,\n")
    raw = prepare(file, 2, normalize="none")
    assert raw["values"].tolist() == [[1, 2], [3, 2]]
    assert raw["observed"].tolist() == [[True, True], [True, False]]
    file.write_text("\ufefftime,a,b\n2020-01-01,1,2\n2020-01-02,3,4\n", encoding="utf-8")
    assert prepare(file, 2, normalize="none", columns=("b", "a"))["values"].tolist() == [[2, 1], [4, 3]]
    (tmp_path / "x.tsv").write_text("1\t2\n")
    assert prepare(tmp_path / "x.tsv", 2, normalize="none")["values"].tolist() == [[1, 2]]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "empty file"),
        ("1,2\n3\n", "row 2 has 1 cells"),
        ("1,2\n3,x\n", "'x'"),
        ("a,b\n", "all missing|steps"),
        ("a,c\n1,2\n", "no column b; there is: a, c"),
        ("1,2\n", "no header line"),
    ],
)
def test_faulty_csv_names_file_and_fault(tmp_path: Path, text: str, expected: str) -> None:
    file = tmp_path / "bad.csv"
    file.write_text(text)
    columns = ("a", "b") if "column" in expected or "header" in expected else ()
    with pytest.raises(DataError, match=rf"(?s)bad\.csv.*({expected})"):
        prepare(file, 2, columns=columns)


def test_npy_is_read_and_nothing_in_it_runs(tmp_path: Path) -> None:
    file = tmp_path / "x.npy"
    np.save(file, np.arange(6, dtype=np.int16).reshape(3, 2))
    assert prepare(file, 2, normalize="none")["values"].tolist() == [[0, 1], [2, 3], [4, 5]]
    np.save(file, np.array([object(), {"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match=r"x\.npy"):
        prepare(file)
    np.save(file, np.array(["a"]))
    with pytest.raises(DataError, match=r"x\.npy"):
        prepare(file)


def test_npy_header_cannot_ask_for_more_than_the_file_has(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "<f8", "fortran_order": False, "shape": (10**12, 1)})
    (tmp_path / "liar.npy").write_bytes(buffer.getvalue() + b"\0" * 80)
    with pytest.raises(DataError, match=r"liar\.npy"):
        prepare(tmp_path / "liar.npy")


@pytest.mark.parametrize("suffix", [".npy", ".csv"])
def test_flipped_bytes_give_a_series_or_an_error(tmp_path: Path, suffix: str) -> None:
    file, rng, refused = tmp_path / f"x{suffix}", random.Random(0), 0
    if suffix == ".npy":
        np.save(file, np.arange(12.0).reshape(6, 2))
    else:
        np.savetxt(file, np.arange(12.0).reshape(6, 2), delimiter=",", fmt="%.3f")
    whole = file.read_bytes()
    for _ in range(300):
        damaged = bytearray(whole)
        damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
        file.write_bytes(damaged)
        try:
            raw = prepare(file, 2)
        except DataError:
            refused += 1
        else:
            assert raw["values"].shape[1] == 2
            assert not raw["values"].isinf().any()
    assert 0 < refused < 300


def test_other_files_and_absent_ones_are_refused(tmp_path: Path) -> None:
    for name in ("x.npz", "x.pkl", "x.csv", "x.npy"):
        with pytest.raises(DataError, match=name):
            prepare(tmp_path / name)


def test_preprocess_travels_to_workers_and_repeats() -> None:
    pre = SeriesPreprocess(1, 50)
    one, other = pre([1, 2, 4], train=True), pickle.loads(pickle.dumps(pre))([1, 2, 4], train=True)
    assert all(torch.equal(one[key], other[key]) for key in one)
