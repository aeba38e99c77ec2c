"""Clips out of long recordings: a list says which seconds of which file mean what.

Source: the layout of Ego4D's IMU files (arXiv 2110.07058): one CSV per video, with times in milliseconds of the video,
not always in order, and empty where the video was cut.
Ours differs: a clip is found by bisection, so that recordings of hours need not be read for seconds.
"""

from __future__ import annotations

import csv
import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, BinaryIO, Literal, NamedTuple

import numpy as np
from jaxtyping import Float64
from pydantic import Field

from metaformer.base import Dataset
from metaformer.errors import DataError
from metaformer.types import Sample
from metaformer_plugin_imu.recording import UNITS

LINE = 1 << 12
"""Bytes that a line of a recording may have."""
MARGIN = 2.0
"""Seconds before a clip at which reading begins: times may be out of order by that much."""
CLIPS = 10_000_000
ROWS = 2_000_000
"""In one clip: an hour and a half at 350 Hz."""


class Clip(NamedTuple):
    """One line of the list; times in seconds."""

    recording: str
    start: float
    end: float
    label: str


class RecordedClips(Dataset):
    """{`stream`: {values [L, channels], timestamps [L]}, `target`: label}. Times count from the clip's start."""

    def __init__(
        self,
        folder: Path,
        clips: Path,
        key: str,
        times: tuple[str, str],
        columns: tuple[str, ...],
        split: Literal["train", "valid", "all"],
        valid_share: float,
        stream: str,
        target: str,
        where: str,
    ) -> None:
        """`key`: column of the list that names the recording; `times`: column of a recording with times, its unit;
        `where`: what to do where files are absent."""
        if not folder.is_dir():
            raise DataError(f"recordings in {folder}", "no such folder", where)
        self.folder, self.columns, (self.time_column, unit) = folder, columns, times
        self.second = UNITS[unit]
        self.stream, self.target, self.where = stream, target, where
        every = _read_list(clips, key, where)
        self.classes = {target: tuple(sorted({clip.label for clip, _ in every}))}
        self.clips = [
            clip for clip, group in every if split == "all" or _in_valid(group, valid_share) == (split == "valid")
        ]
        self.digest = hashlib.sha256(clips.read_bytes()).hexdigest()
        if not self.clips:
            raise DataError(
                f"clips for split {split!r} in {clips}", f"none of {len(every)}", "choose another valid_share"
            )

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> Sample:
        clip = self.clips[index]
        path = self.folder / f"{clip.recording}.csv"
        table = _between(path, (self.time_column, *self.columns), clip, self.second, self.where)
        value = {"values": table[:, 1:], "timestamps": table[:, 0]}
        return {self.stream: value, self.target: clip.label}

    def sample_id(self, index: int) -> str:
        clip = self.clips[index]
        return f"{clip.recording}:{clip.start:g}-{clip.end:g}:{index}"

    def fingerprint(self) -> str:
        names = sorted({clip.recording for clip in self.clips})
        paths = [self.folder / f"{name}.csv" for name in names]
        sizes = [path.stat().st_size if path.is_file() else -1 for path in paths]
        files = hashlib.sha256(repr(list(zip(names, sizes, strict=True))).encode())
        return f"clips:{self.digest}:{len(self)}:{files.hexdigest()}"


Split = Literal["train", "valid", "all"]
ValidShare = Annotated[float, Field(gt=0, lt=1)]


class ImuClips(RecordedClips):
    """{`stream`: {values [L, channels], timestamps [L]}, `target`: label}.

    `clips` is a CSV with a header and the columns recording, start, end (seconds) and label, and maybe subject;
    `root`/RECORDING.csv has a header, a column of times in order, and one per channel. About `valid_share` of the
    people (recordings, where there is no column subject) are for validation, chosen by a hash of their names, so that
    a person is on one side only. The fingerprint covers the list, and of the recordings their sizes only.
    """

    def __init__(
        self,
        *,
        root: Path,
        clips: Path,
        split: Split,
        columns: tuple[str, ...] = ("acc_x", "acc_y", "acc_z", "gyro_x", "gyro_y", "gyro_z"),
        time_column: str = "time",
        time_unit: Literal["s", "ms", "us", "ns"] = "s",
        valid_share: ValidShare = 0.2,
        stream: str = "motion",
        target: str = "label",
    ) -> None:
        where = "clips: recording,start,end,label[,subject]; recordings: ROOT/RECORDING.csv"
        times = (time_column, time_unit)
        super().__init__(root, clips, "recording", times, columns, split, valid_share, stream, target, where)


