"""The examples run, as their READMEs say."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.documents import README, ROOT, section
from tests.pictures import picture
from tests.stranger import Environment

EXAMPLES = ROOT / "examples"


# Examples.


@pytest.fixture(scope="module")
def stranger(tmp_path_factory) -> Environment:
    environment = Environment(tmp_path_factory.mktemp("examples"))
    environment.install(EXAMPLES / "new_modality")
    environment.install(EXAMPLES / "custom_objective")
    return environment


QUICK = ["--set", "steps=2", "--set", "eval_every=2", "--set", "batch_size=8"]


def newest(folder: Path) -> Path:
    run = max(folder.iterdir())
    assert json.loads((run / "status.json").read_text())["state"] == "finished"
    return run


@pytest.fixture(scope="module")
def functions(stranger) -> Path:
    recipe_ = EXAMPLES / "new_modality" / "functions.yaml"
    stranger.metaformer("train", str(recipe_), *QUICK, "--set", "controls=[none]", "--set", "trainable=frozen")
    return newest(stranger.work / "runs" / "functions")


def test_a_new_modality_trains_and_predicts(stranger, functions):
    result = json.loads((functions / "result.json").read_text())
    assert result.keys() == {"this run", "control none"}
    code = "def f(self, value):\n    self.value = value"
    (line,) = stranger.metaformer("predict", str(functions), "--input", code).stdout.splitlines()
    probabilities = json.loads(line)["verb"]["probabilities"]
    assert probabilities.keys() == {"add", "close", "get", "is", "read", "repr", "set", "write"}
    assert sum(probabilities.values()) == pytest.approx(1, abs=1e-5)
    done = stranger.metaformer("predict", str(functions), "--input", "def f(:", code=3)
    assert "SyntaxError" in done.stderr


def test_a_run_directory_holds_what_the_readme_says(functions):
    told = set(re.findall(r"^[├└]── (\S+)", section(README, "The run directory"), re.MULTILINE))
    there = {path.name + "/" * path.is_dir() for path in functions.iterdir()}
    assert told == there


CONFORMANCE = """
from metaformer.testing import dataset_checks, objective_checks, tokenizer_checks

code = ["def f(x):\\n    return [y for y in x]", "pass", b"x = 1\\n" * 99]
for check in [
    *tokenizer_checks(("bytecode", {"max_length": 8}), code, bad=["def f(:", "", "\\0", None, 5]),
    *dataset_checks(("stdlib_functions", {"split": "valid"}), limit=5),
    *objective_checks(("focal", {"head": "label"}), {"label": ("classification", {"num_classes": 5})}),
]:
    check.run()
print("all hold")
"""


def test_example_plugins_conform(stranger):
    assert stranger.ask(CONFORMANCE) == "all hold\n"


def test_no_function_is_in_both_splits(stranger):
    program = """
from metaformer.registry import registry
cls = registry().load("dataset", "stdlib_functions")
train, valid = ({text for text, *_ in cls(split=split).rows} for split in ("train", "valid"))
print(len(train) > 500, len(valid) > 100, len(train & valid))
"""
    assert stranger.ask(program) == "True True 0\n"


FOCAL = """
import torch
from metaformer.registry import registry
from metaformer.schema import construct
from metaformer.types import Batch, Prediction

class Model:
    def __init__(self, logits, present):
        self.logits, self.present = logits, present
    def predict(self, batch, head):
        return Prediction(self.logits, self.present)

def loss(name, logits, target, present, **knobs):
    head = construct(registry().load("head", "classification"), {"num_classes": 3}, {"dim": 4})
    wired = {"task": "t", "heads": {"kind": head}, "widths": {}}
    objective = construct(registry().load("objective", name), {"head": "kind", **knobs}, wired)
    (value,) = objective(Model(logits, present), Batch("t", {}, {}, {"kind": target}, [])).values()
    return value

torch.manual_seed(0)
logits, target = torch.randn(6, 3), torch.tensor([0, 1, 2, -100, 1, 0])
present = torch.tensor([True] * 5 + [False])
torch.testing.assert_close(loss("focal", logits, target, present, gamma=0.0),
                           loss("cross_entropy", logits, target, present))
