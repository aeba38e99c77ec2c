"""Every component of the core and of the four plugins against the conformance kit; each check is a test of its own."""

import io
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from metaformer.base import Head
from metaformer.encoders.control import NoEncoder, shuffle_contents
from metaformer.encoders.transformer import TransformerEncoder
from metaformer.registry import registry
from metaformer.testing import (
    dataset_checks,
    encoder_checks,
    head_checks,
    metric_checks,
    objective_checks,
    tokenizer_checks,
)
from metaformer.types import Target

RNG = np.random.default_rng(0)
DRAWS = ("random_state", "preprocess_random_state")
"""Checks that need a process without the run-time type checks of the root's conftest.py: beartype itself draws from
python's `random`."""


def named(cases):
    """One test per case and check."""
    pairs = [(case, check) for case, checks in cases.items() for check in checks]
    return [pytest.param(check, id=f"{case}-{check}") for case, check in pairs if check.name not in DRAWS]


# Tokenizers.

PICTURES = [RNG.integers(0, 256, size, dtype=np.uint8) for size in [(16, 16, 3), (20, 31, 3), (40, 17)]]
NO_PICTURES = ["no path", np.zeros((2, 2, 2, 2)), np.zeros((0, 4)), b"\x89PNG", 5]
TEXTS = ["", "a", "äöü and more", "a longer text, with 42 words; or fewer" * 2]
NO_TEXTS = [b"\xff", "\ud800", 1.5, ["a"]]
ROWS = [{"a": 1, "b": 2.5, "c": "red"}, {"a": None, "b": float("nan"), "c": None}, {"a": -3, "b": "", "c": "grey"}]
NO_ROWS = [{"a": "tall"}, {"z": 1}, [1, 2], "1,2,red", {"a": 1e31}]
SERIES = [RNG.normal(3, 2, size=(length, 2)) for length in (1, 9, 30, 24)]
SERIES[2][4:6, 0] = np.nan
NO_SERIES = [np.zeros((4, 3)), np.full((4, 2), np.nan), [["x", "y"]], np.full((3, 2), 1e31), np.zeros((0, 2)), 5]

TABLE = {"numeric": ("a", "b"), "categorical": {"c": ("red", "blue")}}
CURVES = {"channels": 2, "max_length": 30}
TOKENIZERS = {
    "image": ("image", {"image_size": 16, "patch_size": 8}, PICTURES, NO_PICTURES),
    "image/gray": (
        "image",
        {"image_size": 16, "patch_size": 4, "channels": 1, "class_token": False, "positions": "sinusoidal"},
        PICTURES,
        NO_PICTURES,
    ),
    "image/augmented": ("image", {"image_size": 16, "patch_size": 8, "augment": "light"}, PICTURES, NO_PICTURES),
    "text": ("text", {"max_length": 32}, TEXTS, NO_TEXTS),
    "text/dropped": (
        "text",
        {"max_length": 32, "positions": "sinusoidal", "norm": True, "drop": 0.1, "token_dropout": 0.5},
        TEXTS,
        NO_TEXTS,
    ),
    "text/no-class": ("text", {"class_token": False, "end_token": True, "positions": "none"}, TEXTS[1:], NO_TEXTS),
    "tabular": ("tabular", {**TABLE, "cell_dropout": 0.3}, ROWS, NO_ROWS),
    "tabular/quantile": ("tabular", {"numeric": ("a", "b"), "scaling": "quantile"}, ROWS, [[1, 2, 3]]),
    "tabular/categories": ("tabular", {"categorical": {"c": ("red", "blue")}, "class_token": False}, ROWS, [{"a": 1}]),
    "timeseries": ("timeseries", {**CURVES, "patch_length": 4}, SERIES, NO_SERIES),
    "timeseries/overlap": (
        "timeseries",
        {**CURVES, "patch_length": 5, "stride": 3, "normalize": "dataset", "positions": "none", "class_token": False},
        SERIES,
        NO_SERIES,
    ),
    "timeseries/conv": (
        "timeseries",
        {**CURVES, "stem": "conv", "positions": "sinusoidal", "fill": "zero"},
        SERIES,
        NO_SERIES,
    ),
}


def checked_tokenizers():
    return {k: tokenizer_checks((use, knobs), good, bad=bad) for k, (use, knobs, good, bad) in TOKENIZERS.items()}


@pytest.mark.parametrize("check", named(checked_tokenizers()))
def test_tokenizer(check):
    check.run()


# Encoders.


