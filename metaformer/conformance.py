"""The core's own cases, which `metaformer plugins check metaformer` and the tests run."""

from __future__ import annotations

import importlib.util
import io
import tarfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metaformer.base import Head
from metaformer.testing import (
    Check,
    dataset_checks,
    encoder_checks,
    head_checks,
    metric_checks,
    objective_checks,
)
from metaformer.testing.check import component
from metaformer.testing.objective import WORDS
from metaformer.types import Target, TokenBatch

SMALL = {"dim": 32, "depth": 2, "num_heads": 4}
ENCODERS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("transformer", SMALL),
    ("transformer", {**SMALL, "norm": "post", "norm_in": True, "norm_out": True, "activation": "swiglu"}),
    ("transformer", {**SMALL, "drop": 0.1, "drop_path": 0.1, "layer_scale": 0.1, "qkv_bias": False}),
    ("identity", {"dim": 32}),
)

CLASSES = ("classification", {"num_classes": 5})
TOKEN_CLASSES = ("token_classification", {"num_classes": 5})
NUMBERS = ("regression", {"num_outputs": 3, "shift": 4.0, "scale": 2.0})
EMBEDDING = ("projection", {"size": 8, "bias": True})
BARE = ("projection", {"size": None, "norm": False})
HEADS: tuple[tuple[str, dict[str, Any]], ...] = (
    CLASSES,
    ("classification", {"num_classes": 5, "pool": "mean", "norm": False, "drop": 0.1}),
    NUMBERS,
    EMBEDDING,
    BARE,
    TOKEN_CLASSES,
    ("classification", {"num_classes": 5, "pooler": True, "hidden": 8}),
    ("segmentation", {"num_classes": 5, "hidden": 8, "drop": 0.1}),
    ("language", {"stream": "left"}),
    ("forecast", {"horizon": 3, "channels": 2, "drop": 0.1}),
)

LABEL = {"head": "label"}
OBJECTIVES: tuple[tuple[str, dict[str, Any], tuple[str, dict[str, Any]]], ...] = (
    ("cross_entropy", {**LABEL, "label_smoothing": 0.1}, CLASSES),
    ("cross_entropy", LABEL, TOKEN_CLASSES),
    ("binary_cross_entropy", LABEL, CLASSES),
    ("regression", LABEL, NUMBERS),
    ("regression", {**LABEL, "error": "huber"}, NUMBERS),
    ("regression", {**LABEL, "error": "absolute"}, NUMBERS),
)


def checks() -> Iterator[Check]:
    """Every component of the core."""
    for use in ENCODERS:
        yield from encoder_checks(use)
    for use in HEADS:
        yield from head_checks(use)
    for name, knobs, head in OBJECTIVES:
        yield from objective_checks((name, knobs), {"label": head})
    pair = {"one": EMBEDDING, "other": EMBEDDING}
    yield from objective_checks(("contrastive", {"between": ("one", "other")}), pair)
    yield from objective_checks(("contrastive", {"between": ("one", "other"), "loss": "sigmoid"}), pair)
    yield from objective_checks(("masked_patches", {"stream": "left", "standardize": True}), {})
    words = {"words": ("language", {"stream": "left"})}
    yield from objective_checks(("masked_language", {"head": "words", "stream": "left"}), words)
    yield from objective_checks(("language", {"head": "words", "stream": "left"}), words)
    weighed = {"reduction": "texts", "weights": "weight", "label_smoothing": 0.1}
    yield from objective_checks(("language", {"head": "words", "stream": "left", **weighed}), words)
    yield from _of_two_streams()
    yield from _metrics()
    yield from dataset_checks(("manifest", {}), files=manifest)
    yield from dataset_checks(("imagefolder", {}), files=imagefolder)
    yield from dataset_checks(("webdataset", {}), files=webdataset)
    yield from dataset_checks(("described", {"templates": ("a {}", "the {}")}), files=described)
    if importlib.util.find_spec("datasets"):
        yield from dataset_checks(("huggingface", {"split": "train"}), files=huggingface)


