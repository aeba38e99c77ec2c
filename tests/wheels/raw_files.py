"""One raw sample per modality, in a format that its users have, of the shape that a starter's tokenizer reads."""

from __future__ import annotations

import json
import shutil
import wave
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

Knobs = Mapping[str, Any]
"""Of the tokenizer, as the recipe has them."""


def write(modality: str, folder: Path, knobs: Knobs) -> str:
    """A sample in a folder; what `--input` is to be given: the file's name, or the value itself."""
    return WRITERS[modality](folder, knobs, np.random.default_rng(0))


def _audio(folder: Path, knobs: Knobs, rng: np.random.Generator) -> str:
    rate = 16_000  # another than the tokenizer's
    sound = 8000 * np.sin(2 * np.pi * 440 * np.arange(rate // 2) / rate)
    with wave.open(str(folder / "tone.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(sound.astype("<i2").tobytes())
    return "tone.wav"


def _graph(folder: Path, knobs: Knobs, rng: np.random.Generator) -> str:
    nodes = "".join(f'<node id="{i}"/>' for i in range(5))
    ring = "".join(f'<edge source="{i}" target="{(i + 1) % 5}"/>' for i in range(5))
    graph = f'<graph edgedefault="undirected">{nodes}{ring}</graph>'
    text = f'<?xml version="1.0"?><graphml xmlns="http://graphml.graphdrawing.org/xmlns">{graph}</graphml>'
    (folder / "ring.graphml").write_text(text)
    return "ring.graphml"


def _hyperspectral(folder: Path, knobs: Knobs, rng: np.random.Generator) -> str:
    side = knobs.get("patch_size", 1)
    np.save(folder / "pixel.npy", rng.integers(1000, 8000, (side, side, knobs["num_bands"])).astype(np.uint16))
    return "pixel.npy"


def _image(folder: Path, knobs: Knobs, rng: np.random.Generator) -> str:
    Image.fromarray(rng.integers(0, 256, (20, 30, 3)).astype(np.uint8)).save(folder / "picture.png")
    return "picture.png"


def _imu(folder: Path, knobs: Knobs, rng: np.random.Generator) -> str:
    table = rng.normal(size=(80, knobs.get("channels", 6)))
    header = ",".join(f"channel_{i}" for i in range(table.shape[1]))
    np.savetxt(folder / "walk.csv", table, delimiter=",", header=header, comments="")
    return "walk.csv"


def _infrared(folder: Path, knobs: Knobs, rng: np.random.Generator) -> str:
    # 16 bits a pixel, as thermal cameras write.
    Image.fromarray(rng.integers(3000, 9000, (24, 32)).astype(np.uint16)).save(folder / "thermal.png")
    return "thermal.png"


def _pointcloud(folder: Path, knobs: Knobs, rng: np.random.Generator) -> str:
    points = rng.normal(size=(500, 3))
    header = ["ply", "format ascii 1.0", f"element vertex {len(points)}", *(f"property float {a}" for a in "xyz")]
    lines = [*header, "end_header", *(" ".join(f"{x:.6f}" for x in point) for point in points)]
    (folder / "cloud.ply").write_text("\n".join(lines) + "\n")
    return "cloud.ply"


def _tabular(folder: Path, knobs: Knobs, rng: np.random.Generator) -> str:
    numeric = {column: round(float(rng.random()), 3) for column in knobs.get("numeric", ())}
    return json.dumps(numeric | {column: names[0] for column, names in knobs.get("categorical", {}).items()})


def _text(folder: Path, knobs: Knobs, rng: np.random.Generator) -> str:
    (folder / "note.txt").write_text("Opens a socket, and listens for connections: naïve, but short.\n", "utf-8")
    return "note.txt"


def _timeseries(folder: Path, knobs: Knobs, rng: np.random.Generator) -> str:
    table = rng.normal(size=(knobs["max_length"], knobs.get("channels", 1)))
    header = ",".join(f"value_{i}" for i in range(table.shape[1]))
    np.savetxt(folder / "day.csv", table, delimiter=",", header=header, comments="")
    return "day.csv"


def _video(folder: Path, knobs: Knobs, rng: np.random.Generator) -> str:
    import av

    with av.open(str(folder / "film.mp4"), "w") as film:
        stream = film.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(24):
            picture = np.zeros((48, 64, 3), dtype=np.uint8)
            picture[16:32, 2 * number : 2 * number + 12] = 255
            film.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        film.mux(stream.encode(None))
    return "film.mp4"


def _xray(folder: Path, knobs: Knobs, rng: np.random.Generator) -> str:
    import pydicom

    # A slice of a CT that lies beside the library, for its own tests.
    shutil.copy(Path(pydicom.__file__).parent / "data" / "test_files" / "CT_small.dcm", folder)
    return "CT_small.dcm"


WRITERS: Mapping[str, Callable[[Path, Knobs, np.random.Generator], str]] = {
    "audio": _audio,
    "graph": _graph,
    "hyperspectral": _hyperspectral,
    "image": _image,
    "imu": _imu,
    "infrared": _infrared,
    "pointcloud": _pointcloud,
    "tabular": _tabular,
    "text": _text,
    "timeseries": _timeseries,
    "video": _video,
    "xray": _xray,
}
