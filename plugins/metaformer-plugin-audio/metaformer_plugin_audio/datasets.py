"""Published sets of sounds in their official folders: Speech Commands and ESC-50.

Source: Speech Commands (arXiv 1804.03209; CC BY 4.0); ESC-50 (doi 10.1145/2733373.2806390; CC BY-NC 3.0).
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from metaformer.base import Dataset
from metaformer.errors import DataError
from metaformer.types import Sample

COMMANDS = (
    "unpack speech_commands_v0.02.tar.gz there: ROOT/WORD/FILE.wav for 35 words, ROOT/validation_list.txt and"
    " ROOT/testing_list.txt"
)
ESC = "unpack the ESC-50 archive there: ROOT/meta/esc50.csv and ROOT/audio/1-100032-A-0.wav and so on"
LONGEST_NAME = 512
"""Bytes of a file's name; a list with longer lines is no list of files."""


class Files(Dataset):
    """{`stream`: Path, `target`: class name} of files below a folder, in the order of their names."""

    def __init__(self, root: Path, names: Sequence[str], labels: Sequence[int], classes: Sequence[str]) -> None:
        self.root = root
        # Arrays instead of a hundred thousand strings: cheap to copy into workers.
        self._names = np.array([name.encode() for name in names], dtype=np.bytes_)
        self._labels = np.array(labels, dtype=np.int32)
        self._classes = list(classes)
        self.stream, self.target = "audio", "label"

    def _named(self, stream: str, target: str) -> None:
        self.stream, self.target = stream, target
        self.classes = {target: self._classes}

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> Sample:
        path = Path(self.root or "", self.sample_id(index))
        return {self.stream: path, self.target: self._classes[self._labels[index]]}

    def sample_id(self, index: int) -> str:
        """Path below the root."""
        return bytes(self._names[index]).decode()

    def fingerprint(self) -> str:
        """sha256 over names, labels and sizes; contents are not read."""
        digest = hashlib.sha256()
        for index in range(len(self)):
            path = Path(self.root or "", self.sample_id(index))
            size = path.stat().st_size if path.is_file() else -1
            digest.update(f"{self.sample_id(index)}\0{self._labels[index]}\0{size}\n".encode())
        return f"sha256:{digest.hexdigest()}"


class SpeechCommands(Files):
    """One-second clips of 35 words (Speech Commands V2: 84 843 train, 9 981 valid, 11 005 test), 16 kHz mono WAV.

    Classes are the folders of `root`, without `_background_noise_`. `valid` and `test` are what validation_list.txt
    and testing_list.txt name, `train` is the rest; the lists keep all clips of a speaker in one part. This is the task
    of all 35 words, not the one of ten words with "silence" and "unknown".
    """

    def __init__(
        self, *, root: Path, split: Literal["train", "valid", "test"], stream: str = "audio", target: str = "label"
    ) -> None:
        words = sorted(path.name for path in _entries(root) if path.is_dir() and not path.name.startswith(("_", ".")))
        if not words:
            raise DataError(f"Speech Commands in {root}", "no folder of a word", COMMANDS)
        listed = {name: _listed(root, root / f"{name}_list.txt", words) for name in ("validation", "testing")}
        if split == "train":
            every = (f"{word}/{path.name}" for word in words for path in _entries(root / word) if path.suffix == ".wav")
            names = sorted(set(every) - listed["validation"] - listed["testing"])
        else:
            names = sorted(listed["validation" if split == "valid" else "testing"])
        if not names:
            raise DataError(f"Speech Commands in {root}", f"no clip in {split}", COMMANDS)
        place = {word: index for index, word in enumerate(words)}
        super().__init__(root, names, [place[name.partition("/")[0]] for name in names], words)
        self._named(stream, target)


class Esc50(Files):
    """Five-second clips of 50 kinds of sound (2000 in five folds, 44.1 kHz mono WAV); `fold` is held out.

    Folds keep pieces of one recording together; published accuracies are means over the five. `valid` and the part
    an accuracy is reported on are the same here, as in the published protocol: choose nothing by it.
    """

    def __init__(
        self,
        *,
        root: Path,
        split: Literal["train", "valid"],
        fold: Annotated[int, Field(ge=1, le=5)] = 1,
        stream: str = "audio",
        target: str = "label",
    ) -> None:
        table = root / "meta" / "esc50.csv"
        if not table.is_file():
            raise DataError(f"ESC-50 in {root}", f"no file {table}", ESC)
        rows: list[tuple[str, int, int]] = []
        kinds: dict[int, str] = {}
        try:
            with table.open(encoding="utf-8", newline="") as file:
                for row in csv.DictReader(file):
                    rows.append((f"audio/{row['filename']}", int(row["fold"]), int(row["target"])))
                    _plain(row["filename"], str(table))
                    if kinds.setdefault(int(row["target"]), row["category"]) != row["category"]:
                        raise DataError(f"read {table}", f"two names for class {row['target']}", ESC)
        except (KeyError, TypeError, ValueError, csv.Error) as error:
            raise DataError(f"read {table}", f"not a table of clips: {error!r}", ESC) from error
        chosen = sorted((name, kind) for name, own, kind in rows if (own == fold) == (split == "valid"))
        if not chosen:
            raise DataError(f"ESC-50 in {root}", f"no clip in {split} with fold {fold} held out", ESC)
        order = sorted(kinds)
        names, labels = [name for name, _ in chosen], [order.index(kind) for _, kind in chosen]
        super().__init__(root, names, labels, [kinds[kind] for kind in order])
        self._named(stream, target)


def _entries(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise DataError(f"Speech Commands in {folder}", "no such folder", COMMANDS)
    return list(folder.iterdir())


def _listed(root: Path, file: Path, words: Sequence[str]) -> set[str]:
    """The clips that a list names, all of which must be there."""
    if not file.is_file():
        raise DataError(f"Speech Commands in {root}", f"no file {file.name}", COMMANDS)
    known = set(words)
    names = set()
    with file.open("rb") as lines:
        while line := lines.readline(LONGEST_NAME):
            name = line.decode("utf-8", errors="replace").strip()
            if not name:
                continue
            word, _, clip = name.partition("/")
            _plain(clip, str(file))
            if word not in known or not (root / name).is_file():
                raise DataError(f"read {file}", f"{name!r:.80}: no such clip in {root}", COMMANDS)
            names.add(name)
    return names


def _plain(name: str, source: str) -> None:
    """A file's name and nothing that leads elsewhere."""
    if not name or "/" in name or "\\" in name or "\0" in name or name.startswith("."):
        raise DataError(f"read {source}", f"{name!r:.80} as the name of a clip", "fetch the file again")
