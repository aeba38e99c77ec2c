"""A manifest gives the same samples whatever its format, and says where a broken one is broken."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from metaformer.data.manifest import ManifestDataset
from metaformer.errors import DataError

ROWS: list[dict[str, Any]] = [
    {"image": "a.png", "age": 3, "price": 1.5, "label": "dog", "split": "train"},
    {"image": None, "age": None, "price": 2.0, "label": "cat", "split": "train"},
    {"image": "c.png", "age": 5, "price": None, "label": None, "split": "test"},
]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    """The rows as a manifest in the format of the path's ending."""
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    else:
        mark = "\t" if path.suffix == ".tsv" else ","
        lines = [rows[0].keys(), *(("" if v is None else str(v) for v in row.values()) for row in rows)]
        path.write_text("".join(mark.join(line) + "\n" for line in lines), encoding="utf-8")
    return path


def refused(path: Path, **knobs: Any) -> str:
    """The message of the error that opening the manifest ends in; it has all three parts."""
    with pytest.raises(DataError) as caught:
        ManifestDataset(path=path, **knobs)
    assert caught.value.asked
    assert caught.value.found
    assert caught.value.do
    assert caught.value.exit_code == 3
    return str(caught.value)


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "parquet"])
def test_every_format_gives_the_same_samples(tmp_path: Path, ending: str) -> None:
    data = ManifestDataset(path=write(tmp_path / f"m.{ending}", ROWS))
    assert [data[i] for i in range(len(data))] == ROWS
    assert data.root == tmp_path
    assert dict(data.classes)["label"] == ("cat", "dog")
    assert "age" not in data.classes
    assert set(data.columns) == set(ROWS[0])
    with pytest.raises(IndexError):
        data[len(data)]


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_columns_id_split_and_row_stream(tmp_path: Path, ending: str) -> None:
    path = write(tmp_path / f"m.{ending}", ROWS)
    columns = {"picture": "image", "row": "*", "label": "label"}
    data = ManifestDataset(path=path, columns=columns, split="train", root=tmp_path / "pictures")
    assert len(data) == 2
    assert data[0] == {"picture": "a.png", "row": {"age": 3, "price": 1.5}, "label": "dog"}
    assert data[1]["picture"] is None
    assert data[1]["row"] == {"age": None, "price": 2.0}
    assert data.root == tmp_path / "pictures"
    test = ManifestDataset(path=path, columns=columns, split="test", id="image")
    assert test.sample_id(0) == "c.png"
    assert test.classes["label"] == data.classes["label"] == ("cat", "dog"), "classes depend on the split"
    assert data.sample_id(1) != data.sample_id(0)


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_pickled_data_are_equal_and_small(tmp_path: Path, ending: str) -> None:
    rows = [{"text": f"{i} " + "x" * 1000, "label": "ab"[i % 2]} for i in range(200)]
    data = ManifestDataset(path=write(tmp_path / f"m.{ending}", rows), split="a", split_column="label")
    pickled = pickle.dumps(data)
    assert len(pickled) < 300_000
    again = pickle.loads(pickled)
    assert [again[i] for i in range(len(again))] == [data[i] for i in range(len(data))]
    assert again.fingerprint() == data.fingerprint()
    assert again.classes.get("label") == data.classes.get("label") == ("a", "b")
    assert pickle.loads(pickle.dumps(data.classes))["label"] == ("a", "b")


def test_fingerprint_follows_the_content(tmp_path: Path) -> None:
    path = write(tmp_path / "m.csv", ROWS)
    first = ManifestDataset(path=path).fingerprint()
    assert ManifestDataset(path=path).fingerprint() == first
    path.write_text(path.read_text().replace("dog", "cow"))
    assert ManifestDataset(path=path).fingerprint() != first


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["1", " 2", "+3", ""], [1, 2, 3, None]),
        (["1", "2.5", "1e-3"], [1.0, 2.5, 0.001]),
        (["1", "NA", "nan", "?"], [1, None, None, None]),
        (["007", "008"], ["007", "008"]),
        (["0", "1"], [0, 1]),
        (["9" * 25, "1"], ["9" * 25, "1"]),
        (["NA", "NZ"], ["NA", "NZ"]),
        (["true", "None"], ["true", "None"]),
        (["NA", "NA"], ["NA", "NA"]),
        (['"a, ""b"""', '"two\nlines"', "c"], ['a, "b"', "two\nlines", "c"]),
    ],
)
def test_what_csv_cells_become(tmp_path: Path, cells: list[str], expected: list[Any]) -> None:
    path = tmp_path / "m.csv"
    path.write_text("a,b\n" + "".join(f"{cell},x\n" for cell in cells), encoding="utf-8")
    data = ManifestDataset(path=path)
    values = [data[i]["a"] for i in range(len(data))]
    assert values == expected
    assert [type(value) for value in values] == [type(value) for value in expected]


