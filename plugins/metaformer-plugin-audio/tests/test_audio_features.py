"""Log-mel features beside Kaldi's and AST's, resampling, and what becomes of a sound on the way to the tokenizer."""

from __future__ import annotations

import math
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from metaformer_plugin_audio.augment import Augment
from metaformer_plugin_audio.features import MelSpectrogram, resample
from metaformer_plugin_audio.preprocess import AudioPreprocess

from metaformer.data.loader import isolated_rng

STILL = Augment(random_crop=False, gain=0.0, noise=0.0, roll=0, freq_mask=0, time_mask=0)
MEL = MelSpectrogram(rate=16000, mel_bins=128, frame_length=25.0, frame_shift=10.0)
PREPROCESS = AudioPreprocess(
    spectrogram=MEL,
    channels=1,
    max_frames=64,
    min_frames=16,
    mean=-4.2677393,
    std=4.5689974,
    padding="mask",
    max_seconds=5.0,
    augment=STILL,
)
NOISE = np.random.default_rng(0).normal(0, 0.1, 16000).astype(np.float32)
FLOOR = math.log(torch.finfo(torch.float32).eps)


@pytest.mark.parametrize(("rate", "bins", "shift"), [(16000, 80, 10.0), (8000, 40, 5.0), (44100, 128, 10.0)])
def test_features_are_those_of_kaldi(rate, bins, shift):
    knf = pytest.importorskip("kaldi_native_fbank", reason="pip install kaldi-native-fbank")
    options = knf.FbankOptions()
    options.frame_opts.dither, options.frame_opts.samp_freq = 0.0, float(rate)
    options.frame_opts.window_type, options.frame_opts.frame_shift_ms = "hanning", shift
    options.mel_opts.num_bins, options.use_energy, options.htk_compat = bins, False, True
    reference = knf.OnlineFbank(options)
    reference.accept_waveform(rate, NOISE.tolist())
    reference.input_finished()
    want = np.stack([reference.get_frame(index) for index in range(reference.num_frames_ready)])
    got = MelSpectrogram(rate, bins, 25.0, shift)(torch.from_numpy(NOISE)[None])
    assert got.shape == (1, bins, len(want))
    assert np.abs(got[0].T.numpy() - want).max() < 1e-3
    assert np.abs(got[0].T.numpy() - want).mean() < 2e-5


@pytest.mark.parametrize("length", [16000, 6000])
def test_the_spectrogram_is_what_the_published_ast_is_fed(length):
    transformers = pytest.importorskip("transformers")
    sound = NOISE[:length] - NOISE[:length].mean()
    extract = transformers.ASTFeatureExtractor(max_length=64)
    want = extract(sound, sampling_rate=16000, return_tensors="pt")["input_values"][0]  # [frames, bins]
    got = replace(PREPROCESS, padding="zeros")(sound, False)
    assert got["mask"].shape == (64,)
    assert got["mask"].all()
    assert (got["values"][0].T - want).abs().max() <= 1e-5


def test_lengths():
    for samples, frames in ((1, 16), (2800, 16), (2959, 16), (2960, 17), (16000, 64)):
        raw = PREPROCESS(NOISE[:samples], False)
        assert raw["values"].shape == (1, 128, frames), samples
        assert raw["mask"].tolist() == [True] * frames
    assert PREPROCESS.blank()["mask"].shape == (16,)
    assert PREPROCESS.example()["mask"].shape == (64,)
    assert replace(PREPROCESS, padding="zeros").blank()["mask"].shape == (64,)


def test_a_long_sound_is_cut_at_its_end_and_a_short_one_followed_by_silence():
    long, start = PREPROCESS(NOISE, False), PREPROCESS(NOISE - NOISE.mean(), False)
    alone = PREPROCESS(NOISE[: MEL.samples(64)], False)
    assert torch.allclose(long["values"], start["values"], atol=1e-4)
    assert torch.allclose(long["values"], alone["values"], atol=0.02)  # but for the mean that is taken off
    short = PREPROCESS(NOISE[:400], False)["values"]
    assert torch.allclose(short[0, :, 3:], torch.full((), (FLOOR + 4.2677393) / (2 * 4.5689974)), atol=1e-5)


