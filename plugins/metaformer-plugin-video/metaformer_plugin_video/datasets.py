"""Action recognition data sets in the layouts they are published in.

Source: UCF101 (K. Soomro, A. R. Zamir, M. Shah, arXiv 1212.0402), the "ucfTrainTestlist" splits; lists of files and
labels as the code of VideoMAE and many others reads Kinetics.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from metaformer.base import Dataset
from metaformer.errors import DataError
from metaformer.types import Sample

UCF101 = (
    "give the folder that holds UCF-101/CLASS/v_CLASS_gNN_cNN.avi and ucfTrainTestlist/{classInd,trainlist01,"
    "testlist01}.txt: unpack UCF101.rar and UCF101TrainTestSplits-RecognitionTask.zip of the Center for Research in "
    "Computer Vision, University of Central Florida, there"
)
MAX_LIST = 2**28
"""Bytes of a list of files; Kinetics-700 has 40 MB."""


class ListedDataset(Dataset):
    """`{stream: Path, target: class name or index}`, out of a list of files under `root`."""

    def __init__(self, root: Path, stream: str, target: str, files: Sequence[str], labels: Sequence[str | int]) -> None:
        self.root, self.stream, self.target = root, stream, target
        self.files, self.labels = list(files), list(labels)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Sample:
        return {self.stream: Path(self.root or "", self.files[index]), self.target: self.labels[index]}

    def fingerprint(self) -> str:
        """sha256 over names, labels and file sizes (-1 for files that are absent); contents are not read."""
        digest = hashlib.sha256()
        for file, label in zip(self.files, self.labels, strict=True):
            path = Path(self.root or "", file)
            size = path.stat().st_size if path.is_file() else -1
            digest.update(f"{file}\0{label}\0{size}\n".encode("utf-8", "surrogateescape"))
        return f"sha256:{digest.hexdigest()}"


class Ucf101Dataset(ListedDataset):
    """Human actions in YouTube films: 13320 clips of 101 classes; `split` train or valid of `fold` 1, 2 or 3.

    Layout: `root`/UCF-101/CLASS/*.avi and `root`/ucfTrainTestlist/. A fold's test list validates. The lists keep clips
    that were cut out of one film (a group, g01 to g25) together, so that no group is in both parts; own splits should.
    Results are usually the mean over the three folds; many, the paper of Meta-Transformer among them, do not say.
    Cite arXiv 1212.0402. The films belong to their makers; the data set is for research.
    What it is not: varied in background. Much of it can be told from a single frame.
    """

    def __init__(
        self,
        *,
        root: Path,
        split: Literal["train", "valid"],
        fold: Literal[1, 2, 3] = 1,
        stream: str = "video",
        target: str = "label",
    ) -> None:
        lists = Path(root) / "ucfTrainTestlist"
        # Windows line ends, numbers from 1: "1 ApplyEyeMakeup".
        numbered = [line.split() for _, line in _lines(lists / "classInd.txt", UCF101)]
        names = [parts[-1] for parts in numbered]
        part = lists / f"{'train' if split == 'train' else 'test'}list{fold:02d}.txt"
        files = [(number, line.split()[0]) for number, line in _lines(part, UCF101)]
        known = set(names)
        labels = [file.partition("/")[0] for _, file in files]
        for (number, file), label in zip(files, labels, strict=True):
            if label not in known:
                found = f"{file}, whose class is not in classInd.txt"
                raise DataError(f"read {part}, line {number}", found, UCF101)
        videos = Path(root) / "UCF-101"
        if not videos.is_dir():
            raise DataError(f"folder {videos}", "no such folder", UCF101)
        super().__init__(videos, stream, target, [file for _, file in files], labels)
        self.classes = {target: names}

    def sample_id(self, index: int) -> str:
        return self.files[index]


class KineticsCsvDataset(ListedDataset):
    """A text file with a video and its label per line: `clips/abc.mp4 17`, or with a comma between the two.

    Files are under `root`, by default the folder of the list. Labels are indices, of `names` (a text file with a class
    per line) where that is given, or class names. A header line `path,label` (or `video_path`, ...) is skipped.
    """

    def __init__(
        self,
        *,
        path: Path,
        root: Path | None = None,
        names: Path | None = None,
        stream: str = "video",
        target: str = "label",
    ) -> None:
        files: list[str] = []
        labels: list[str] = []
        asked = "give a line per video: its path, a space or comma, its label"
        for number, line in _lines(path, asked):
            file, mark, label = line.rpartition("," if "," in line else " ")
            if not mark or not file.strip() or not label.strip():
                raise DataError(f"read {path}, line {number}", f"{line!r:.80}", asked)
            if number == 1 and label.strip().lower() in ("label", "class", "target"):
                continue
            files.append(file.strip())
            labels.append(label.strip())
        classes = [] if names is None else [name for _, name in _lines(names, "give a class name per line")]
        numbers = [_index(label) for label in labels]
        for file, label, index in zip(files, labels, numbers, strict=True):
            bad = classes and label not in classes and (index is None or index >= len(classes))
            if bad or (not classes and numbers[0] is not None and index is None):
                found = f"{label!r} of {file}"
                known = (
                    f"a number below {len(classes)} or a name in {names}" if classes else "numbers, or names, for all"
                )
                raise DataError(f"labels in {path}", found, f"give {known}")
        folder = Path(path).parent if root is None else Path(root)
        own = [label if index is None else index for label, index in zip(labels, numbers, strict=True)]
        super().__init__(folder, stream, target, files, own)
        if not classes and numbers and numbers[0] is None:
            classes = sorted(set(labels))
        if classes:
            self.classes = {target: classes}

    def sample_id(self, index: int) -> str:
        """Line and path: a video may be listed twice."""
        return f"{index}:{self.files[index]}"


def _index(label: str) -> int | None:
    return int(label) if label.isascii() and label.isdecimal() and len(label) < 10 else None


def _lines(path: Path, do: str) -> Iterator[tuple[int, str]]:
    """Numbered lines that are not empty."""
    try:
        if path.stat().st_size > MAX_LIST:
            raise DataError(f"read {path}", f"more than {MAX_LIST} bytes", do)
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"read {path}", error.strerror or str(error), do) from error
    except UnicodeDecodeError as error:
        raise DataError(f"read {path}", f"no UTF-8 text: {error}", do) from error
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    if not lines:
        raise DataError(f"read {path}", "an empty file", do)
    yield from lines
