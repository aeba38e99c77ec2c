"""Files from strangers: damaged, cut off, oversized or made to open something else are a DataError and nothing more."""

from __future__ import annotations

import io
import socket
import struct
import wave
from pathlib import Path

import av
import numpy as np
import pytest
from metaformer_plugin_video.preprocess import VideoPreprocess
from metaformer_plugin_video.source import Limits, open_video
from PIL import Image

from metaformer.errors import DataError

SIZE = (48, 32)
M3U8 = "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{target}\n#EXT-X-ENDLIST\n"


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """Small films of noise, as bytes, by container."""
    folder, draw = tmp_path_factory.mktemp("noise"), np.random.default_rng(0)
    out = {}
    for name, codec in {"mp4": "libx264", "webm": "libvpx", "mkv": "ffv1", "avi": "mpeg4"}.items():
        with av.open(str(folder / f"film.{name}"), "w") as container:
            stream = container.add_stream(codec, rate=25)
            (stream.width, stream.height), stream.pix_fmt = SIZE, "yuv420p"
            for _ in range(12):
                pixels = draw.integers(0, 256, (*SIZE[::-1], 3), dtype=np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
            container.mux(stream.encode())
        out[name] = (folder / f"film.{name}").read_bytes()
    images = [Image.fromarray(draw.integers(0, 256, (*SIZE[::-1], 3), dtype=np.uint8)) for _ in range(6)]
    for kind in ("gif", "webp"):
        target = io.BytesIO()
        images[0].save(target, kind.upper(), save_all=True, append_images=images[1:], duration=40)
        out[kind] = target.getvalue()
    return out


KINDS = ("mp4", "webm", "mkv", "avi", "gif", "webp")


def read(value, limits: Limits | None = None) -> np.ndarray:
    with open_video(value, limits or Limits(time_limit=20.0), "pyav") as video:
        return video.read(range(min(video.total, 4)))


@pytest.mark.parametrize("kind", KINDS)
def test_every_cut_file_is_refused(film, kind):
    whole = film[kind]
    read(whole)
    for share in (0.02, 0.3, 0.7, 0.95):
        with pytest.raises(DataError):
            read(whole[: int(len(whole) * share)])


@pytest.mark.parametrize("kind", KINDS)
def test_flipped_bytes_give_frames_or_a_data_error_and_nothing_else(film, kind):
    draw = np.random.default_rng(1)
    for _ in range(25):
        data = bytearray(film[kind])
        # Half of the flips in the headers, where they hurt most.
        end = len(data) if draw.integers(2) else min(400, len(data))
        for place in draw.integers(0, end, 3):
            data[place] ^= int(draw.integers(1, 256))
        try:
            frames = read(bytes(data))
        except DataError as error:
            assert all((error.asked, error.found))  # noqa: PT017 - either outcome is right
        else:
            assert frames.dtype == np.uint8


@pytest.mark.parametrize(
    "value", [b"", b"\0" * 100, b"no video at all", 5, None, ["a.mp4"], np.zeros((2, 4, 4, 3), np.float64)]
)
def test_what_is_no_video_is_refused(value):
    with pytest.raises(DataError):
        read(value)


@pytest.mark.parametrize("shape", [(0, 4, 4, 3), (2, 0, 4, 3), (2, 4, 4, 2), (4, 4), (1, 2, 4, 4, 3)])
def test_arrays_of_other_shapes_are_refused(shape):
    with pytest.raises(DataError):
        read(np.zeros(shape, np.uint8))


def test_absent_files_pipes_and_empty_folders_are_refused(tmp_path):
    import os

    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty.mp4").touch()
    for name in ("absent.mp4", "pipe.mp4", "folder", "empty.mp4", "a\0b.mp4"):
        with pytest.raises(DataError):
            read(tmp_path / name)


def test_sound_alone_is_no_video(tmp_path):
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(DataError, match="only audio"):
        read(path)
    with wave.open(str(tmp_path / "sound.avi"), "wb") as out:
        out.setparams((1, 2, 8000, 0, "NONE", ""))
        out.writeframes(bytes(100))
    with pytest.raises(DataError, match="bytes b'RIFF"):
        read(tmp_path / "sound.avi")


@pytest.mark.parametrize("name", ["list.mp4", "list.mkv", "list.avi", "list.gif"])
def test_playlists_and_scripts_open_nothing(tmp_path, film, monkeypatch, name):
    secret = tmp_path / "secret.mp4"
    secret.write_bytes(film["mp4"])
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("a connection"))
    path = tmp_path / name
    for text in (
        M3U8.format(target=secret),
        M3U8.format(target=secret.as_uri()),
        M3U8.format(target="http://127.0.0.1:9/a.ts"),
        f"ffconcat version 1.0\nfile '{secret}'\n",
        f"concat:{secret}|{secret}",
        f"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nm=video 9 RTP/AVP 96\n{secret}",
    ):
        path.write_text(text)
        with pytest.raises(DataError, match=r"readable are|list of other files"):
            read(path)
        # The same behind a header that passes for a film's.
        for head in (b"\0\0\0\x10ftypisom\0\0\0\0", b"RIFF\xff\0\0\0AVI ", b"\x1a\x45\xdf\xa3"):
            with pytest.raises(DataError):
                read(head + text.encode())


