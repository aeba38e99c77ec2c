"""Twelve defective components of tests/defective: each is caught by the check that names its defect, by its
consequences, and by nothing else. They are checked as a stranger's are, by `metaformer plugins check`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent / "defective"
DISTRIBUTION = "metaformer-plugin-defective"
DEFECTS = {
    ("tokenizer", "wrong_width"): ("output_shape", "tokens are 16 wide where the encoder is 32", ()),
    ("tokenizer", "inverted_mask"): (
        "mask",
        "is the mask upside down? True is real",
        ("padding_invariance", "gradient_reach"),
    ),
    ("tokenizer", "padding_leak"): ("padding_invariance", "padding leak", ()),
    ("tokenizer", "unpicklable"): ("preprocess_pickle", "the preprocess cannot be pickled", ()),
    ("tokenizer", "small_example"): ("example", "costs would be counted too low", ()),
    ("tokenizer", "takes_anything"): ("bad_values", "bad value 0 ('smoke') is taken for a good one", ()),
    ("encoder", "hidden_seed"): ("random_state", "moves the global random state of numpy, torch", ()),
    ("encoder", "redrawn"): ("frozen", "become others: blocks.0.weight, blocks.0.bias", ()),
    ("bridge", "mixed_batch"): ("batch_independence", "something mixes the rows", ("missing_stream",)),
    ("bridge", "cut_gradient"): ("gradient_through", "no gradient", ()),
    ("head", "nan_on_empty"): ("empty_row", "a row in which all is masked is not finite", ("bf16_autocast",)),
    ("head", "phones_home"): ("import_offline", "its import uses the network (localhost)", ()),
}
"""Kind and name → the check that names the defect, its sentence, and checks that the defect makes fail as well."""


@pytest.fixture(scope="module")
def receipt():
    path = os.pathsep.join(filter(None, [str(FOLDER), os.environ.get("PYTHONPATH", "")]))
    command = [sys.executable, "-m", "metaformer", "plugins", "check", DISTRIBUTION, "--json"]
    env = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert done.returncode == 4, done.stdout + done.stderr
    (receipt,) = json.loads(done.stdout)
    return receipt


@pytest.mark.parametrize(("kind", "name"), DEFECTS, ids=[name for _, name in DEFECTS])
def test_a_defect_is_caught_by_the_check_that_names_it_and_by_no_other(receipt, kind, name):
    check, sentence, consequences = DEFECTS[kind, name]
    found = {c["check"]: c["sentence"] for c in receipt["checks"] if (c["kind"], c["name"]) == (kind, name)}
    failed = {c["check"] for c in receipt["checks"] if (c["kind"], c["name"]) == (kind, name) and not c["passed"]}
    assert sentence in found[check]
    assert failed == {check, *consequences}
    assert len(found) > len(failed) + 15


def test_what_is_sound_beside_them_passes_everything(receipt):
    checks = [c for c in receipt["checks"] if c["name"] in ("sound", DISTRIBUTION)]
    assert {c["kind"] for c in checks} == {"tokenizer", "encoder", "bridge", "head", "plugin"}
    assert [c for c in checks if not c["passed"]] == []
    assert receipt["not_exercised"] == []
    assert receipt["failed"] == sum(1 + len(consequences) for *_, consequences in DEFECTS.values())
    assert receipt["passed"] + receipt["failed"] == len(receipt["checks"])


def test_every_defect_is_a_file_of_its_own():
    files = {path.stem for path in FOLDER.glob("metaformer_plugin_defective/*.py")}
    assert files - {"__init__", "conformance", "sound"} == {name for _, name in DEFECTS}
    assert len(DEFECTS) == 12
