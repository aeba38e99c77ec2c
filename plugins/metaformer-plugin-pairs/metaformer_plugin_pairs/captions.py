"""Captions of pictures: COCO and Flickr30k in the splits that retrieval and captioning are reported on.

Source: `dataset_coco.json` and `dataset_flickr30k.json` of Karpathy and Fei-Fei, arXiv 1412.2306.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from metaformer.base import Dataset
from metaformer.errors import DataError
from metaformer.types import Sample
from metaformer_plugin_pairs.layout import digest, field, need_folder, read_json

GET = "download Karpathy's splits (caption_datasets.zip), and the pictures from COCO or Flickr30k"


class Karpathy(Dataset):
    """`{image: file, caption: text, image_id: int}`: a sample per picture and caption.

    root: folder of the pictures, with `train2014/` and `val2014/` for COCO. annotations: the JSON file; default: the
    only `dataset_*.json` in `root`. split: `train`, `restval` (COCO), `train+restval`, `val`, `test`. captions: all
    of a picture (five), or the `first`. `image_id` is an identity: say `same: image_id` to objectives, so that
    retrieval takes any caption of the picture for right."""

    def __init__(
        self,
        *,
        root: Path,
        split: Literal["train", "restval", "train+restval", "val", "test"],
        annotations: Path | None = None,
        captions: Literal["each", "first"] = "each",
    ) -> None:
        self.root = Path(root)
        need_folder(self.root, "pictures", GET)
        path = self._only() if annotations is None else Path(annotations)
        self.samples: list[tuple[str, str, int]] = []
        for number, image in enumerate(field(read_json(path, GET), "images", list, str(path))):
            where = f"{path}, image {number}"
            if field(image, "split", str, where) not in split.split("+"):
                continue
            folder = image.get("filepath", "")
            name = field(image, "filename", str, where)
            sentences = field(image, "sentences", list, where)
            for sentence in sentences[: 1 if captions == "first" else None]:
                text = " ".join(field(sentence, "raw", str, where).split())
                self.samples.append((f"{folder}/{name}" if folder else name, text, field(image, "imgid", int, where)))
        if not self.samples:
            raise DataError(f"split {split!r} of {path}", "no captions", "choose another split")

    def _only(self) -> Path:
        found = sorted(self.root.glob("dataset_*.json"))
        if len(found) != 1:
            raise DataError(f"the only dataset_*.json in {self.root}", f"{len(found)} of them", f"name one, or {GET}")
        return found[0]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        image, caption, number = self.samples[index]
        return {"image": image, "caption": caption, "image_id": number}

    def sample_id(self, index: int) -> str:
        return f"{self.samples[index][0]}#{index}"

    def fingerprint(self) -> str:
        return f"karpathy:{digest(self.samples)}"