def test_names_that_are_protocols_are_only_names(tmp_path, film, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret.mp4").write_bytes(film["mp4"])
    for name in (
        "concat:secret.mp4",
        "file:secret.mp4",
        "subfile,,start,0,end,0,,:secret.mp4",
        "http://127.0.0.1:9/a.mp4",
    ):
        with pytest.raises(DataError, match="no such file"):
            read(name)


def test_data_references_of_quicktime_are_not_followed(film, tmp_path):
    """A `url ` entry that says the samples are in another file."""
    data = film["mp4"]
    entry = b"\0\0\0\x0curl \0\0\0\1"
    place = data.index(entry)
    (tmp_path / "other").write_bytes(data)
    for kind in (b"url ", b"alis"):
        changed = data[:place] + b"\0\0\0\x0c" + kind + b"\0\0\0\0" + data[place + 12 :]
        try:
            read(changed)
        except DataError:
            continue


def test_frames_beyond_the_limits_are_refused_before_they_are_decoded(film):
    for kind in KINDS:
        with pytest.raises(DataError, match="max_pixels"):
            read(film[kind], Limits(max_pixels=SIZE[0] * SIZE[1] - 1))
        with pytest.raises(DataError, match="max_frames"):
            read(film[kind], Limits(max_frames=3))
    with pytest.raises(DataError, match="max_frames"):
        read(np.zeros((5, 4, 4, 3), np.uint8), Limits(max_frames=4))


def test_a_clip_of_many_large_frames_is_refused(tmp_path):
    for index in range(34):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{index}.png")
    with open_video(tmp_path, Limits(max_pixels=64)) as video, pytest.raises(DataError, match="32 times"):
        video.read(range(34))


def test_tables_that_promise_more_than_there_is_are_refused(film):
    data = film["mp4"]
    place = data.index(b"stsz")
    # One size for all samples, and two thousand million of them, which FFmpeg would make an index for.
    lie = data[: place + 8] + struct.pack(">II", 1, 2**31 - 1) + data[place + 16 :]
    with pytest.raises(DataError, match="more than can be there"):
        read(lie)


def test_a_size_beyond_the_limit_in_the_stream_alone_is_refused(film):
    """The container's header says 8x8, the stream 48x32: FFmpeg's own limit is set too."""
    size = struct.pack("<ii", *SIZE)
    assert size in film["avi"]
    with pytest.raises(DataError):
        read(film["avi"].replace(size, struct.pack("<ii", 8, 8)), Limits(max_pixels=100))


def test_the_preprocess_says_it_too(film, tmp_path):
    path = Path(tmp_path / "half.mp4")
    path.write_bytes(film["mp4"][: len(film["mp4"]) // 2])
    preprocess = VideoPreprocess(size=(16, 16), channels=3, num_frames=4, tubelet=2)
    for value in (path, film["webm"][:300], 5):
        with pytest.raises(DataError) as caught:
            preprocess(value, train=False)
        assert caught.value.found