def shuffled():
    encoder = TransformerEncoder(dim=16, depth=1, num_heads=2)
    shuffle_contents(encoder)
    return encoder


SMALL = {"dim": 32, "depth": 2, "num_heads": 4}
ENCODERS = {
    "transformer": encoder_checks(("transformer", SMALL)),
    "transformer/post": encoder_checks(
        ("transformer", {**SMALL, "norm": "post", "norm_in": True, "norm_out": True, "activation": "swiglu"})
    ),
    "transformer/regularised": encoder_checks(
        ("transformer", {**SMALL, "drop": 0.1, "drop_path": 0.1, "layer_scale": 0.1, "qkv_bias": False})
    ),
    "identity": encoder_checks(("identity", {"dim": 32})),
}


@pytest.mark.parametrize("check", named(ENCODERS))
def test_encoder(check):
    check.run()


@pytest.mark.parametrize(
    "check",
    # The controls change what an encoder does to positions and prefix; what workers and engines need stays.
    [
        pytest.param(check, id=f"{case}-{check}")
        for case, make in {"none": lambda: NoEncoder(16), "shuffled": shuffled}.items()
        for check in encoder_checks(make)
        if check.name not in ("padding_invariance", "batch_order")
    ],
)
def test_control(check):
    check.run()


# Heads.

HEADS = {
    "classification": ("classification", {"num_classes": 5}),
    "classification/mean": ("classification", {"num_classes": 5, "pool": "mean", "norm": False, "drop": 0.1}),
    "regression": ("regression", {"num_outputs": 3, "shift": 4.0, "scale": 2.0}),
    "projection": ("projection", {"size": 8, "bias": True}),
    "token_classification": ("token_classification", {"num_classes": 5}),
    "segmentation": ("segmentation", {"num_classes": 5, "hidden": 8, "drop": 0.1}),
    "forecast": ("forecast", {"horizon": 3, "channels": 2, "drop": 0.1}),
}


@pytest.mark.parametrize("check", named({case: head_checks(use) for case, use in HEADS.items()}))
def test_head(check):
    check.run()


# Objectives.

KNOBS = {"head": "label"}
OBJECTIVES = {
    "cross_entropy": (("cross_entropy", {**KNOBS, "label_smoothing": 0.1}), HEADS["classification"]),
    "cross_entropy/tokens": (("cross_entropy", KNOBS), HEADS["token_classification"]),
    "binary_cross_entropy": (("binary_cross_entropy", KNOBS), HEADS["classification"]),
    "regression": (("regression", KNOBS), HEADS["regression"]),
    "regression/huber": (("regression", {**KNOBS, "error": "huber"}), HEADS["regression"]),
    "regression/absolute": (("regression", {**KNOBS, "error": "absolute"}), HEADS["regression"]),
}


@pytest.mark.parametrize(
    "check", named({case: objective_checks(use, {"label": head}) for case, (use, head) in OBJECTIVES.items()})
)
def test_objective(check):
    check.run()


# Metrics.


class AnyHead(Head):
    """As much of a head as metrics look at."""

    predicts = "class"

    def __init__(self, size):
        super().__init__()
        self.size, self.linear = size, nn.Identity()

    def forward(self, tokens):
        return tokens.x


DRAW = torch.Generator().manual_seed(0)
LOGITS = torch.randn(12, 3, generator=DRAW)
CLASS = (LOGITS, torch.arange(12) % 3, Target("class", 3))
LABELS = (torch.arange(36).reshape(12, 3) % 5 % 2).float()
LABELS[3, 1] = torch.nan
MULTI = (LOGITS, LABELS, Target("multilabel", 3))
NUMBERS = (LOGITS[:, :2], LOGITS[:, 1:] + 0.5 * torch.randn(12, 2, generator=DRAW), Target("values", 2))
NUMBER = (LOGITS[:, :1], LOGITS[:, 1:2], Target("values", 1))
METRICS = {
    "accuracy": ("accuracy", {}, CLASS),
    "accuracy/top2": ("accuracy", {"top_k": 2}, CLASS),
    "accuracy/macro": ("accuracy", {"average": "macro"}, CLASS),
    "accuracy/multilabel": ("accuracy", {}, MULTI),
    "f1": ("f1", {}, CLASS),
    "f1/multilabel": ("f1", {}, MULTI),
    "auroc": ("auroc", {}, CLASS),
    "auroc/multilabel": ("auroc", {}, MULTI),
    "mae": ("mae", {}, NUMBERS),
    "rmse": ("rmse", {}, NUMBERS),
    "r2": ("r2", {}, NUMBERS),
    "r2/one": ("r2", {}, NUMBER),
    "mse": ("mse", {}, NUMBERS),
    "iou": ("iou", {}, CLASS),
    "average_precision": ("average_precision", {}, CLASS),
    "average_precision/multilabel": ("average_precision", {}, MULTI),
}


