"""Own data with no Python, and what a trained run is good for: eval, predict, embed, from the shell and from Python."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pyarrow import parquet
from sklearn.datasets import load_digits

import metaformer
from metaformer.errors import DataError, RecipeError, UsageError
from metaformer.evaluate import eval_command
from metaformer.predict import embed_command, predict_command
from metaformer.run import open_run
from metaformer.train import train_command

RECIPE = """
name: own
tokenizers:
  image: {{use: image, image_size: 8, patch_size: 4, channels: 1, resize: exact}}
  row: {{use: tabular, numeric: [ink, height]}}
encoders:
  shared: {{use: transformer, dim: 16, depth: 1, num_heads: 2}}
passes:
  both: {{reads: [image, row], encoder: shared}}
heads:
  label: {{use: classification, reads: both, num_classes: 2, pool: mean}}
tasks:
  own:
    data:
      train: {{use: manifest, path: {train}, columns: {{image: file, row: "*", label: kind}}}}
      valid: {{use: manifest, path: {valid}, columns: {{image: file, row: "*", label: kind}}}}
    objective: {{use: cross_entropy, head: label}}
    metrics: [accuracy, f1]
trainable: tuned
optimizer: {{lr: 1.0e-2}}
steps: 60
batch_size: 8
engine: {{use: torch}}
output: {output}
"""


def write_manifest(folder: Path, name: str, indices: range) -> Path:
    """Zeros and ones as PNG files, with two columns of a table, some cells of which are missing."""
    digits = load_digits(n_class=2)
    folder.mkdir(exist_ok=True)
    with (folder / name).open("w", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(["file", "kind", "ink", "height"])
        for i in indices:
            Image.fromarray((digits.images[i] * 15).astype(np.uint8)).save(folder / f"{i}.png")
            row = [f"{i}.png", ["zero", "one"][digits.target[i]], digits.images[i].sum(), 8]
            if i % 5 == 0:
                row[0] = ""
            if i % 7 == 0:
                row[2] = "NaN"
            writer.writerow(row)
    return folder / name


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A folder of own data and a run trained on it: pictures and table rows, any of which may be missing."""
    folder = tmp_path_factory.mktemp("own")
    train = write_manifest(folder, "train.csv", range(60))
    valid = write_manifest(folder, "valid.csv", range(60, 100))
    recipe = folder / "own.yaml"
    recipe.write_text(RECIPE.format(train=train, valid=valid, output="runs"))
    train_command([recipe], [f"output={folder / 'runs'}"])
    return folder


def test_samples_that_lack_a_stream_train_and_count(own):
    result = open_run(own / "runs/own").read_json("result.json")["this run"]["metrics"]
    assert result["own/accuracy"] > 0.8
    assert np.isfinite(result["own/loss"])


