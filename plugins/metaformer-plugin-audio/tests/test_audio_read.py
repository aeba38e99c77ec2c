"""Sound files, bytes and arrays: what is read, and what is refused with a sentence."""

from __future__ import annotations

import io
import random

import numpy as np
import pytest
import soundfile
import torch
from metaformer_plugin_audio.read import read_sound

from metaformer.errors import DataError

RATE = 16000
TIME = np.arange(RATE // 2) / RATE
TONE = (0.4 * np.sin(2 * np.pi * 440 * TIME) + 0.2 * np.sin(2 * np.pi * 1000 * TIME)).astype(np.float32)
FILES = {
    "wav": ("WAV", "PCM_16", 1e-4),
    "wav24": ("WAV", "PCM_24", 1e-6),
    "wav_float": ("WAV", "FLOAT", 0.0),
    "wav8": ("WAV", "PCM_U8", 0.01),
    "wavex": ("WAVEX", "PCM_16", 1e-4),
    "rf64": ("RF64", "PCM_16", 1e-4),
    "aiff": ("AIFF", "PCM_16", 1e-4),
    "flac": ("FLAC", "PCM_16", 1e-4),
    "vorbis": ("OGG", "VORBIS", 0.05),
    "opus": ("OGG", "OPUS", 0.1),
    "mp3": ("MP3", "MPEG_LAYER_III", 0.1),
}


def encoded(samples: np.ndarray, kind: str, rate: int = RATE) -> bytes:
    file = io.BytesIO()
    form, subtype, _ = FILES[kind]
    soundfile.write(file, samples, rate, format=form, subtype=subtype)
    return file.getvalue()


def read(value: object, channels: int = 1, max_seconds: float = 5.0) -> tuple[np.ndarray, int]:
    return read_sound(value, channels, max_seconds, RATE)


@pytest.mark.parametrize("kind", FILES)
def test_every_format_gives_the_sound_back(kind, tmp_path):
    content = encoded(TONE, kind)
    path = tmp_path / "no_extension_needed"
    path.write_bytes(content)
    samples, rate = read(path)
    assert rate == RATE
    assert samples.shape == (len(TONE), 1)
    inner = slice(800, -800)  # lossy coders blur the ends
    assert np.abs(samples[inner, 0] - TONE[inner]).max() <= FILES[kind][2]
    assert np.array_equal(read(content)[0], samples)
    assert np.array_equal(read(str(path))[0], samples)


def test_channels():
    stereo = np.stack([TONE, -0.5 * TONE], axis=1)
    content = encoded(stereo, "wav_float")
    assert np.allclose(read(content)[0][:, 0], 0.25 * TONE, atol=1e-7)
    assert np.array_equal(read(content, channels=2)[0], stereo)
    assert np.array_equal(read(encoded(TONE, "wav_float"), channels=2)[0], np.stack([TONE, TONE], axis=1))
    six = encoded(np.stack([TONE] * 6, axis=1), "wav_float")
    assert np.allclose(read(six)[0][:, 0], TONE, atol=1e-6)
    with pytest.raises(DataError, match="6 channels"):
        read(six, channels=2)


def test_arrays_of_every_kind_are_scaled_to_one():
    want = read(TONE)[0]
    assert np.array_equal(want[:, 0], TONE)
    for dtype, most in ((np.int16, 2**15), (np.int32, 2**31), (np.int8, 2**7)):
        pcm = (TONE.astype(np.float64) * most).round().astype(dtype)
        assert np.abs(read(pcm)[0] - want).max() <= 1 / most + 1e-7
    unsigned = (TONE * 128 + 128).round().astype(np.uint8)
    assert np.abs(read(unsigned)[0] - want).max() <= 1 / 128
    assert np.array_equal(read({"samples": torch.from_numpy(TONE)[:, None], "rate": 8000})[0], want)
    assert read({"samples": TONE, "rate": 8000})[1] == 8000
    assert read({"array": TONE, "sampling_rate": 22050})[1] == 22050
    assert np.array_equal(read(TONE.astype(np.float16).tolist())[0][:, 0], TONE.astype(np.float16).astype(np.float32))


@pytest.mark.parametrize(
    "kind",
    ["wav", "wav24", "wav_float", "wavex", "rf64", "aiff", "flac", "vorbis", "opus", "mp3"],
)
def test_a_file_that_ends_too_early_is_refused(kind):
    content = encoded(TONE, kind)
    for share in (0.1, 0.5, 0.9):
        with pytest.raises(DataError):
            read(content[: int(len(content) * share)])


def test_a_wav_that_was_written_to_a_pipe_is_read():
    content = bytearray(encoded(TONE, "wav"))
    place = content.index(b"data") + 4
    for size in (b"\xff\xff\xff\xff", b"\x00\xf0\xff\x7f"):
        content[4:8] = content[place : place + 4] = size
        assert len(read(bytes(content))[0]) == len(TONE)


@pytest.mark.parametrize("kind", ["wav", "flac", "vorbis", "mp3", "aiff"])
def test_flipped_bytes_are_read_or_refused_and_nothing_else(kind):
    content, draw = encoded(TONE[:2000], kind), random.Random(0)
    for _ in range(25):
        damaged = bytearray(content)
        for _ in range(draw.choice((1, 4))):
            damaged[draw.randrange(min(len(damaged), draw.choice((64, 10**6))))] ^= 1 << draw.randrange(8)
        try:
            samples, rate = read(bytes(damaged))
        except DataError:
            continue
        assert np.isfinite(samples).all()
        assert 0 < len(samples) <= 5 * rate + 1


def test_length_is_checked_before_anything_is_decoded(monkeypatch):
    content = encoded(np.zeros(RATE * 6, np.float32), "flac")  # silence: a small file, however long

    def decode(*_: object, **__: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(soundfile.SoundFile, "read", decode)
    with pytest.raises(DataError, match=r"6\.0 seconds at 16000 Hz, more than max_seconds 5"):
        read(content)


def test_a_header_that_does_not_say_how_long_the_sound_is():
    content = bytearray(encoded(np.zeros(RATE * 6, np.float32), "flac"))
    content[21] &= 0xF0  # the low 36 bits at byte 21 are the number of samples
    content[22:26] = bytes(4)
    with pytest.raises(DataError, match="does not say how long"):
        read(bytes(content))


NOT_SOUND = {
    "empty": b"",
    "text": b"once upon a time",
    "archive": b"PK\x03\x04" + bytes(40),
    "avi": b"RIFF\x24\x00\x00\x00AVI LIST" + bytes(40),
    "pickle": b"\x80\x04\x95" + bytes(40),
    "matlab": b"MATLAB 5.0 MAT-file" + bytes(200),
    "wav_without_samples": encoded(np.zeros(0, np.float32), "wav"),
    "wav_of_nan": encoded(np.array([0.0, np.nan, 0.5], np.float32), "wav_float"),
    "wav_of_infinity": encoded(np.array([0.0, np.inf, 0.5], np.float32), "wav_float"),
}


@pytest.mark.parametrize("name", NOT_SOUND)
def test_what_is_no_sound_is_refused(name, tmp_path):
    path = tmp_path / "sound.raw"
    path.write_bytes(NOT_SOUND[name])
    for value in (NOT_SOUND[name], path):
        with pytest.raises(DataError) as caught:
            read(value)
        assert caught.value.asked
        assert caught.value.found
        assert caught.value.do


def test_paths_that_lead_to_no_file(tmp_path):
    for path in (tmp_path, tmp_path / "none.wav"):
        with pytest.raises(DataError, match="no such file"):
            read(path)


def test_an_array_that_lies_the_other_way_round():
    with pytest.raises(DataError, match="transpose"):
        read(np.zeros((2, 1000), np.float32))
    with pytest.raises(DataError, match="more than max_seconds"):
        read(np.zeros(RATE * 6, np.float32))
    with pytest.raises(DataError, match="int64"):
        read([1, 2, 3])
