"""What decodes video files: PyAV, which brings FFmpeg along, or torchcodec, which needs the system's.

Source: PyAV and torchcodec, both over FFmpeg. Ours differs: PyAV finds out which frames there are and checks the file
in either case, so both read frames of the same numbers; colours may differ by a few gray levels.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Sequence
from io import RawIOBase
from typing import Any, Literal

import numpy as np
from jaxtyping import UInt8

from metaformer.errors import DataError

AVAILABLE_DO = "it may need another codec, or a newer version of the package av"


@functools.cache
def pyav() -> Any:
    """The module `av`, its messages off: they would fill the log of every training with remarks about codecs."""
    try:
        av = importlib.import_module("av")
    except ImportError as error:
        raise DataError("decode a video", f"PyAV cannot be imported: {error}", "pip install av") from error
    av.logging.set_level(None)
    return av


@functools.cache
def _torchcodec() -> Any:
    """`torchcodec.decoders`, or the reason why not as text."""
    try:
        return importlib.import_module("torchcodec.decoders")
    except (ImportError, RuntimeError, OSError) as error:
        return next((line for line in str(error).splitlines() if line), type(error).__name__)


@functools.cache
def chosen(backend: Literal["auto", "pyav", "torchcodec"]) -> Literal["pyav", "torchcodec"]:
    """What decodes here. Raises DataError where torchcodec is asked for and does not load."""
    if backend == "pyav":
        return "pyav"
    found = _torchcodec()
    if not isinstance(found, str):
        return "torchcodec"
    if backend == "auto":
        return "pyav"
    raise DataError(
        "decode videos with torchcodec",
        f"it does not load: {found}",
        "pip install 'metaformer-plugin-video[torchcodec]', install FFmpeg (apt-get install ffmpeg), or set "
        "`decoder: pyav`",
    )


def versions(backend: Literal["auto", "pyav", "torchcodec"]) -> str:
    """What decodes here, with its version."""
    if chosen(backend) == "torchcodec":
        return f"torchcodec {importlib.import_module('torchcodec').__version__}"
    return f"PyAV {pyav().__version__}"


def torchcodec_frames(
    file: RawIOBase, name: str, total: int, indices: Sequence[int]
) -> UInt8[np.ndarray, "N H W C"] | None:
    """Frames by number, or None where torchcodec counts others than the `total` that were found before."""
    file.seek(0)
    try:
        # The container was checked to be no list of other files before it comes here.
        decoder = _torchcodec().VideoDecoder(file, dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode="exact")
        if decoder.metadata.num_frames != total:
            return None
        frames: np.ndarray = decoder.get_frames_at(list(indices)).data.numpy()
    except (RuntimeError, ValueError, IndexError, OSError) as error:
        raise DataError(f"read video {name}", f"torchcodec: {error}", "replace or remove it") from error
    return frames