class Ego4dImu(RecordedClips):
    """{`stream`: {values [L, 6], timestamps [L]}, `target`: label}: m/s² and rad/s as the files have them.

    Accelerometer first. `root` holds `imu/VIDEO_UID.csv` as Ego4D's own downloader leaves it; `clips` is a CSV with a
    header and the columns video_uid, start, end (seconds of the canonical video) and label, made from whichever
    annotations are to be learned: Ego4D has no official labels for IMU. About `valid_share` of the videos (people,
    where the list has a column subject) are for validation, chosen by a hash of their names. The fingerprint covers
    the list, and of the recordings their sizes only.
    """

    def __init__(
        self,
        *,
        root: Path,
        clips: Path,
        split: Split,
        valid_share: ValidShare = 0.2,
        stream: str = "motion",
        target: str = "label",
    ) -> None:
        where = "sign Ego4D's licence, get its data set `imu` with its own downloader: ROOT/imu/VIDEO_UID.csv"
        columns = ("accl_x", "accl_y", "accl_z", "gyro_x", "gyro_y", "gyro_z")
        times = ("canonical_timestamp_ms", "ms")
        folder = root / "imu"
        super().__init__(folder, clips, "video_uid", times, columns, split, valid_share, stream, target, where)


def _in_valid(group: str, share: float) -> bool:
    """By a hash of the name: the same whatever else is in the list."""
    return int.from_bytes(hashlib.sha256(group.encode()).digest()[:8]) < share * 2**64


def _read_list(path: Path, key: str, where: str) -> list[tuple[Clip, str]]:
    """Clips, each with the person or recording that must not be split."""
    out: list[tuple[Clip, str]] = []
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            for row in csv.DictReader(file, strict=True):
                clip = Clip(row[key] or "", float(row["start"]), float(row["end"]), (row["label"] or "").strip())
                # A name, not a path: it must not lead out of the folder.
                if not re.fullmatch(r"[\w][\w.-]*", clip.recording) or not clip.label:
                    raise ValueError(f"line {len(out) + 2}: {clip.recording!r} labelled {clip.label!r}")
                if not 0 <= clip.start < clip.end < 1e9:
                    raise ValueError(f"line {len(out) + 2}: from {clip.start} to {clip.end} seconds")
                out.append((clip, row.get("subject") or clip.recording))
                if len(out) > CLIPS:
                    raise ValueError(f"more than {CLIPS} clips")
    except (OSError, ValueError, TypeError, KeyError, csv.Error) as error:
        found = f"no column {error}" if isinstance(error, KeyError) else f"{error}"[:200]
        raise DataError(f"a list of clips {path} with {key}, start, end and label", found, where) from error
    return out


def _between(path: Path, columns: Sequence[str], clip: Clip, second: float, where: str) -> Float64[np.ndarray, "L C"]:
    """Rows of a clip: time in seconds from its start, then the channels."""
    start, end = clip.start / second, clip.end / second
    rows: list[list[float]] = []
    try:
        with path.open("rb") as file:
            header = [cell.strip() for cell in file.readline(LINE).decode("utf-8-sig").split(",")]
            absent = [column for column in columns if column not in header]
            if absent:
                raise ValueError(f"no column {', '.join(absent)}; there is: {', '.join(header)[:200]}")
            use = [header.index(column) for column in columns]
            first, size = file.tell(), path.stat().st_size
            low, high = first, size
            while high - low > LINE:
                middle = (low + high) // 2
                file.seek(middle)
                file.readline(LINE)
                early = _next_time(file, use[0]) < start - MARGIN / second
                low, high = (middle, high) if early else (low, middle)
            file.seek(low)
            if low > first:
                file.readline(LINE)
            # Reading ends some seconds after the clip: what is out of order by more counts as missing.
            while line := file.readline(LINE):
                row = [_number(cell) for cell in _cells(line, len(header))]
                time = row[use[0]]
                if time > end + MARGIN / second:
                    break
                if start <= time < end:
                    rows.append([row[index] for index in use])
                if len(rows) > ROWS:
                    raise ValueError(f"more than {ROWS} samples from {clip.start:g} to {clip.end:g} seconds")
    except (OSError, ValueError) as error:
        raise DataError(f"recording {path}", f"{error}"[:200], where) from error
    if not rows:
        raise DataError(
            f"{clip.start:g} to {clip.end:g} seconds of {path}", "no sample", "leave the clip out of the list"
        )
    table = np.array(rows)
    table[:, 0] = (table[:, 0] - start) * second
    return table


def _next_time(file: BinaryIO, column: int) -> float:
    """The first known time from here on; infinite where none comes soon, so that reading begins before."""
    for _ in range(4096):
        cells = file.readline(LINE).split(b",")
        time = _number(cells[column]) if len(cells) > column else float("nan")
        if not np.isnan(time):
            return time
    return float("inf")


def _cells(line: bytes, count: int) -> list[bytes]:
    cells = line.rstrip(b"\r\n").split(b",")
    if len(cells) != count:
        raise ValueError(f"a line of {len(cells)} cells where the first has {count}: {line[:60]!r}")
    return cells


def _number(cell: bytes) -> float:
    text = cell.strip().lower()
    return float("nan") if text in (b"", b"null", b"nan", b"none") else float(text)