def test_types_and_missing_are_knobs(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_text("\ufeffcode,label\n1,-\n2,b\n", encoding="utf-8")
    data = ManifestDataset(path=path, types={"code": "str"}, missing=("-",))
    assert data[0] == {"code": "1", "label": None}
    assert data.classes["label"] == ("b",)
    assert "'b' in row 2" in refused(path, types={"label": "int"}, missing=("-",))
    path.write_text("code,label\nNA,b\n", encoding="utf-8")
    assert ManifestDataset(path=path, types={"code": "int"})[0]["code"] is None
    listed = ManifestDataset(path=path, classes={"label": ("b", "a")})
    assert listed.classes["label"] == ("b", "a")


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_nested_lists_are_arrays(tmp_path: Path, ending: str) -> None:
    rows = [{"s": [[1, 2], [3, None]], "r": [[1], [2, 3]], "t": ["a", "b"], "e": [0.5]}]
    sample = ManifestDataset(path=write(tmp_path / f"m.{ending}", rows))[0]
    np.testing.assert_array_equal(sample["s"], [[1, 2], [3, np.nan]])
    np.testing.assert_array_equal(sample["e"], [0.5])
    assert sample["r"] == [[1], [2, 3]]
    assert sample["t"] == ["a", "b"]


def test_json_lines_may_lack_keys(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text('\ufeff{"a": 1}\n\n{"b": "x", "a": NaN}\n', encoding="utf-8")
    data = ManifestDataset(path=path)
    assert [data[0], data[1]] == [{"a": 1, "b": None}, {"a": None, "b": "x"}]
    assert data.sample_id(1) == "m.jsonl:3"


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("m.csv", b"", "empty"),
        ("m.csv", b"a,b\n", "found: none"),
        ("m.csv", b"a,b\n1,2\n3\n", "row 3"),
        ("m.csv", b"a,b\n1,2\n3,4,5\n", "row 3"),
        ("m.csv", b"a,b\n1,2\n3,\xff\n", "line 3 has byte 0xff"),
        ("m.csv", b"a,\xff\n1,2\n", "line 1 has byte 0xff"),
        ("m.csv", b"a,a\n1,2\n", "twice"),
        ("m.csv", b'a,b\n1,2\n3,"4\n5,6\n', "never closes"),
        ("m.jsonl", b"\n", "found: none"),
        ("m.jsonl", b'{"a": 1}\n{"a":\n', "line 2"),
        ("m.jsonl", b'{"a": 1}\n{"a": "\xff"}\n', "line 2"),
        ("m.jsonl", b'[{"a": 1}]\n', "ordinary JSON"),
        ("m.jsonl", b'{"a": ' + b"[" * 100_000 + b"\n", "line 1"),
        ("m.jsonl", b'{"a": ' + b"1" * 10_000 + b"}\n", "line 1"),
        ("m.parquet", b"PAR1", "as Parquet"),
        ("m.txt", b"a\n1\n", "set `format"),
    ],
)
def test_broken_files_are_named_with_the_place(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    message = refused(path)
    assert says in message
    assert name in message


def test_absent_files_and_wrong_columns(tmp_path: Path) -> None:
    path = write(tmp_path / "m.csv", ROWS)
    assert "absent.csv" in refused(tmp_path / "absent.csv")
    assert "a folder" in refused(tmp_path)
    wrong = refused(path, columns={"picture": "imgae"})
    assert "did you mean 'image'?" in wrong
    assert "'price'" in wrong
    assert "`id`" in refused(path, id="name")
    assert "`split_column`" in refused(path, split="train", split_column="part")
    assert "'test', 'train'" in refused(path, split="valid")
    assert "nothing is left" in refused(path, columns={**{key: key for key in ROWS[0]}, "row": "*"})
    path.write_text("a;b\n1;2\n")
    assert "delimiter: ';'" in refused(path, columns={"x": "a"})
    assert "one character" in refused(path, delimiter=";;")
    assert ManifestDataset(path=path, delimiter=";")[0] == {"a": 1, "b": 2}
