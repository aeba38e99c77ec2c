"""Pictures, or any files, in one folder per class.

Source: the layout of torchvision's `ImageFolder`, with its order.
Ours differs: hidden files are skipped, and the index is a few compact arrays, so that a million files cost
little memory per data worker.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from metaformer.base import Dataset
from metaformer.errors import DataError
from metaformer.types import Sample

IMAGE_EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".ppm", ".pgm")

LAYOUT = (
    "give a folder with one folder of pictures per class: ROOT/CLASS/FILE. For ImageNet that is "
    "train/n01440764/n01440764_10026.JPEG and val/n01440764/ILSVRC2012_val_00000293.JPEG: register at the "
    "ImageNet site for the ILSVRC2012 archives, unpack the training archive of each class into a folder of "
    "its name, and sort the validation pictures into folders of the same names"
)


class FolderDataset(Dataset):
    """`{stream: Path, target: class name}`; classes are the folders of `root` in sorted order.

    Files may lie deeper inside a class; links are followed; letter case of extensions does not matter.
    """

    def __init__(
        self,
        *,
        root: Path,
        stream: str = "image",
        target: str = "label",
        extensions: tuple[str, ...] = IMAGE_EXTENSIONS,
    ) -> None:
        self.root, self.stream, self.target = Path(root), stream, target
        wanted = tuple("." + extension.lower().lstrip(".") for extension in extensions)
        names = _class_names(self.root)
        files = [sorted(_files(self.root / name, wanted)) for name in names]
        empty = [name for name, found in zip(names, files, strict=True) if not found]
        if empty:
            raise _empty(self.root, empty, len(names), wanted)
        self.classes = {target: names}
        self._counts = [len(found) for found in files]
        # One string and its cut points: cheap to copy into workers, unlike a list of a million strings.
        paths = [os.fsencode(name) for found in files for _, name in found]
        self._ends = np.cumsum([len(path) for path in paths])
        self._paths = b"".join(paths)
        self._labels = np.repeat(np.arange(len(names), dtype=np.int32), self._counts)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> Sample:
        return {
            self.stream: Path(self.root or "", self.sample_id(index)),
            self.target: self.classes[self.target][self._labels[index]],
        }

    def sample_id(self, index: int) -> str:
        """Path below the root."""
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        start = self._ends[index - 1] if index else 0
        return os.fsdecode(self._paths[start : self._ends[index]])

    def fingerprint(self) -> str:
        """sha256 over names and sizes, in order; contents are not read."""
        digest = hashlib.sha256()
        for index in range(len(self)):
            name = self.sample_id(index)
            size = (self.root / name).stat().st_size if self.root else 0
            digest.update(os.fsencode(name) + b"\0%d\n" % size)
        return f"sha256:{digest.hexdigest()}"


def _class_names(root: Path) -> list[str]:
    if not root.is_dir():
        found = "a file, not a folder" if root.exists() else f"no such folder (looked from {Path.cwd()})"
        raise DataError(f"folder of classes {root}", found, LAYOUT)
    try:
        entries = [entry for entry in os.scandir(root) if not entry.name.startswith(".")]
    except OSError as error:
        raise DataError(f"folder of classes {root}", str(error), "make it readable") from error
    names = sorted(entry.name for entry in entries if entry.is_dir())
    if not names:
        found = f"{len(entries)} files and no folder" if entries else "an empty folder"
        raise DataError(f"folder of classes {root}", found, LAYOUT)
    return names


def _files(top: Path, extensions: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Folder and path, from the parent of `top`, of each wanted file; sorting gives torchvision's order."""
    seen: set[tuple[int, int]] = set()
    for folder, folders, names in os.walk(top, followlinks=True, onerror=_unreadable):
        status = Path(folder).stat()
        if (status.st_dev, status.st_ino) in seen:  # a link that leads back up
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        # Sorted, so that of two links to one folder always the same is followed.
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        below = os.path.relpath(folder, top.parent)
        for name in names:
            if not name.startswith(".") and name.lower().endswith(extensions):
                yield below, os.path.join(below, name)  # noqa: PTH118 - a Path per file is slow


def _unreadable(error: OSError) -> None:
    raise DataError(f"folder {error.filename}", error.strerror or str(error), "make it readable") from error


def _empty(root: Path, empty: list[str], total: int, wanted: tuple[str, ...]) -> DataError:
    others = Counter(
        path.suffix.lower() or "no extension"
        for name in empty[:10]
        for path in (root / name).rglob("*")
        if path.is_file() and not path.name.startswith(".")
    )
    seen = ", ".join(f"{count} x {suffix}" for suffix, count in others.most_common(5))
    shown = ", ".join(empty[:5]) + (", ..." if len(empty) > 5 else "")
    return DataError(
        f"files with extension {', '.join(wanted)} in {root}",
        f"{len(empty)} of {total} class folders have none: {shown}" + (f"; they hold {seen}" if seen else ""),
        "remove those folders, fill them, or set `extensions`",
    )