def _of_two_streams() -> Iterator[Check]:
    """Objectives whose heads read one stream, the other, and both together."""

    def reading(stream: str, use: tuple[str, dict[str, Any]]) -> Callable[[int], Head]:
        def make(dim: int) -> Head:
            head: Head = component("head", use, {"dim": dim, "vocabularies": dict.fromkeys(streams, WORDS)})
            head.reads = stream
            return head

        return make

    streams = ("left", "right")
    ends = {name: reading(name, EMBEDDING) for name in streams}
    match = {"match": reading("joint", ("classification", {"num_classes": 2, "pool": "mean"}))}
    hard = ("matching", {"head": "match", "between": streams})
    yield from objective_checks(hard, {**ends, **match}, streams=streams)
    replaced = ("matching", {"head": "match", "streams": streams, "negatives": "replace", "alignment": 0.1})
    # In evaluation `replace` takes the next sample of the batch, whichever that is.
    yield from (c for c in objective_checks(replaced, match, streams=streams) if c.name != "batch_order")
    named = {"between": streams, "target": "label", "classes": ("cat", "dog", "eel")}
    yield from objective_checks(("zero_shot", named), ends, streams=streams)
    answers = {"head": "words", "stream": "left", "target": "label", "answers": ("cat", "dog", "eel"), "shortlist": 2}
    words = {"words": reading("joint", ("language", {"stream": "left"}))}
    yield from objective_checks(("ranking", answers), words, streams=streams)


class AnyHead(Head):
    """As much of a head as metrics look at."""

    predicts = "class"

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size, self.linear = size, nn.Identity()

    def forward(self, tokens: TokenBatch) -> Tensor:
        return tokens.x


def _metrics() -> Iterator[Check]:
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(12, 3, generator=draw)
    labels = (torch.arange(36).reshape(12, 3) % 5 % 2).float()
    labels[3, 1] = torch.nan
    noise = torch.randn(12, 2, generator=draw)
    near = F.normalize(logits + 0.5 * torch.randn(12, 3, generator=draw), dim=1)
    classes = (logits, torch.arange(12) % 3, Target("class", 3))
    multi = (logits, labels, Target("multilabel", 3))
    numbers = (logits[:, :2], logits[:, 1:] + 0.5 * noise, Target("values", 2))
    number = (logits[:, :1], logits[:, 1:2], Target("values", 1))
    pairs = (F.normalize(logits, dim=1), near, Target("values", 3))
    cases: tuple[tuple[str, dict[str, Any], tuple[Tensor, Tensor, Target]], ...] = (
        ("accuracy", {}, classes),
        ("accuracy", {"top_k": 2}, classes),
        ("accuracy", {"average": "macro"}, classes),
        ("accuracy", {}, multi),
        ("f1", {}, classes),
        ("f1", {}, multi),
        ("auroc", {}, classes),
        ("auroc", {}, multi),
        ("mae", {}, numbers),
        ("rmse", {}, numbers),
        ("r2", {}, numbers),
        ("r2", {}, number),
        ("mse", {}, numbers),
        ("iou", {}, classes),
        ("average_precision", {}, classes),
        ("average_precision", {}, multi),
        ("score", {}, (logits, labels.nan_to_num(), Target("scores", 3))),
        ("median_rank", {}, pairs),
        ("recall", {}, pairs),
        ("recall", {"top_k": 3, "direction": "there"}, pairs),
    )
    for name, knobs, (prediction, target, form) in cases:
        size = form.size
        yield from metric_checks((name, knobs), prediction, target, form, head=lambda size=size: AnyHead(size))  # type: ignore[misc]


# Small files of each kind, and the knobs that name them.


def manifest(root: Path) -> Mapping[str, Any]:
    (root / "train.csv").write_text("text,label,size\nsome words,cat,1.5\nothers,dog,\n")
    return {"path": root / "train.csv"}


def imagefolder(root: Path) -> Mapping[str, Any]:
    for name in ("cat", "dog"):
        (root / name).mkdir()
        (root / name / "one.png").write_bytes(b"any bytes")
    return {"root": root}


def webdataset(root: Path) -> Mapping[str, Any]:
    with tarfile.open(root / "shard.tar", "w") as tar:
        for name, content in {"a.txt": b"one", "a.cls": b"0", "b.txt": b"two", "b.cls": b"1"}.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return {"shards": "shard.tar", "root": root}


def described(root: Path) -> Mapping[str, Any]:
    imagefolder(root)
    return {"data": {"use": "imagefolder", "root": str(root)}}


def huggingface(root: Path) -> Mapping[str, Any]:
    table = root / "table"
    table.mkdir()
    manifest(table)
    return {"path": str(table), "cache": root / "cache"}