def test_silence_is_finite_and_an_offset_changes_nothing():
    silent = PREPROCESS(np.zeros(8000, np.float32), False)["values"]
    assert torch.isfinite(silent).all()
    assert torch.allclose(PREPROCESS(np.full(8000, 0.5, np.float32), False)["values"], silent)
    assert torch.allclose(PREPROCESS(NOISE + 0.25, False)["values"], PREPROCESS(NOISE, False)["values"], atol=1e-3)


def test_stereo_is_two_spectrograms():
    both = np.stack([NOISE, NOISE[::-1]], axis=1)
    values = replace(PREPROCESS, channels=2)(both, False)["values"]
    for channel in range(2):
        alone = PREPROCESS(np.ascontiguousarray(both[:, channel]), False)["values"]
        assert torch.allclose(values[channel], alone[0], atol=1e-5)


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 32000, 44100, 48000, 96000])
def test_a_tone_stays_a_tone_at_another_rate(rate):
    def tone(at: int) -> torch.Tensor:
        return torch.sin(2 * math.pi * 440 * torch.arange(at, dtype=torch.float64) / at).float()[None]

    moved = resample(tone(rate), rate, 16000)
    assert moved.shape == (1, 16000)
    assert (moved - tone(16000))[:, 200:-200].abs().max() < 2e-3


@pytest.mark.parametrize("rate", [44101, 15999, 191999, 655349, 1, 7])
def test_odd_rates_cost_neither_memory_nor_time(rate):
    start = time.perf_counter()
    length = min(rate, 50000)
    moved = resample(torch.zeros(1, length), rate, 16000)
    assert abs(moved.shape[1] - length * 16000 / rate) <= 2
    assert time.perf_counter() - start < 5


def test_augmentation_moves_what_it_says():
    sound = torch.from_numpy(NOISE)[None]
    with isolated_rng(1):
        assert (STILL.samples(sound) == sound).all()
        assert STILL.start(500) == 0
        starts = {replace(STILL, random_crop=True).start(3) for _ in range(60)}
        gains = [float(replace(STILL, gain=6.0).samples(sound).std() / sound.std()) for _ in range(60)]
    assert starts == {0, 1, 2, 3}
    assert 0.5 < min(gains) < 0.7
    assert 1.4 < max(gains) < 2.0
    values = torch.rand(1, 32, 40) + 1
    with isolated_rng(2):
        masked = [replace(STILL, freq_mask=8, time_mask=12).spectrogram(values)[0] for _ in range(60)]
        rolled = replace(STILL, roll=5).spectrogram(values)
        noisy = replace(STILL, noise=0.1).spectrogram(values) - values
    bins = [int((m == 0).all(dim=1).sum()) for m in masked]
    frames = [int((m == 0).all(dim=0).sum()) for m in masked]
    assert (min(bins), max(bins)) == (0, 8)
    assert (min(frames), max(frames)) == (0, 12)
    assert any(torch.equal(rolled, values.roll(shift, dims=2)) for shift in range(-5, 6))
    assert 0 <= noisy.min() <= noisy.max() <= 0.1 + 1e-6
    assert (STILL.spectrogram(values) == values).all()


def test_training_differs_by_seed_and_evaluation_does_not():
    lively = replace(PREPROCESS, augment=Augment(True, 6.0, 0.1, 5, 24, 12))
    with isolated_rng(1):
        first, second = lively(NOISE, True), lively(NOISE, True)
    with isolated_rng(1):
        again = lively(NOISE, True)
    assert torch.equal(first["values"], again["values"])
    assert not torch.equal(first["values"], second["values"])
    assert torch.equal(lively(NOISE, False)["values"], PREPROCESS(NOISE, False)["values"])
