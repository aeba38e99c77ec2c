"""The cases of this plugin, which `metaformer plugins check` and the tests run."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from metaformer.testing import Check, dataset_checks


def checks() -> Iterator[Check]:
    """Published layouts on files of two samples; digits where scikit-learn is there."""
    yield from dataset_checks(("karpathy", {"split": "train"}), files=karpathy)
    yield from dataset_checks(("vqa_v2", {"split": "train", "min_count": 1}), files=vqa_v2)
    yield from dataset_checks(("nlvr2", {"split": "dev"}), files=nlvr2)
    yield from dataset_checks(("snli_ve", {"split": "dev"}), files=snli_ve)
    if importlib.util.find_spec("sklearn"):
        for name in ("digit_questions", "digit_pairs", "digit_entailment"):
            yield from dataset_checks((name, {"split": "valid"}), limit=5)


def karpathy(root: Path) -> Mapping[str, Any]:
    sentences = [{"raw": "a cat", "sentid": 0}, {"raw": "an animal", "sentid": 1}]
    image = {"filename": "1.jpg", "imgid": 1, "split": "train", "sentences": sentences}
    (root / "dataset_flickr30k.json").write_text(json.dumps({"images": [image]}))
    return {"root": root}


def vqa_v2(root: Path) -> Mapping[str, Any]:
    for part in ("train", "val"):
        questions = [{"image_id": 1, "question_id": i, "question": f"how many? {i}"} for i in range(2)]
        annotations = [{"question_id": i, "answers": [{"answer": "2"}] * 10} for i in range(2)]
        (root / f"v2_OpenEnded_mscoco_{part}2014_questions.json").write_text(json.dumps({"questions": questions}))
        (root / f"v2_mscoco_{part}2014_annotations.json").write_text(json.dumps({"annotations": annotations}))
    return {"root": root}


def nlvr2(root: Path) -> Mapping[str, Any]:
    lines = [{"identifier": f"dev-{i}-0-0", "sentence": "two dogs", "label": "True"} for i in range(2)]
    (root / "dev.json").write_text("\n".join(map(json.dumps, lines)))
    return {"root": root}


def snli_ve(root: Path) -> Mapping[str, Any]:
    lines = [{"Flickr30K_ID": f"{i}.jpg", "sentence2": "a man", "gold_label": "neutral"} for i in range(1, 3)]
    (root / "flickr30k_images").mkdir()
    (root / "snli_ve_dev.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return {"root": root}
