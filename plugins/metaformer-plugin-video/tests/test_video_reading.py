"""Reading frames by number: exactly those that were asked for, and no more work than they need."""

from __future__ import annotations

import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from metaformer_plugin_video.backend import chosen, versions
from metaformer_plugin_video.source import Limits, open_video
from metaformer_plugin_video.stream import FileVideo
from PIL import Image

from metaformer.errors import DataError

COUNT = 60
SIZE = (48, 32)
FILES = {
    "bframes.mp4": ("libx264", {"bf": "3"}, 12),
    "opengop.mp4": ("libx264", {"bf": "3", "x264-params": "open-gop=1"}, 12),
    "simple.mp4": ("mpeg4", {"bf": "2"}, 12),
    "hidden.webm": ("libvpx", {"auto-alt-ref": "1", "lag-in-frames": "16"}, 20),
    "nine.webm": ("libvpx-vp9", {}, 20),
    "lossless.mkv": ("ffv1", {}, 10),
    "bframes.mkv": ("libx264", {"bf": "3"}, 12),
    "old.avi": ("mpeg4", {}, 12),
    "xvid.avi": ("mpeg4", {"bf": "2"}, 12),
}
"""Name → encoder, its options, frames from keyframe to keyframe."""


def gray(index: int) -> int:
    """A level that no other of COUNT frames has, and that is far from its neighbours'."""
    return 20 + round(index * 7 % COUNT * 3.5)