@pytest.mark.parametrize(
    "check",
    named(
        {
            case: metric_checks((use, knobs), *rows, head=lambda size=rows[2].size: AnyHead(size))
            for case, (use, knobs, rows) in METRICS.items()
        }
    ),
)
def test_metric(check):
    check.run()


# Data sets: those that come with a package, and then those of files, each on a small one of its kind.

DATASETS = {
    "digits": ("digits", {"split": "valid"}),
    "photo_crops": ("photo_crops", {"split": "valid", "samples": 16}),
    "python_topics": ("python_topics", {"split": "valid"}),
    "breast_cancer": ("breast_cancer", {"split": "valid"}),
    "wine": ("wine", {"split": "valid"}),
    "diabetes": ("diabetes", {"split": "valid"}),
    "aeon": ("aeon", {"name": "basic_motions", "split": "valid"}),
}


def checked_datasets():
    return {case: dataset_checks(use, limit=5) for case, use in DATASETS.items()}


@pytest.mark.parametrize("check", named(checked_datasets()))
def test_dataset(check):
    check.run()


FILES = ("manifest", "imagefolder", "webdataset", "huggingface", "ts_file")
TS = """@problemName small
@univariate true
@equalLength true
@seriesLength 3
@classLabel true up down
@data
1,2,3:up
3,2,1:down
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Knobs of a data set of each kind of file."""
    root = tmp_path_factory.mktemp("files")
    for name in ("cat", "dog"):
        (root / "classes" / name).mkdir(parents=True)
        (root / "classes" / name / "one.png").write_bytes(b"any bytes")
    (root / "table").mkdir()
    (root / "table" / "train.csv").write_text("text,label,size\nsome words,cat,1.5\nothers,dog,\n")
    (root / "small.ts").write_text(TS)
    with tarfile.open(root / "shard.tar", "w") as tar:
        for name, content in {"a.txt": b"one", "a.cls": b"0", "b.txt": b"two", "b.cls": b"1"}.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return {
        "manifest": {"path": str(root / "table" / "train.csv")},
        "imagefolder": {"root": str(root / "classes")},
        "webdataset": {"shards": "shard.tar", "root": str(root)},
        "huggingface": {"path": str(root / "table"), "split": "train", "cache": str(root / "cache")},
        "ts_file": {"path": str(root / "small.ts")},
    }


@pytest.mark.parametrize("name", [check.name for check in dataset_checks(("any", {})) if check.name not in DRAWS])
@pytest.mark.parametrize("kind", FILES)
def test_dataset_of_files(files, kind, name):
    checks = {check.name: check for check in dataset_checks((kind, files[kind]))}
    checks[name].run()


def test_no_component_is_forgotten():
    house = {"metaformer", *(folder.name for folder in (Path(__file__).parent.parent / "plugins").iterdir())}
    ours = [r for r in registry().components() if r.distribution in house]
    cases = {
        "tokenizer": {use for use, *_ in TOKENIZERS.values()},
        "encoder": {case.partition("/")[0] for case in ENCODERS},
        "head": {use for use, _ in HEADS.values()},
        "objective": {use for (use, _), _ in OBJECTIVES.values()},
        "metric": {use for use, *_ in METRICS.values()},
        "dataset": {*(use for use, _ in DATASETS.values()), *FILES},
    }
    assert ours
    assert {(r.kind, r.component.name) for r in ours} <= {(kind, use) for kind, uses in cases.items() for use in uses}


def run_draws():
    """Run the checks that `named` leaves out, and say what fails."""
    for case, checks in {**checked_tokenizers(), **checked_datasets()}.items():
        for check in checks:
            if check.name in DRAWS:
                try:
                    check.run()
                except AssertionError as error:
                    print(f"{case}: {error}")
    print("all run")


def test_nothing_moves_the_global_random_state():
    code = "import runpy, sys; runpy.run_path(sys.argv[1])['run_draws']()"
    done = subprocess.run([sys.executable, "-c", code, __file__], capture_output=True, text=True, check=False)
    assert done.stdout == "all run\n", done.stdout + done.stderr