def test_python_predicts_with_and_without_a_stream(own):
    run = metaformer.load(own / "runs/own")
    digits = load_digits(n_class=2)
    picture = (digits.images[70] * 15).astype(np.uint8)
    for streams in ({"image": picture, "row": {"ink": 100, "height": 8}}, {"image": picture}):
        said = run.predict(**streams)
        assert said["label"]["class"] in ("zero", "one")
        assert sum(said["label"]["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    vectors = run.embed(image=picture, row={"ink": 100.0, "height": 8})
    assert vectors["both"].shape == (16,)
    with pytest.raises(DataError, match="image, row"):
        run.predict(picture=picture)


def test_predictions_do_not_depend_on_the_batch(own):
    run = metaformer.load(own / "runs/own")
    samples = [{"image": own / f"{i}.png", "row": {"ink": i, "height": 8}} for i in range(60, 70)]
    together = [p["label"]["probability"] for p in run.predict_many(samples, batch=10)]
    alone = [p["label"]["probability"] for p in run.predict_many(samples, batch=1)]
    assert together == pytest.approx(alone, abs=1e-5)


def test_command_line_predicts_a_manifest_into_a_file(own, tmp_path, capsys):
    output = tmp_path / "out.jsonl"
    predict_command(own / "runs/own", [str(own / "valid.csv")], output)
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    assert len(lines) == 40
    with (own / "valid.csv").open() as file:
        truth = [row["kind"] for row in csv.DictReader(file)]
    right = sum(line["label"]["class"] == kind for line, kind in zip(lines, truth, strict=True))
    assert right / 40 > 0.8
    assert "40 predictions" in capsys.readouterr().out


def test_command_line_names_streams_where_there_are_several(own, capsys):
    predict_command(own / "runs/own", ['row={"ink": 120, "height": 8}'], None)
    assert json.loads(capsys.readouterr().out)["label"]["class"] in ("zero", "one")
    with pytest.raises(UsageError, match="image, row"):
        predict_command(own / "runs/own", [str(own / "61.png")], None)


def test_eval_repeats_the_final_numbers(own, capsys):
    eval_command(own / "runs/own", [])
    expected = open_run(own / "runs/own").read_json("best.json")["value"]
    assert f"{expected:.4f}" in capsys.readouterr().out


def test_embed_writes_vectors_of_the_recipes_own_data(own, tmp_path):
    output = tmp_path / "e.parquet"
    embed_command(own / "runs/own", ["valid"], output)
    table = parquet.read_table(output)
    assert table.column_names == ["id", "both"]
    assert len(table) == 40
    assert len(set(table["id"].to_pylist())) == 40
    assert np.isfinite(np.array(table["both"].to_pylist())).all()
    with pytest.raises(UsageError, match="parquet"):
        embed_command(own / "runs/own", ["valid"], tmp_path / "e.csv")


@pytest.mark.parametrize(
    ("given", "found"),
    [("image=missing.png", "no such file"), ("image=broken.png", "broken.png"), ("nothing.csv", "say which stream")],
)
def test_bad_inputs_are_named(own, monkeypatch, given, found):
    monkeypatch.chdir(own)
    (own / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(20))
    with pytest.raises((DataError, UsageError)) as caught:
        predict_command(own / "runs/own", [given], None)
    assert found in str(caught.value)


def train_on(own: Path, tmp_path: Path, text: str, *sets: str) -> Path:
    """Train the recipe on a manifest of this text."""
    manifest = own / "bad.csv"
    manifest.write_text(text)
    data = "tasks.own.data"
    train_command(
        [own / "own.yaml"],
        [f"output={tmp_path}", "steps=3", f"{data}.train.path={manifest}", f"{data}.valid=null", *sets],
    )
    return open_run(tmp_path / "own").path


HEADER = "file,kind,ink,height\n"
GOOD = "".join(f"{i}.png,{kind},1,8\n" for i, kind in [(61, "one"), (62, "zero"), (63, "one")] * 4)


def test_a_corrupt_picture_ends_training_or_is_counted(own, tmp_path):
    (own / "broken.png").write_bytes(b"not a picture")
    text = HEADER + GOOD + "broken.png,one,1,8\n"
    with pytest.raises(DataError, match=r"broken\.png") as caught:
        train_on(own, tmp_path / "a", text)
    assert caught.value.exit_code == 3
    run = train_on(own, tmp_path / "b", text, "loader.bad_samples=skip", "loader.max_bad_fraction=0.5")
    bad = [json.loads(line) for line in (run / "bad_samples.jsonl").read_text().splitlines()]
    assert {record["index"] for record in bad} == {12}
    assert "broken.png" in bad[0]["error"]


def test_too_many_bad_samples_end_the_run(own, tmp_path):
    (own / "broken.png").write_bytes(b"not a picture")
    with pytest.raises(DataError, match="may be bad"):
        train_on(own, tmp_path, HEADER + "broken.png,one,1,8\n" * 8, "loader.bad_samples=skip", "steps=30")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEADER, "rows to train or test on"),
        (HEADER + GOOD + "61.png,one,inf,8\n", "ink"),
        (HEADER + GOOD + "61.png,one,much,8\n", "ink"),
        (HEADER + "61.png,a,1,8\n62.png,b,1,8\n63.png,c,1,8\n", "2 classes"),
        ("picture,kind,ink,height\n61.png,one,1,8\n", "file"),
    ],
)
def test_bad_tables_are_named(own, tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        train_on(own, tmp_path, text)


def test_an_absent_manifest_is_a_recipe_error(own, tmp_path):
    with pytest.raises(RecipeError, match="does not exist"):
        train_command([own / "own.yaml"], [f"output={tmp_path}", "tasks.own.data.train.path=no.csv"])


# What objectives say by themselves.


def answering(tmp_path, recipe, *sets):
    short = ("steps=2", "eval_every=2", "batch_size=8", f"output={tmp_path}")
    train_command([Path(__file__).parents[1] / "recipes" / recipe], [*short, *sets], "never")
    (folder,) = tmp_path.iterdir()
    return metaformer.load(folder)


def test_classes_by_sentences_about_them_are_predicted(tmp_path):
    run = answering(tmp_path, "clip/starter.yaml")
    picture = np.random.default_rng(0).integers(0, 256, (8, 8)).astype(np.uint8)
    said = run.predict(image=picture)
    assert said.keys() == {"image", "zero_shot"}
    names = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    assert [*said["zero_shot"]["probabilities"]] == names
    assert sum(said["zero_shot"]["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    assert said["zero_shot"]["class"] == names[said["zero_shot"]["index"]]
    assert run.predict(caption="the digit one").keys() == {"caption"}


def test_answers_are_predicted_by_how_likely_they_are_to_be_said(tmp_path):
    parts = ("tokenizers.image", "tokenizers.question", "tokenizers.answer", "encoders.vision", "encoders.text")
    loaded = (*parts, "bridges.fused", "bridges.said", "heads.words")
    run = answering(tmp_path, "albef/starter_answers.yaml", *(f"{part}.weights=null" for part in loaded))
    picture = np.random.default_rng(0).integers(0, 256, (8, 8)).astype(np.uint8)
    said = run.predict(image=picture, question="is it even?")
    assert said.keys() == {"ranking"}
    assert [*said["ranking"]["probabilities"]][-2:] == ["no", "yes"]
    assert sum(said["ranking"]["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    assert run.predict(image=picture) == {}