right = logits.softmax(-1)[range(6), target.clamp(min=0)][[0, 1, 2, 4]]
focal = (-((1 - right) ** 1.5) * right.log()).mean()
torch.testing.assert_close(loss("focal", logits, target, present, gamma=1.5), focal)
sure = torch.tensor([[99.0, 0, 0]], requires_grad=True)
loss("focal", sure, torch.tensor([0]), torch.tensor([True]), gamma=0.5).backward()
assert sure.grad.isfinite().all()
print("equal")
"""


def test_focal_loss_is_the_papers_formula_and_at_gamma_0_cross_entropy(stranger):
    assert stranger.ask(FOCAL) == "equal\n"


def test_a_custom_objective_trains(stranger):
    stranger.metaformer("train", str(EXAMPLES / "custom_objective" / "tumours.yaml"), *QUICK)
    run = newest(stranger.work / "runs" / "tumours")
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["metrics"].keys() == {"tumours/loss", "tumours/accuracy", "tumours/auroc"}


def test_classifying_pictures_needs_a_folder_and_a_recipe(tmp_path):
    for number in range(12):
        part, name = ("train", "valid")[number % 2], ("dark", "light", "white")[number // 2 % 3]
        picture(tmp_path / "mine" / part / name / f"{number}.png", 20 * number)
    script = EXAMPLES / "classify_your_own_images" / "classify.py"
    command = [sys.executable, str(script), "mine", "--output", "out", "--steps", "2"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    newest(tmp_path / "out" / "pictures")
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["id"].startswith("mine/valid/white/")
    assert said["label"]["probabilities"].keys() == {"dark", "light", "white"}


def test_classifying_pictures_makes_digits_where_none_are_given(tmp_path):
    sys.path.insert(0, str(EXAMPLES / "classify_your_own_images"))
    try:
        from classify import make_digits
    finally:
        sys.path.pop(0)
    make_digits(tmp_path)
    files = {part: list((tmp_path / part).glob("*/*.png")) for part in ("train", "valid")}
    assert {part: len(found) for part, found in files.items()} == {"train": 1437, "valid": 360}
    assert {file.parent.name for file in files["valid"]} == set("0123456789")
    with Image.open(files["train"][0]) as image:
        assert (image.size, image.mode) == ((8, 8), "L")


RETRIEVE = EXAMPLES / "retrieve_across_modalities"


@pytest.fixture
def retrieve(monkeypatch):
    monkeypatch.syspath_prepend(str(RETRIEVE))
    import retrieve

    return retrieve


def test_fields_are_pictures_beside_the_spectra_of_their_middles(retrieve, tmp_path):
    retrieve.make_fields(tmp_path)
    places = {}
    for split, count in (("train", 1800), ("valid", 648)):
        header, *rows = (tmp_path / f"{split}.csv").read_text().splitlines()
        assert (header, len(rows)) == ("picture,spectrum", count)
        files = [row.split(",") for row in rows]
        assert all((tmp_path / name).is_file() for names in files for name in names)
        with Image.open(tmp_path / files[0][0]) as image:
            levels = np.asarray(image)
        assert (levels.shape, levels.dtype) == ((6, 6), np.uint16)
        assert np.load(tmp_path / files[0][1]).shape == (199,)
        corners = [tuple(map(int, Path(name).stem.split("-"))) for name, _ in files]
        places[split] = {(y + dy, x + dx) for y, x in corners for dy in range(6) for dx in range(6)}
    assert not places["train"] & places["valid"]


def test_retrieving_needs_two_tables_and_a_recipe(tmp_path):
    mine, draw = tmp_path / "mine", np.random.default_rng(0)
    mine.mkdir()
    for split in ("train", "valid"):
        rows = ["picture,spectrum"]
        for number in range(10):
            picture(mine / f"{split}{number}.png", 20 * number)
            np.save(mine / f"{split}{number}.npy", draw.random(199))
            rows.append(f"{split}{number}.png,{split}{number}.npy")
        (mine / f"{split}.csv").write_text("\n".join(rows))
    command = [sys.executable, str(RETRIEVE / "retrieve.py"), "mine", "--output", "out", "--steps", "2"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    newest(tmp_path / "out" / "pictures_and_spectra")
    said = done.stdout.splitlines()
    assert said[-4] == "valid0.png belongs to valid0.npy; the best of 10:"
    fits = [float(line.split()[0]) for line in said[-3:]]
    assert fits == sorted(fits, reverse=True)
    assert all(re.fullmatch(r"  -?\d\.\d{3} valid\d\.npy", line) for line in said[-3:])
    assert "picture → spectrum" in done.stdout
