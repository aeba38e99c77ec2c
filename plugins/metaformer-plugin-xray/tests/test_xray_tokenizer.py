"""The X-ray tokenizer: counts of the published model, published stems, geometry, what normalisation does."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from metaformer_plugin_xray.preprocess import affine
from metaformer_plugin_xray.tokenizer import XrayTokenizer

from metaformer.errors import MetaformerError
from metaformer.heads.classification import ClassificationHead


@pytest.mark.parametrize(("classes", "trained"), [(2, 745_730), (1000, 1_513_192)])
def test_the_base_model_trains_as_many_parameters_as_the_paper_and_its_script(classes, trained):
    """0.75 M in the paper with two classes; the script keeps a head of 1000."""
    with torch.device("meta"):
        parts = XrayTokenizer(768), ClassificationHead(768, num_classes=classes)
    assert sum(p.numel() for part in parts for p in part.parameters()) == trained


def test_a_stem_of_timm_gives_the_same_tokens():
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    theirs = timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=0).eval()
    ours = XrayTokenizer(192, image_size=32, window="full", normalize="imagenet").eval()
    ours.load_state_dict(dict(ours.translate(theirs.state_dict())))
    gray = np.random.default_rng(0).integers(0, 256, (32, 32), dtype=np.uint8)
    tokens = ours(ours.preprocess.collate([ours.preprocess(gray, False)]))
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    colour = (torch.from_numpy(gray).float() / 255).expand(3, -1, -1)
    expected = theirs._pos_embed(theirs.patch_embed(((colour - mean[:, None, None]) / std[:, None, None])[None]))
    torch.testing.assert_close(tokens.x, expected, atol=1e-5, rtol=1e-5)


def test_torchxrayvision_normalises_to_its_range():
    tokenizer = XrayTokenizer(
        1, image_size=2, patch_size=1, channels=1, normalize="torchxrayvision", positions="none", class_token=False
    )
    torch.nn.init.ones_(tokenizer.embed.proj.weight)
    torch.nn.init.zeros_(tokenizer.embed.proj.bias)
    raw = tokenizer.preprocess(np.array([[0, 255], [51, 102]], dtype=np.uint8), False)
    tokens = tokenizer(tokenizer.preprocess.collate([raw]))
    expected = torch.tensor([-1024, 1024, -614.4, -204.8])  # (2 x / 255 - 1) 1024
    torch.testing.assert_close(tokens.x.flatten(), expected)


def test_contents_are_the_gray_of_each_patch_whatever_normalises_it():
    raw = {"pixels": torch.arange(16.0).view(1, 1, 4, 4) / 15}
    for normalize in ("imagenet", "torchxrayvision"):
        tokenizer = XrayTokenizer(8, image_size=4, patch_size=2, normalize=normalize)
        assert tokenizer.num_contents == 4
        expected = torch.tensor([0.0, 1, 4, 5]) / 15 * 2 - 1
        torch.testing.assert_close(tokenizer.contents(raw)[0, 0], expected)


def test_nothing_moves_in_evaluation_and_everything_stays_off_by_default():
    picture = np.random.default_rng(1).integers(0, 256, (16, 16), dtype=np.uint8)
    plain = XrayTokenizer(8, image_size=16, patch_size=8).preprocess
    moved = XrayTokenizer(8, image_size=16, patch_size=8, rotate=20.0, hflip=1.0).preprocess
    still = plain(picture, False)["pixels"]
    assert torch.equal(plain(picture, True)["pixels"], still)
    assert torch.equal(moved(picture, False)["pixels"], still)
    assert not torch.allclose(moved(picture, True)["pixels"], still)


@pytest.mark.parametrize("size", [(16, 16), (12, 20)])
def test_affine_maps_turn_move_and_enlarge(size):
    picture = torch.rand(1, *size, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(affine(picture, 0.0, 1.0, 0.0, 0.0), picture, atol=1e-5, rtol=0)
    torch.testing.assert_close(affine(picture, math.pi, 1.0, 0.0, 0.0), picture.flip(1, 2), atol=1e-4, rtol=0)
    right = affine(picture, 0.0, 1.0, 0.25, 0.0)
    step = size[1] // 4
    torch.testing.assert_close(right[..., step:], picture[..., :-step], atol=1e-4, rtol=0)
    assert right[..., :step].abs().max() < 1e-4
    down = affine(picture, 0.0, 1.0, 0.0, 0.25)
    torch.testing.assert_close(down[:, size[0] // 4 :], picture[:, : -size[0] // 4], atol=1e-4, rtol=0)


def test_a_quarter_turn_is_counter_clockwise():
    picture = torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(affine(picture, math.pi / 2, 1.0, 0.0, 0.0), picture.rot90(1, (1, 2)), atol=1e-4, rtol=0)


def test_knobs_that_contradict_each_other_are_refused():
    with pytest.raises(MetaformerError, match="smallest"):
        XrayTokenizer(8, zoom=(1.1, 0.9))
    with pytest.raises(MetaformerError, match="patches"):
        XrayTokenizer(8, image_size=30)
