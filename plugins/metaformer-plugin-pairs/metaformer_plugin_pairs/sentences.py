"""Sentences that are true of pictures, or not: NLVR2 and SNLI-VE.

Source: arXiv 1811.00491 and arXiv 1901.06706, in the layouts of their repositories.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from metaformer.base import Dataset
from metaformer.errors import DataError
from metaformer.types import Sample
from metaformer_plugin_pairs.layout import digest, field, need_folder, read_lines

GET_NLVR2 = "get the JSON lines from the nlvr2 repository, and ask its authors for the pictures"
GET_SNLI = "get snli_ve_*.jsonl from the SNLI-VE repository, and the pictures from Flickr30k"


class NLVR2(Dataset):
    """`{left: file, right: file, sentence: text, label: "False" | "True"}`.

    root: folder of `train.json`, `dev.json`, `test1.json` (JSON lines) and of `images/`, with `images/train/N/` for
    training and `dev/`, `test1/` for the others."""

    classes = {"label": ["False", "True"]}

    def __init__(self, *, root: Path, split: Literal["train", "dev", "test1", "test2"]) -> None:
        self.root = Path(root)
        need_folder(self.root, "NLVR2", GET_NLVR2)
        path = self.root / f"{split}.json"
        self.samples: list[tuple[str, str, str, str, str]] = []
        for record in read_lines(path, GET_NLVR2):
            name = field(record, "identifier", str, str(path))
            where = f"{path}, {name}"
            base = name.rpartition("-")[0]
            folder = f"images/train/{record.get('directory')}" if split == "train" else split
            label = str(record.get("label"))
            if label not in self.classes["label"]:
                raise DataError(f"'label' in {where}", repr(label), "use the published file")
            sentence = field(record, "sentence", str, where)
            self.samples.append((f"{folder}/{base}-img0.png", f"{folder}/{base}-img1.png", sentence, label, name))
        if not self.samples:
            raise DataError(f"sentences in {path}", "none", GET_NLVR2)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        left, right, sentence, label, _ = self.samples[index]
        return {"left": left, "right": right, "sentence": sentence, "label": label}

    def sample_id(self, index: int) -> str:
        return self.samples[index][4]

    def fingerprint(self) -> str:
        return f"nlvr2:{digest(self.samples)}"


class SNLIVE(Dataset):
    """`{image: file, sentence: text, label: "contradiction" | "entailment" | "neutral"}`.

    root: folder of `snli_ve_{train,dev,test}.jsonl`. images: folder of Flickr30k's pictures; default: `root`'s
    `flickr30k_images`. Sentences that the annotators did not agree on (label "-") are left out; `skipped` counts
    them."""

    classes = {"label": ["contradiction", "entailment", "neutral"]}

    def __init__(self, *, root: Path, split: Literal["train", "dev", "test"], images: Path | None = None) -> None:
        path = Path(root) / f"snli_ve_{split}.jsonl"
        self.root = Path(root) / "flickr30k_images" if images is None else Path(images)
        need_folder(Path(root), "SNLI-VE", GET_SNLI)
        self.samples: list[tuple[str, str, str, str]] = []
        self.skipped = 0
        for number, record in enumerate(read_lines(path, GET_SNLI), start=1):
            where = f"{path}, line {number}"
            label = field(record, "gold_label", str, where)
            if label == "-":
                self.skipped += 1
                continue
            if label not in self.classes["label"]:
                raise DataError(f"'gold_label' in {where}", repr(label), "use the published file")
            # Both spellings occur in published files.
            picture = record.get("Flickr30K_ID") or record.get("Flikr30kID")
            name = str(picture).removesuffix(".jpg")
            if not name.isdigit():
                raise DataError(f"'Flickr30K_ID' in {where}", repr(picture), "use the published file")
            self.samples.append((f"{name}.jpg", field(record, "sentence2", str, where), label, str(number)))
        if not self.samples:
            raise DataError(f"sentences in {path}", "none", GET_SNLI)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        image, sentence, label, _ = self.samples[index]
        return {"image": image, "sentence": sentence, "label": label}

    def sample_id(self, index: int) -> str:
        return self.samples[index][3]

    def fingerprint(self) -> str:
        return f"snli_ve:{digest(self.samples)}"
