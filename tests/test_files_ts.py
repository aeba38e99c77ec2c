"""The `.ts` reader: the format's variants, errors with their line, damaged files, and the sets inside aeon."""

from __future__ import annotations

import pickle
import random
from pathlib import Path
from typing import get_args, get_type_hints

import numpy as np
import pytest
from metaformer_plugin_timeseries.datasets import AEON, AeonDataset, TsDataset, aeon_folder

from metaformer.errors import DataError
from metaformer.files.ts import read_ts

HEADER = """# a comment
%also a comment

@problemName Two
@timeStamps false
@univariate false
@dimensions 2
@equalLength false
@classLabel true up down
@data
"""
CASES = "1,2,3:4,5,6:up\n1.5,?:-1e3,NaN:down\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "two.ts"
    path.write_text(HEADER + CASES)
    return path


def test_channels_lengths_gaps_and_classes(file: Path) -> None:
    found = read_ts(file)
    assert found.labels == ["up", "down"]
    assert found.header.classes == ("up", "down")
    assert found.series[0].tolist() == [[1, 4], [2, 5], [3, 6]]
    np.testing.assert_array_equal(found.series[1], [[1.5, -1000], [np.nan, np.nan]])


def test_targets_are_numbers_and_labels_may_be_absent(tmp_path: Path) -> None:
    path = tmp_path / "x.ts"
    path.write_text("@univariate true\n@targetlabel true\n@data\n1,2:0.5\n3,4:?\n")
    labels = read_ts(path).labels
    assert labels is not None
    assert labels[0] == 0.5
    assert np.isnan(labels[1])
    path.write_text("@univariate true\n@classLabel false\n@data\n1,2\n")
    assert read_ts(path).labels is None
    assert TsDataset(path=path)[0]["label"] is None


def test_classes_that_the_header_does_not_list_are_sorted(tmp_path: Path) -> None:
    path = tmp_path / "x.ts"
    path.write_text("@univariate true\n@classLabel true\n@data\n1:b\n2:a\n")
    assert read_ts(path).header.classes == ("a", "b")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("4,5,6", "4,5"), "line 11.*different lengths: 3, 2"),
        (("4,5,6", "4,x,6"), "line 11.*'x'"),
        ((":up", ":left"), "line 11.*'left'"),
        ((":up", ":"), "line 11.*no label"),
        (("1,2,3:4,5,6", "1,2,3"), "line 11.*1 channels.*@dimensions 2"),
        (("4,5,6", ""), "line 11.*empty channel"),
        (("@timeStamps false", "@timeStamps true"), "time stamps"),
        (("@equalLength false", "@equalLength maybe"), "line 8.*maybe"),
        (("@data\n", ""), "line 10.*before @data"),
        ((CASES, ""), "no series after @data"),
        (("@univariate false", "@univariate true"), "line 11.*@univariate true"),
    ],
)
def test_faults_are_named_with_their_line(file: Path, change: tuple[str, str], expected: str) -> None:
    file.write_text((HEADER + CASES).replace(*change))
    with pytest.raises(DataError, match=f"(?s){expected}"):
        read_ts(file)


def test_absent_empty_and_binary_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nothing"):
        read_ts(tmp_path / "nothing.ts")
    (tmp_path / "empty.ts").touch()
    with pytest.raises(DataError, match="no @data"):
        read_ts(tmp_path / "empty.ts")
    (tmp_path / "binary.ts").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"binary\.ts"):
        read_ts(tmp_path / "binary.ts")


def test_flipped_bytes_give_series_or_an_error(file: Path) -> None:
    whole, rng, refused = file.read_bytes(), random.Random(0), 0
    for _ in range(200):
        damaged = bytearray(whole)
        damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
        file.write_bytes(damaged)
        try:
            found = read_ts(file)
        except DataError:
            refused += 1
        else:
            assert all(series.ndim == 2 and series.size for series in found.series)
    assert 0 < refused < 200


def test_dataset_sample_fingerprint_and_pickle(file: Path) -> None:
    data = TsDataset(path=file, stream="x", target="y")
    assert len(data) == 2
    assert data[1]["y"] == "down"
    assert data.classes == {"y": ("up", "down")}
    assert data.sample_id(1) == "two.ts:1"
    before = data.fingerprint()
    assert np.array_equal(pickle.loads(pickle.dumps(data))[0]["x"], data[0]["x"])
    file.write_text((HEADER + CASES).replace("1.5", "1.6"))
    assert TsDataset(path=file, stream="x", target="y").fingerprint() != before


@pytest.fixture(scope="module")
def aeon() -> Path:
    try:
        return aeon_folder()
    except DataError as error:
        pytest.skip(str(error))


def test_every_aeon_set_opens_and_its_splits_agree(aeon: Path) -> None:
    knobs = get_type_hints(AeonDataset.__init__)
    assert set(get_args(knobs["name"])) == AEON.keys()
    for name in get_args(knobs["name"]):
        train, valid = AeonDataset(name=name, split="train"), AeonDataset(name=name, split="valid")
        assert train.classes == valid.classes
        assert train.series[0].shape[1] == valid.series[0].shape[1]
        assert train.fingerprint() != valid.fingerprint()


def test_aeon_sets_are_what_the_docstring_says(aeon: Path) -> None:
    vowels = AeonDataset(name="japanese_vowels", split="train")
    lengths = [len(series) for series in vowels.series]
    assert (len(vowels), vowels.series[0].shape[1], min(lengths), max(lengths)) == (270, 12, 7, 26)
    covid = AeonDataset(name="covid_3month", split="valid")
    assert not covid.classes
    assert isinstance(covid[0]["label"], float)
