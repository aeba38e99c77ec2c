"""Collections of chest radiographs in the layouts they are published in.

Source: Rahman et al. 2020 (doi:10.1109/ACCESS.2020.3031384), ChestX-ray14 (arXiv 1705.02315), CheXpert (arXiv
1901.07031).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from metaformer.base import Dataset
from metaformer.errors import DataError
from metaformer.types import Sample
from metaformer_plugin_xray.listing import below, digest, held_out, read_names, read_table

Share = Annotated[float, Field(gt=0, lt=1)]
Seed = Annotated[int, Field(ge=0)]
Missing = Literal["ignore", "ones", "zeros"]
PICTURES = (".png", ".jpg", ".jpeg", ".dcm", ".tif", ".tiff")

TB_CLASSES = ("Normal", "Tuberculosis")
TB_GET = (
    "get the TB Chest Radiography Database of Qatar University and the University of Dhaka (Rahman et al. 2020): "
    "ROOT/Normal/*.png and ROOT/Tuberculosis/*.png; part of it is given on request only"
)
NIH_FINDINGS = (
    *("Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumonia", "Pneumothorax"),
    *("Consolidation", "Edema", "Emphysema", "Fibrosis", "Pleural_Thickening", "Hernia"),
)
NIH_GET = (
    "get ChestX-ray14 from the NIH Clinical Center: ROOT/Data_Entry_2017.csv (or ..._v2020.csv), "
    "ROOT/train_val_list.txt, ROOT/test_list.txt, and pictures in ROOT/images*/ or ROOT/images*/images/"
)
CHEXPERT_FINDINGS = (
    *("No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema"),
    *("Consolidation", "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other"),
    *("Fracture", "Support Devices"),
)
CHEXPERT_GET = (
    "get CheXpert from Stanford AIMI: ROOT/train.csv and ROOT/valid.csv, and pictures in ROOT/train and ROOT/valid"
)


class Chests(Dataset):
    """{`stream`: Path, `target`: what `labels` has}."""

    def __init__(self, files: Sequence[Path], labels: Sequence[object], root: Path, stream: str, target: str) -> None:
        self.root, self.stream, self.target = root, stream, target
        self.files, self.labels = list(files), list(labels)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Sample:
        return {self.stream: self.files[index], self.target: self.labels[index]}

    def sample_id(self, index: int) -> str:
        """Path below the root."""
        return str(self.files[index].relative_to(self.root or ""))

    def fingerprint(self) -> str:
        """Over names and labels, in order; pictures are not read."""
        pairs = zip(self.files, self.labels, strict=True)
        return f"{type(self).__name__}:{digest(f'{path.name}={label}' for path, label in pairs)}"


class TuberculosisDataset(Chests):
    """{`stream`: Path, `target`: "Normal" or "Tuberculosis"}; `root` has the two folders, its tables are not needed.

    Split: of each class `valid_share` of the files, drawn by `seed`. The database does not say which pictures are of
    one patient, and its two classes come out of different hospitals and archives in part, so that a model may do
    well by telling cameras apart: scores on such a split say little about other hospitals.
    """

    def __init__(
        self,
        *,
        root: Path,
        split: Literal["train", "valid"],
        valid_share: Share = 0.2,
        seed: Seed = 0,
        stream: str = "image",
        target: str = "label",
    ) -> None:
        files, labels = [], []
        for name in TB_CLASSES:
            found = _pictures(root / name, TB_GET)
            held = held_out([path.name for path in found], valid_share, seed)
            own = [path for path in found if (path.name in held) == (split == "valid")]
            files += own
            labels += [name] * len(own)
        super().__init__(files, labels, root, stream, target)
        self.classes = {target: TB_CLASSES}


class ChestXray14Dataset(Chests):
    """{`stream`: Path, `target`: names of the findings, none for "No Finding"}, for a multilabel objective.

    `test` is the published list; `valid` is `valid_share` of the patients of the published train_val list, drawn by
    `seed`, and `train` the others of it: no patient is in two splits. Labels were read out of reports by a program.
    Pictures that are not there are an error unless `skip_absent` is set.
    """

    def __init__(
        self,
        *,
        root: Path,
        split: Literal["train", "valid", "test"],
        valid_share: Share = 0.1,
        seed: Seed = 0,
        skip_absent: bool = False,
        stream: str = "image",
        target: str = "label",
    ) -> None:
        table = next((p for p in sorted(root.glob("Data_Entry_2017*.csv"))), root / "Data_Entry_2017.csv")
        rows = read_table(table, ("Image Index", "Finding Labels", "Patient ID"), NIH_GET)
        listed = root / ("test_list.txt" if split == "test" else "train_val_list.txt")
        wanted = set(read_names(listed, NIH_GET))
        rows = [row for row in rows if row["Image Index"] in wanted]
        if len(rows) < len(wanted):
            raise DataError(f"a row of {table} for every name in {listed.name}", f"{len(rows)} of {len(wanted)}")
        if split != "test":
            held = held_out([row["Patient ID"] for row in rows], valid_share, seed)
            rows = [row for row in rows if (row["Patient ID"] in held) == (split == "valid")]
        there = _by_name(root)
        absent = [row["Image Index"] for row in rows if row["Image Index"] not in there]
        if absent and not skip_absent:
            found = f"{len(absent)} of {len(rows)} are absent, such as {absent[0]}"
            raise DataError(f"the pictures of {listed} in {root}", found, f"{NIH_GET}; or set `skip_absent`")
        rows = [row for row in rows if row["Image Index"] in there]
        files = [there[row["Image Index"]] for row in rows]
        super().__init__(files, [_findings(row["Finding Labels"], table) for row in rows], root, stream, target)
        self.classes = {target: NIH_FINDINGS}


class CheXpertDataset(Chests):
    """{`stream`: Path, `target`: 0, 1 or None (missing) for each of 14 findings}, for a multilabel objective.

    `root` is the folder with train.csv and valid.csv (CheXpert-v1.0 or CheXpert-v1.0-small), which are the splits.
    `uncertain` says what a label of -1 becomes: `ignore` (it does not count), `ones`, `zeros`; the paper compares
    them, and each is best for some finding. `blank` says the same of findings that the report does not mention;
    the common reading is that they are not there. `views`: `frontal` leaves pictures from the side out.
    """

    def __init__(
        self,
        *,
        root: Path,
        split: Literal["train", "valid"],
        uncertain: Missing = "ignore",
        blank: Missing = "zeros",
        views: Literal["all", "frontal", "lateral"] = "all",
        stream: str = "image",
        target: str = "label",
    ) -> None:
        table = root / f"{split}.csv"
        rows = read_table(table, ("Path", "Frontal/Lateral", *CHEXPERT_FINDINGS), CHEXPERT_GET)
        rows = [row for row in rows if views in ("all", row["Frontal/Lateral"].strip().lower())]
        become: dict[str, float | None] = {"ignore": None, "ones": 1.0, "zeros": 0.0}
        meaning = {"1": 1.0, "0": 0.0, "-1": become[uncertain], "": become[blank]}
        files, labels = [], []
        for row in rows:
            # Paths begin with the name of the release.
            _, _, name = row["Path"].partition("/")
            files.append(below(root, name, table))
            labels.append([_label(row[finding], meaning, table) for finding in CHEXPERT_FINDINGS])
        if not files:
            raise DataError(f"{views} views in {table}", "none", "set `views: all`")
        super().__init__(files, labels, root, stream, target)
        self.classes = {target: CHEXPERT_FINDINGS}


def _pictures(folder: Path, get: str) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            names = [e.name for e in entries if e.name.lower().endswith(PICTURES) and not e.name.startswith(".")]
    except OSError as error:
        raise DataError(f"pictures in {folder}", error.strerror or str(error), get) from error
    if len(names) < 2:
        raise DataError(f"pictures in {folder}", f"{len(names)} files", get)
    return [folder / name for name in sorted(names)]


def _by_name(root: Path) -> dict[str, Path]:
    """Pictures in images*/ and images*/images/, by file name."""
    found: dict[str, Path] = {}
    for folder in sorted(p for p in root.glob("images*") if p.is_dir()):
        for place in (folder, folder / "images"):
            if place.is_dir():
                with os.scandir(place) as entries:
                    found.update({e.name: place / e.name for e in entries if e.name.lower().endswith(PICTURES)})
    return found


def _findings(text: str, table: Path) -> list[str]:
    names = [name.strip() for name in text.split("|")]
    unknown = [name for name in names if name not in (*NIH_FINDINGS, "No Finding")]
    if unknown:
        raise DataError(f"the fourteen findings in {table}", f"{unknown[0]!r}", "get the file again")
    return [name for name in names if name in NIH_FINDINGS]


def _label(text: str, meaning: dict[str, float | None], table: Path) -> float | None:
    """1.0, 0.0, -1.0 or nothing."""
    short = text.strip().removesuffix(".0")
    if short not in meaning:
        raise DataError(f"labels 1, 0, -1 or none in {table}", repr(text), "get the file again")
    return meaning[short]