def record(path: Path, codec: str, options: dict[str, str], group: int, count: int = COUNT, stamps=None) -> Path:
    """A film whose frames have the gray of their number; `stamps` in milliseconds instead of 25 per second."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=options)
        (stream.width, stream.height), stream.pix_fmt, stream.gop_size = SIZE, "yuv420p", group
        stream.bit_rate = 8_000_000
        if "bf" in options:
            stream.codec_context.max_b_frames = int(options["bf"])
        if stamps is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for index in range(count):
            frame = av.VideoFrame.from_ndarray(np.full((*SIZE[::-1], 3), gray(index), np.uint8), format="rgb24")
            if stamps is not None:
                frame.pts, frame.time_base = stamps[index], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope="session")
def films(tmp_path_factory):
    folder = tmp_path_factory.mktemp("films")
    return {name: record(folder / name, *how) for name, how in FILES.items()}


def nearly(frames: np.ndarray, indices: list[int]) -> bool:
    """Whether these are those frames, by their gray, which encoders miss by up to three levels."""
    return all(abs(frame.mean() - gray(index)) < 3.4 for frame, index in zip(frames, indices, strict=True))


@pytest.mark.parametrize("name", FILES)
def test_the_frames_that_were_asked_for_come_out(films, name):
    wanted = [59, 0, 17, 16, 31, 31, 48, 12]
    with open_video(films[name], Limits(), "pyav") as video:
        assert video.total == COUNT
        np.testing.assert_allclose(video.times, np.arange(COUNT) / 25, atol=1e-3)
        assert nearly(video.read(wanted), wanted)
        # Again, later and earlier, out of the same open file, and each by itself.
        assert nearly(video.read([3, 40]), [3, 40])
        assert nearly(video.read([39]), [39])
        every = list(range(COUNT))
        assert nearly(video.read(every), every)


@pytest.mark.parametrize("name", [name for name in FILES if not name.endswith("avi")])
def test_only_the_frames_between_a_keyframe_and_the_wanted_one_are_decoded(films, name):
    group = FILES[name][2]
    with open_video(films[name], Limits(), "pyav") as video:
        assert isinstance(video, FileVideo)
        video.read([COUNT - 1])
        # A leading group in front of it for open groups, and what the decoder holds back.
        assert 0 < video.decoded <= 2 * group + 4 < COUNT


def test_a_long_film_costs_no_more_than_a_short_one(tmp_path):
    path = record(tmp_path / "long.mp4", "mpeg4", {}, 12, count=3000)
    with open_video(path, Limits(), "pyav") as video:
        frames = video.read([2999, 1500, 10])
        assert nearly(frames, [2999, 1500, 10])
        assert video.decoded < 50


def test_a_film_of_unequal_intervals_has_the_times_it_says(tmp_path):
    stamps = np.cumsum([10 + 30 * (index % 4) for index in range(COUNT)]) - 10
    path = record(tmp_path / "vfr.mkv", "ffv1", {}, 10, stamps=stamps.tolist())
    with open_video(path, Limits(), "pyav") as video:
        np.testing.assert_allclose(video.times, stamps / 1000, atol=2e-3)
        assert nearly(video.read([7, 33]), [7, 33])


def test_a_count_that_the_header_lacks_is_found_out(films):
    with av.open(str(films["nine.webm"])) as container:
        assert container.streams.video[0].frames == 0
    with open_video(films["nine.webm"], Limits(), "pyav") as video:
        assert video.total == COUNT


def test_decoding_from_the_start_gives_the_same_when_nothing_is_kept(films, monkeypatch):
    monkeypatch.setattr("metaformer_plugin_video.stream.KEEP", 1000)
    with open_video(films["xvid.avi"], Limits(), "pyav") as video:
        assert video.linear
        assert nearly(video.read([50, 7]), [50, 7])
        assert video.decoded == COUNT + 51


def test_bytes_are_as_good_as_a_file(films):
    with open_video(films["bframes.mp4"].read_bytes(), Limits(), "pyav") as video:
        assert nearly(video.read([5, 44]), [5, 44])


def test_a_film_that_was_held_upright_stands_upright(films, tmp_path):
    data = films["simple.mp4"].read_bytes()
    straight = b"\0\1\0\0" + bytes(12) + b"\0\1\0\0" + bytes(12) + b"\x40\0\0\0"
    turned = bytes(4) + b"\0\1\0\0" + bytes(4) + b"\xff\xff\0\0" + bytes(16) + b"\x40\0\0\0"
    place = data.rindex(straight, 0, data.index(b"mdia"))  # the track's own
    path = tmp_path / "turned.mp4"
    path.write_bytes(data[:place] + turned + data[place + len(straight) :])
    with open_video(path, Limits(), "pyav") as video:
        assert video.read([0]).shape == (1, SIZE[0], SIZE[1], 3)


@pytest.mark.parametrize("kind", ["gif", "webp"])
def test_animations(tmp_path, kind):
    levels = [gray(index) for index in range(12)]
    images = [Image.new("RGB", SIZE, (level,) * 3) for level in levels]
    path = tmp_path / f"film.{kind}"
    images[0].save(path, save_all=True, append_images=images[1:], duration=[40, 80] * 6, lossless=True)
    with open_video(path, Limits()) as video:
        assert video.total == 12
        assert [round(float(frame.mean())) for frame in video.read([11, 2, 2])] == [levels[11], levels[2], levels[2]]
        np.testing.assert_allclose(video.times[:4], [0, 0.04, 0.12, 0.16])


def test_frame_folders_are_read_in_the_order_of_their_numbers(tmp_path):
    for index in range(12):
        Image.new("RGB", SIZE, (gray(index),) * 3).save(tmp_path / f"frame_{index}.png")
    (tmp_path / "notes.txt").write_text("not a frame")
    with open_video(tmp_path, Limits()) as video:
        assert video.total == 12
        assert nearly(video.read([10, 9, 1]), [10, 9, 1])
    Image.new("RGB", (20, 20)).save(tmp_path / "frame_12.png")
    with open_video(tmp_path, Limits()) as video, pytest.raises(DataError, match="different sizes"):
        video.read([11, 12])


def test_what_decodes_is_said():
    assert versions("pyav") == f"PyAV {av.__version__}"
    assert versions("auto").startswith(("PyAV", "torchcodec"))


def test_torchcodec_gives_the_same_frames_where_it_loads(films):
    if chosen("auto") != "torchcodec":
        with pytest.raises(DataError, match="FFmpeg"), open_video(films["bframes.mp4"], Limits(), "torchcodec"):
            pass
        pytest.skip("torchcodec needs the system's FFmpeg: apt-get install ffmpeg")
    wanted = [59, 0, 17, 16, 31, 31]
    for name in ("bframes.mp4", "opengop.mp4", "lossless.mkv", "nine.webm"):
        with open_video(films[name], Limits(), "torchcodec") as video:
            theirs = video.read(wanted)
            assert video.decoded == 0
        with open_video(films[name], Limits(), "pyav") as video:
            np.testing.assert_allclose(theirs.astype(int), video.read(wanted).astype(int), atol=3)


def test_time_is_limited(films):
    with pytest.raises(DataError, match="seconds of work"), open_video(films["bframes.mp4"], Limits(time_limit=1e-9)):
        pass
    begin = time.monotonic()
    with open_video(films["bframes.mp4"], Limits(), "pyav") as video:
        video.read([30])
    assert time.monotonic() - begin < 5
