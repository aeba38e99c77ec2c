"""Infrared pictures: 16 bits stay, physical units, odd TIFF files, what strangers send; and a published stem."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from metaformer_plugin_infrared.thermal import read_thermal
from metaformer_plugin_infrared.tokenizer import InfraredTokenizer
from PIL import Image

from metaformer.errors import DataError, MetaformerError

HEAT = np.random.default_rng(0).integers(27000, 32000, (8, 6), dtype=np.uint16)


@pytest.mark.parametrize("name", ["heat.png", "heat.tif"])
def test_levels_one_step_of_16_bits_apart_stay_distinct_up_to_the_tokens(tmp_path: Path, name):
    levels = np.arange(65472, 65536, dtype=np.uint16).reshape(8, 8)
    Image.fromarray(levels).save(tmp_path / name)
    tokenizer = InfraredTokenizer(4, image_size=8, patch_size=1, normalize="fixed", positions="none").eval()
    raw = tokenizer.preprocess(tmp_path / name, False)
    assert len(raw["pixels"].unique()) == 64
    steps = raw["pixels"].flatten().double().diff() * 65535
    torch.testing.assert_close(steps, torch.ones(63, dtype=torch.float64), atol=0.01, rtol=0)
    # The stem's own products of float32 have steps of a tenth of this.
    tokens = tokenizer(tokenizer.preprocess.collate([raw])).x[0, 1:]
    assert len(tokens.unique(dim=0)) == 64


def test_counts_become_degrees():
    celsius = HEAT / 100 - 273.15
    np.testing.assert_allclose(read_thermal(HEAT, "centikelvin"), celsius, atol=1e-5)
    np.testing.assert_allclose(read_thermal(HEAT // 10, "decikelvin"), HEAT // 10 / 10 - 273.15, atol=1e-5)
    np.testing.assert_allclose(read_thermal(HEAT, (0.04, -200.0)), HEAT * 0.04 - 200, rtol=1e-6)
    np.testing.assert_allclose(read_thermal(HEAT, "levels"), HEAT)
    np.testing.assert_allclose(read_thermal(HEAT), HEAT / 65535, rtol=1e-6)


def test_a_fixed_range_keeps_how_warm_things_are_and_percentiles_do_not():
    fixed = InfraredTokenizer(
        4, image_size=(8, 6), patch_size=2, scale="centikelvin", normalize="fixed", range=(-10.0, 50.0)
    ).preprocess
    own = InfraredTokenizer(4, image_size=(8, 6), patch_size=2, percentiles=(0.0, 100.0)).preprocess
    warmer = HEAT + 300
    difference = fixed(warmer, False)["pixels"] - fixed(HEAT, False)["pixels"]
    torch.testing.assert_close(difference, torch.full((1, 8, 6), 0.05), atol=1e-5, rtol=0)
    torch.testing.assert_close(own(warmer, False)["pixels"], own(HEAT, False)["pixels"], atol=1e-5, rtol=0)
    assert own(HEAT, False)["pixels"].aminmax() == (0, 1)
    assert not own(np.full((8, 6), 7, dtype=np.uint16), False)["pixels"].any()


def test_colour_becomes_gray_and_repeated_channels_are_one():
    gray = (HEAT // 256).astype(np.uint8)
    np.testing.assert_array_equal(read_thermal(np.repeat(gray[..., None], 3, 2)), read_thermal(gray))
    colour = np.zeros((2, 2, 3), dtype=np.uint8)
    colour[..., 1] = 255
    np.testing.assert_allclose(read_thermal(colour), 0.587, atol=1e-6)


def test_a_stem_of_timm_gives_the_same_tokens():
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    theirs = timm.create_model("vit_tiny_patch16_224", img_size=(48, 32), num_classes=0).eval()
    ours = InfraredTokenizer(192, image_size=(48, 32), normalize="fixed").eval()
    ours.load_state_dict(dict(ours.translate(theirs.state_dict())))
    gray = np.random.default_rng(0).integers(0, 65536, (48, 32), dtype=np.uint16)
    tokens = ours(ours.preprocess.collate([ours.preprocess(gray, False)]))
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    colour = torch.from_numpy(gray / 65535).float().expand(3, -1, -1)
    expected = theirs._pos_embed(theirs.patch_embed(((colour - mean[:, None, None]) / std[:, None, None])[None]))
    torch.testing.assert_close(tokens.x, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.uint32])
def test_tiff_files_that_pillow_cannot_read_are_read(tmp_path: Path, dtype):
    tifffile = pytest.importorskip("tifffile", reason="pip install 'metaformer-plugin-infrared[tiff]'")
    tifffile.imwrite(tmp_path / "odd.tif", (HEAT / 8).astype(dtype))
    expected = (HEAT / 8).astype(dtype)
    np.testing.assert_allclose(read_thermal(tmp_path / "odd.tif", "levels"), expected, rtol=1e-6)


def test_odd_tiff_files_are_checked_before_they_are_decoded(tmp_path: Path):
    tifffile = pytest.importorskip("tifffile", reason="pip install 'metaformer-plugin-infrared[tiff]'")
    path = tmp_path / "odd.tif"
    tifffile.imwrite(path, np.zeros((64, 64), dtype=np.float64))
    with pytest.raises(DataError, match="max_pixels"):
        read_thermal(path, "levels", max_pixels=100)
    whole, draw = path.read_bytes(), np.random.default_rng(0)
    for round_ in range(30):
        broken = bytearray(whole[: draw.integers(len(whole))] if round_ % 3 == 0 else whole)
        for place in draw.integers(0, max(min(len(broken), 300), 1), 4):
            if broken:
                broken[place] = draw.integers(256)
        path.write_bytes(broken)
        try_to_read(path)


def test_damaged_pictures_are_read_or_refused():
    out = io.BytesIO()
    Image.fromarray(HEAT).save(out, format="PNG")
    whole, draw = out.getvalue(), np.random.default_rng(0)
    for end in (0, 8, 30, len(whole) // 2):
        with pytest.raises(DataError):
            read_thermal(whole[:end])
    for _ in range(30):
        broken = bytearray(whole)
        broken[draw.integers(len(whole))] = draw.integers(256)
        try_to_read(bytes(broken))


def try_to_read(value: Path | bytes) -> None:
    try:
        found = read_thermal(value, "levels", max_pixels=2**16)
    except DataError:
        return
    assert np.isfinite(found).all()


def test_values_that_cannot_be_used_are_refused(tmp_path: Path):
    for value in (tmp_path / "none.tif", np.full((2, 2), np.inf), np.zeros((2, 2, 2)), 5, b""):
        with pytest.raises(DataError):
            read_thermal(value)
    with pytest.raises(DataError, match="set `scale`"):
        read_thermal(np.zeros((2, 2), dtype=np.int32))
    with pytest.raises(DataError, match="max_pixels"):
        read_thermal(HEAT, max_pixels=47)


def test_knobs_that_contradict_each_other_are_refused():
    with pytest.raises(MetaformerError, match="no span"):
        InfraredTokenizer(8, range=(3.0, 3.0))
    with pytest.raises(MetaformerError, match="no `range`"):
        InfraredTokenizer(8, scale="centikelvin", normalize="fixed")
