"""The tokenizer: shapes, gradients, positions, parity with published patch embeddings."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from metaformer_plugin_image.tokenizer import ImageTokenizer
from torch import nn

from metaformer.errors import MetaformerError, WeightsError
from metaformer.layers.pixels import STATISTICS
from metaformer.layers.positions import grid_sinusoid, resize

D = 16


def pixels(*shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def normalized(batch: torch.Tensor, preset: str = "imagenet") -> torch.Tensor:
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in STATISTICS[preset])
    return (batch.float() / 255 - mean) / std


def randomize(module: nn.Module) -> None:
    generator = torch.Generator().manual_seed(1)
    for tensor in module.state_dict().values():
        if tensor.is_floating_point():
            tensor.normal_(std=0.1, generator=generator)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("class_token", [False, True])
@pytest.mark.parametrize("positions", ["learned", "sinusoidal", "none"])
def test_shape_mask_grid_and_gradients(channels, class_token, positions):
    torch.manual_seed(0)
    tokenizer = ImageTokenizer(
        D,
        image_size=(16, 24),
        patch_size=8,
        channels=channels,
        class_token=class_token,
        positions=positions,
    )
    tokens = tokenizer({"pixels": pixels(2, channels, 16, 24)})
    assert tokens.x.shape == (2, 6 + class_token, D)
    assert tokens.mask.all()
    assert tokens.mask.shape == (2, 6 + class_token)
    assert (tokens.grid, tokens.num_prefix) == ((2, 3), int(class_token))
    assert tokens.ids is None
    (tokens.x * torch.randn_like(tokens.x)).sum().backward()
    names = {"embed.proj.weight", "embed.proj.bias"}
    names |= {"embed.class_token"} if class_token else set()
    names |= {"embed.positions"} if positions == "learned" else set()
    grads = {name: parameter.grad for name, parameter in tokenizer.named_parameters()}
    assert set(grads) == names
    assert all(grad is not None and grad.abs().sum() > 0 for grad in grads.values())


def test_rows_do_not_depend_on_their_neighbours():
    tokenizer = ImageTokenizer(D, image_size=16, patch_size=8)
    batch = pixels(3, 3, 16, 16)
    together = tokenizer({"pixels": batch}).x
    alone = torch.cat([tokenizer({"pixels": row[None]}).x for row in batch])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-6)
    assert tokenizer({"pixels": batch[:0]}).x.shape == (0, 5, D)


def test_a_blank_is_a_valid_batch():
    tokenizer = ImageTokenizer(D, image_size=16, patch_size=8)
    make = tokenizer.preprocess
    sample = make(np.zeros((20, 20), np.uint8), False)
    tokens = tokenizer(make.collate([sample, make.blank()]))
    assert tokens.x.shape == (2, 5, D)
    assert tokens.x.isfinite().all()


def test_bf16_weights_see_pixels_normalised_in_fp32():
    tokenizer = ImageTokenizer(D, image_size=16, patch_size=8)
    batch = pixels(2, 3, 16, 16)
    exact = tokenizer({"pixels": batch}).x
    rough = tokenizer.bfloat16()({"pixels": batch}).x
    assert rough.dtype == torch.bfloat16
    torch.testing.assert_close(rough.float(), exact, rtol=0.03, atol=0.03)


def vision_transformer(**knobs):
    from timm.models.vision_transformer import VisionTransformer

    return VisionTransformer(img_size=32, patch_size=8, embed_dim=D, depth=0, num_heads=2, num_classes=0, **knobs)


@pytest.mark.parametrize("class_token", [False, True])
def test_parity_with_timm(class_token):
    pool = "token" if class_token else "avg"
    theirs = vision_transformer(class_token=class_token, global_pool=pool)
    randomize(theirs)
    ours = ImageTokenizer(D, image_size=32, patch_size=8, class_token=class_token)
    ours.load_state_dict(ours.translate(theirs.state_dict()))
    batch = pixels(2, 3, 32, 32)
    with torch.no_grad():
        expected = theirs._pos_embed(theirs.patch_embed(normalized(batch)))
        torch.testing.assert_close(ours({"pixels": batch}).x, expected, rtol=0, atol=1e-5)


def test_parity_with_timm_at_another_size():
    theirs = vision_transformer(dynamic_img_size=True)
    randomize(theirs)
    batch = pixels(2, 3, 48, 16)
    with torch.no_grad():
        expected = theirs._pos_embed(theirs.patch_embed(normalized(batch)))
        for size in (32, (48, 16)):  # resized in the forward pass, and while loading
            ours = ImageTokenizer(D, image_size=size, patch_size=8)
            ours.load_state_dict(ours.translate(theirs.state_dict()))
            torch.testing.assert_close(ours({"pixels": batch}).x, expected, rtol=0, atol=1e-5)


def test_parity_with_hugging_face_vit_and_clip():
    from transformers import CLIPVisionConfig, CLIPVisionModel, ViTConfig, ViTModel

    sizes = {"hidden_size": D, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    batch = pixels(2, 3, 32, 32)
    for model, bias in (
        (ViTModel(ViTConfig(**sizes, image_size=32, patch_size=8)), True),
        (CLIPVisionModel(CLIPVisionConfig(**sizes, image_size=32, patch_size=8)), False),
    ):
        randomize(model)
        ours = ImageTokenizer(D, image_size=32, patch_size=8, bias=bias)
        plain = model.state_dict()
        for prefix in ("", "vision_model.", "vit."):
            source = {prefix + key: value for key, value in plain.items()}
            ours.load_state_dict(ours.translate(source))
        with torch.no_grad():
            expected = model.embeddings(normalized(batch))
            torch.testing.assert_close(ours({"pixels": batch}).x, expected, rtol=0, atol=1e-5)


def test_open_clip_layout():
    source = {
        "visual.conv1.weight": torch.randn(D, 3, 8, 8),
        "visual.class_embedding": torch.randn(D),
        "visual.positional_embedding": torch.randn(17, D),
        "positional_embedding": torch.randn(77, D),  # the text tower's, to be left alone
    }
    ours = ImageTokenizer(D, image_size=32, patch_size=8)
    state = ours.translate(source)
    assert state["embed.positions"][0].equal(source["visual.positional_embedding"])
    assert state["embed.class_token"].flatten().equal(source["visual.class_embedding"])
    assert state["embed.proj.bias"].eq(0).all()


def test_weights_that_do_not_fit_are_refused():
    source = vision_transformer().state_dict()
    for knobs, says in (
        ({"patch_size": 16}, "patch size"),
        ({"bias": False}, "bias: true"),
    ):
        tokenizer = ImageTokenizer(D, image_size=32, **{"patch_size": 8, **knobs})
        with pytest.raises(WeightsError, match=says):
            tokenizer.translate(source)
    tokenizer = ImageTokenizer(D, image_size=32, patch_size=8)
    with pytest.raises(WeightsError, match="none among 1 tensors"):
        tokenizer.translate({"head.weight": torch.zeros(1)})
    with pytest.raises(WeightsError, match="cls_token"):
        tokenizer.translate({key: value for key, value in source.items() if key != "cls_token"})
    crooked = {**source, "pos_embed": torch.zeros(1, 20, D)}
    with pytest.raises(WeightsError, match="20 positions"):
        tokenizer.translate(crooked)


def test_one_channel_takes_the_sum_of_three():
    source = vision_transformer().state_dict()
    tokenizer = ImageTokenizer(D, image_size=32, patch_size=8, channels=1)
    weight = tokenizer.translate(source)["embed.proj.weight"]
    torch.testing.assert_close(weight, source["patch_embed.proj.weight"].sum(1).flatten(1))


def test_positions_resize_to_themselves_and_constants_to_constants():
    positions = torch.randn(1, 1 + 12, D)
    assert resize(positions, (3, 4), (3, 4), 1) is positions
    moved = resize(positions, (3, 4), (6, 2), 1)
    assert moved.shape == (1, 13, D)
    assert moved[:, 0].equal(positions[:, 0])
    flat = torch.ones(1, 4, D)
    torch.testing.assert_close(resize(flat, (2, 2), (5, 3), 0), torch.ones(1, 15, D))


def test_sinusoid_is_that_of_published_mae_weights():
    from transformers import ViTMAEConfig
    from transformers.models.vit_mae.modeling_vit_mae import ViTMAEEmbeddings

    theirs = ViTMAEEmbeddings(ViTMAEConfig(hidden_size=D, image_size=40, patch_size=8))
    theirs.initialize_weights()
    expected = theirs.position_embeddings[0].detach()
    torch.testing.assert_close(grid_sinusoid(D, (5, 5), 1)[0], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("knobs", "says"),
    [
        ({"image_size": 30, "patch_size": 8}, "choose 32x32"),
        ({"image_size": 32, "patch_size": 8, "mean": (0.5,)}, "give both"),
        ({"image_size": 32, "patch_size": 8, "mean": (0.5,), "std": (0.5,)}, "one number per channel"),
        ({"image_size": 32, "patch_size": 8, "crop_scale": (1.0, 0.5)}, "crop_scale"),
    ],
)
def test_impossible_knobs(knobs, says):
    with pytest.raises(MetaformerError, match=says):
        ImageTokenizer(D, **knobs)


def test_sinusoidal_positions_need_a_width_divisible_by_four():
    with pytest.raises(MetaformerError, match="divisible by 4"):
        ImageTokenizer(6, image_size=32, patch_size=8, positions="sinusoidal")


def test_builds_on_the_meta_device():
    with torch.device("meta"):
        tokenizer = ImageTokenizer(D, image_size=32, patch_size=8)
        tokens = tokenizer({"pixels": torch.zeros(1, 3, 32, 32, dtype=torch.uint8)})
    assert tokens.x.shape == (1, 17, D)
    assert tokens.x.is_meta


def test_importing_is_cheap():
    program = (
        "import sys, metaformer_plugin_image; assert 'torch' not in sys.modules and 'PIL' not in sys.modules\n"
        "import metaformer_plugin_image.tokenizer, metaformer_plugin_image.datasets\n"
        "assert not {'timm', 'torchvision', 'sklearn'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_pictures_keep_their_shape_and_patches_know_their_row_and_column():
    torch.manual_seed(0)
    tokenizer = ImageTokenizer(D, image_size=32, patch_size=8, resize="keep")
    make = tokenizer.preprocess
    sizes = {(16, 24): (2, 3), (8, 8): (1, 1), (64, 32): (4, 2), (100, 1): (4, 1), (20, 60): (1, 4)}
    random = np.random.default_rng(0)
    raws = [make(random.integers(0, 256, (*size, 3), dtype=np.uint8), False) for size in sizes]
    together = tokenizer(make.collate(raws))
    assert together.grid == (4, 4)
    for row, (raw, (rows, columns)) in enumerate(zip(raws, sizes.values(), strict=True)):
        assert together.mask[row].sum() == 1 + rows * columns
        alone = tokenizer(make.collate([raw]))
        torch.testing.assert_close(together.x[row][together.mask[row]], alone.x[0])
    places = tokenizer.embed.positions[0, 1:].view(4, 4, D)
    first = tokenizer(make.collate([raws[0]]))
    torch.testing.assert_close(first.positions[0, 1:].view(2, 3, D), places[:2, :3])


def test_keep_goes_with_light_augmentation_only():
    with pytest.raises(MetaformerError, match="use augment: light"):
        ImageTokenizer(D, image_size=32, patch_size=8, resize="keep", augment="timm")
    make = ImageTokenizer(D, image_size=32, patch_size=8, resize="keep", augment="light").preprocess
    raw = make(np.zeros((50, 30, 3), np.uint8), True)
    assert raw["pixels"].shape[1] % 8 == raw["pixels"].shape[2] % 8 == 0
