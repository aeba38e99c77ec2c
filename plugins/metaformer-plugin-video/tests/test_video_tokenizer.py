"""The video tokenizer: VideoMAE's and ViViT's tokens, short videos, positions and contents."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from metaformer_plugin_video.source import Clip
from metaformer_plugin_video.tokenizer import VideoTokenizer

from metaformer.errors import DataError, MetaformerError, WeightsError

SMALL: dict[str, Any] = {"num_frames": 8, "image_size": 16, "patch_size": 8, "stride": 1, "resize": "exact"}


def build(dim: int = 16, **knobs: Any) -> VideoTokenizer:
    torch.manual_seed(0)
    return VideoTokenizer(dim, **{**SMALL, **knobs})


def film(count: int, side: int = 16) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def batch(tokenizer: VideoTokenizer, *values: Any, train: bool = False):
    return tokenizer.preprocess.collate([tokenizer.preprocess(value, train) for value in values])


def normalized(clips: np.ndarray) -> torch.Tensor:
    """[B F C H W], by the numbers of ImageNet."""
    pixels = torch.from_numpy(clips).float().permute(0, 1, 4, 2, 3) / 255
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return (pixels - mean.view(3, 1, 1)) / std.view(3, 1, 1)


@pytest.mark.parametrize(("tubelet", "patch", "side"), [(2, 8, 16), (1, 16, 32)])
def test_tokens_are_videomaes(tubelet, patch, side):
    from transformers import VideoMAEConfig, VideoMAEModel

    torch.manual_seed(1)
    config = VideoMAEConfig(
        image_size=side,
        patch_size=patch,
        num_frames=8,
        tubelet_size=tubelet,
        hidden_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
    )
    theirs = VideoMAEModel(config).eval()
    ours = build(24, image_size=side, patch_size=patch, tubelet=tubelet)
    ours.load_state_dict(dict(ours.translate(theirs.state_dict())))
    clips = np.stack([film(8, side), film(8, side)[::-1]])
    with torch.no_grad():
        expected = theirs.embeddings(normalized(clips), None)
        tokens = ours(batch(ours, *clips))
    assert tokens.num_prefix == 0
    assert tokens.grid == (8 // tubelet, side // patch, side // patch)
    torch.testing.assert_close(tokens.x, expected, atol=1e-5, rtol=0)


def test_tokens_are_vivits():
    from transformers import VivitConfig, VivitModel

    torch.manual_seed(1)
    config = VivitConfig(
        image_size=16,
        num_frames=8,
        tubelet_size=[2, 8, 8],
        hidden_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
    )
    theirs = VivitModel(config).eval()
    torch.nn.init.normal_(theirs.embeddings.position_embeddings)
    ours = build(24, class_token=True, positions="learned")
    ours.load_state_dict(dict(ours.translate(theirs.state_dict())))
    clips = film(8)[None]
    with torch.no_grad():
        tokens = ours(batch(ours, *clips))
        torch.testing.assert_close(tokens.x, theirs.embeddings(normalized(clips)), atol=1e-5, rtol=0)


def test_patches_of_a_picture_model_give_its_tokens_on_a_still_film():
    weight, bias = torch.randn(16, 3, 8, 8), torch.randn(16)
    tokenizer = build(positions="none")
    source = {"patch_embed.proj.weight": weight, "patch_embed.proj.bias": bias, "cls_token": torch.zeros(1, 1, 16)}
    tokenizer.load_state_dict(dict(tokenizer.translate(source)))
    still = np.repeat(film(1), 8, axis=0)
    with torch.no_grad():
        tokens = tokenizer(batch(tokenizer, still)).x.unflatten(1, (4, 4))
        expected = torch.nn.functional.conv2d(normalized(still[None])[0, :1], weight, bias, stride=8).flatten(2)
    for tube in range(4):
        torch.testing.assert_close(tokens[0, tube], expected[0].T, atol=1e-4, rtol=1e-5)


def test_factorized_positions_are_a_place_and_a_time():
    tokenizer, plain = build(positions="factorized", class_token=True), build(positions="none", class_token=True)
    plain.load_state_dict({key: value for key, value in tokenizer.state_dict().items() if key.startswith("embed.")})
    with torch.no_grad():
        ours, bare = tokenizer(batch(tokenizer, film(8))), plain(batch(plain, film(8)))
        added = (ours.x - bare.x)[0]
        table = (tokenizer.time[0] + tokenizer.space[0]).flatten(0, 1)
    torch.testing.assert_close(ours.positions[0], torch.cat([torch.zeros(1, 16), table]))
    torch.testing.assert_close(added, ours.positions[0], atol=1e-6, rtol=0)
    with pytest.raises(WeightsError):
        tokenizer.translate({"patch_embed.proj.weight": torch.zeros(16, 3, 2, 8, 8)})


def test_short_videos_are_masked_or_held():
    masked, held = build(short="mask"), build(short="repeat")
    short = film(3)
    raw = masked.preprocess(short, False)
    assert raw["pixels"].shape[0] == 4  # whole tubelets: the last frame is there twice
    assert torch.equal(raw["pixels"][3], raw["pixels"][2])
    tokens = masked(batch(masked, short, film(8)))
    assert tokens.mask.sum(dim=1).tolist() == [8, 16]
    alone = masked(batch(masked, short))
    assert alone.grid == tokens.grid
    torch.testing.assert_close(alone.x[0][alone.mask[0]], tokens.x[0][tokens.mask[0]])
    tokens = held(batch(held, short))
    assert tokens.mask.all()
    assert torch.equal(held.preprocess(short, False)["pixels"][7], raw["pixels"][2])
    # What is behind the mask changes nothing.
    raw = batch(masked, short, film(8))
    raw["pixels"][0, 4:] = 255
    torch.testing.assert_close(masked(raw).x[0][:8], alone.x[0][:8])


def test_contents_are_the_normalized_pixels_of_each_tubelet():
    tokenizer = build()
    raw = batch(tokenizer, film(8))
    contents = tokenizer.contents(raw)
    assert contents.shape == (1, 16, tokenizer.num_contents)
    assert tokenizer.num_contents == 3 * 2 * 8 * 8
    pixels = normalized(film(8)[None])[0]  # [F C H W]
    second = pixels[2:4, :, 8:16, 0:8].permute(1, 0, 2, 3).flatten()  # time 1, row 1, column 0
    torch.testing.assert_close(contents[0, 4 + 2], second, atol=1e-5, rtol=0)
    assert contents.std().item() == pytest.approx(1.28, abs=0.3)


def test_in_training_all_frames_are_cut_and_mirrored_alike():
    tokenizer = build(augment="light", crop_scale=(0.2, 0.5), num_frames=4)
    still = np.repeat(film(1, 40), 9, axis=0)
    seen = set()
    for seed in range(6):
        torch.manual_seed(seed)
        import random

        random.seed(seed)
        pixels = tokenizer.preprocess(still, True)["pixels"]
        assert torch.equal(pixels, pixels[:1].expand_as(pixels))
        seen.add(pixels.sum().item())
    assert len(seen) > 1
    first, second = (tokenizer.preprocess(still, False)["pixels"] for _ in range(2))
    assert torch.equal(first, second)


def test_gray_and_colour():
    gray = build(channels=1)
    levels = np.full((8, 16, 16, 1), 77, np.uint8)
    assert (gray.preprocess(levels, False)["pixels"] == 77).all()
    assert (gray.preprocess(np.repeat(levels, 3, axis=3), False)["pixels"] == 77).all()
    assert build().preprocess(levels[..., 0], False)["pixels"].shape == (8, 3, 16, 16)
    red = np.zeros((8, 16, 16, 3), np.uint8)
    red[..., 0] = 255
    assert (gray.preprocess(red, False)["pixels"] == 76).all()


def test_clips_pass_as_they_are():
    tokenizer = build(stride=4)
    frames = film(8)
    pixels = tokenizer.preprocess(Clip(frames), True)["pixels"]
    assert torch.equal(pixels, torch.from_numpy(frames).permute(0, 3, 1, 2))
    for bad in (film(9), film(8, 24)):
        with pytest.raises(DataError):
            tokenizer.preprocess(Clip(bad), False)


@pytest.mark.parametrize(
    "knobs",
    [
        {"num_frames": 7},
        {"patch_size": 5},
        {"crop_scale": (0.9, 0.1)},
        {"sampling": "segments", "frame_rate": 2.0},
        {"mean": (0.5,)},
    ],
)
def test_impossible_knobs_are_refused(knobs):
    with pytest.raises(MetaformerError):
        build(**knobs)


def test_it_says_what_it_is():
    said = build(decoder="pyav").describe()
    for what in ("8 frames", "2x8x8", "16 tokens", "PyAV"):
        assert what in said
