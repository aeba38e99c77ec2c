"""The tokenizer of convolutional features: shapes, networks, batch norm in training, published weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from metaformer_plugin_image.convolutional import ConvolutionalTokenizer
from torch import Tensor, distributed, nn

from metaformer.errors import MetaformerError, WeightsError
from metaformer.layers.pixels import STATISTICS
from metaformer.trainable import Certificate, set_mode

TINY = "test_efficientnet"
WIDTH = 64
"""Channels of its last map."""


def tokenizer(dim: int = WIDTH, backbone: str = TINY, **knobs: Any) -> ConvolutionalTokenizer:
    torch.manual_seed(0)
    return ConvolutionalTokenizer(dim, backbone=backbone, **{"image_size": 64, **knobs})


def batch(*shape: int, real: Tensor | None = None) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    return {"pixels": pixels, "real": torch.ones(shape[0], dtype=torch.bool) if real is None else real}


def normalized(pixels: Tensor) -> Tensor:
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in STATISTICS["imagenet"])
    return (pixels.float() / 255 - mean) / std


@torch.no_grad()
def shaken(module: nn.Module) -> nn.Module:
    """Weights and statistics that no initialisation gives."""
    generator = torch.Generator().manual_seed(1)
    for name, tensor in module.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 2.0, generator=generator)
        elif tensor.is_floating_point():
            tensor.add_(0.1 * torch.randn(tensor.shape, generator=generator))
    return module.eval()


@pytest.mark.parametrize("backbone", [TINY, "test_resnet", "test_convnext", "test_byobnet", "lcnet_035"])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_token_per_place(backbone, channels):
    ours = tokenizer(24, backbone, image_size=(64, 96), channels=channels)
    tokens = ours(batch(2, channels, 64, 96))
    assert tokens.x.shape == (2, 6, 24)
    assert tokens.mask.all()
    assert (tokens.grid, tokens.num_prefix, tokens.positions) == ((2, 3), 0, None)
    shaken(ours).train()  # ResNets begin with branches that are multiplied by zero
    (ours(batch(2, channels, 64, 96)).x * torch.randn(2, 6, 24)).sum().backward()
    assert [name for name, p in ours.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_no_projection_where_widths_agree():
    assert isinstance(tokenizer().proj, nn.Identity)
    assert [*tokenizer(10).proj.state_dict()] == ["weight", "bias"]


def test_tokens_are_timms_last_map_in_reading_order():
    import timm

    theirs = shaken(timm.create_model(TINY, num_classes=10))
    ours = tokenizer().eval()
    ours.load_state_dict(ours.translate(theirs.state_dict()))
    raw = batch(2, 3, 64, 96)
    with torch.no_grad():
        theirs.conv_head, theirs.bn2 = nn.Identity(), nn.Identity()
        expected = theirs.forward_features(normalized(raw["pixels"]))
        torch.testing.assert_close(ours(raw).x[:, 5], expected[:, :, 1, 2], rtol=0, atol=1e-5)
        torch.testing.assert_close(ours(raw).x, expected.flatten(2).transpose(1, 2), rtol=0, atol=1e-5)


def test_a_missing_picture_counts_in_no_statistic():
    ours, other = tokenizer().train(), tokenizer().train()
    real = torch.tensor([True, False, True])
    raw = batch(3, 3, 64, 64, real=real)
    some = {key: value[real] for key, value in raw.items()}
    torch.testing.assert_close(ours(raw).x[real], other(some).x)
    for one, two in zip(ours.buffers(), other.buffers(), strict=True):
        torch.testing.assert_close(one, two)


@pytest.mark.parametrize(("real", "side"), [(False, 64), (True, 32)])
def test_too_little_leaves_statistics_alone(real, side):
    ours = tokenizer(image_size=side).train()
    before = [buffer.clone() for buffer in ours.buffers()]
    ours(batch(1, 3, side, side, real=torch.tensor([real]))).x.sum().backward()
    assert all(torch.equal(*pair) for pair in zip(before, ours.buffers(), strict=True))
    assert all(p.grad is not None and p.grad.isfinite().all() for p in ours.parameters())
    assert all(module.training for module in ours.modules())


def test_frozen_stays_bitwise_equal_and_trained_moves():
    ours = nn.ModuleDict({"image": tokenizer(16), "head": nn.Linear(16, 2)})
    ours["image"].backbone.requires_grad_(False)
    ours["image"].backbone.blocks[3].requires_grad_(True)
    set_mode(ours, True)
    before, frozen = Certificate.of(ours), dict(ours["image"].backbone.blocks[0].state_dict())
    moving = ours["image"].backbone.blocks[3][0].bn1.running_mean.clone()
    step = torch.optim.SGD([p for p in ours.parameters() if p.requires_grad], lr=0.1)
    ours["head"](ours["image"](batch(3, 3, 64, 64)).x).sum().backward()
    step.step()
    before.verify(Certificate.of(ours))
    assert any(name.endswith("running_mean") for name in frozen)
    assert not torch.equal(ours["image"].backbone.blocks[3][0].bn1.running_mean, moving)


def follow(rank: int, folder: str) -> None:
    if distributed.is_initialized():
        distributed.destroy_process_group()  # of a training in the process that was forked
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    ours = tokenizer().train()
    raw = batch(4, 3, 64, 64)
    ours({key: value[:3] if rank else value[3:] for key, value in raw.items()}).x.sum().backward()
    torch.save(dict(ours.named_buffers()), f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.ranks
def test_ranks_agree_on_running_statistics(tmp_path):
    torch.multiprocessing.start_processes(follow, (str(tmp_path),), nprocs=2, start_method="fork")
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    assert all(torch.equal(first[key], second[key]) for key in first)
    expected = []
    for rows in (slice(3, 4), slice(3)):
        alone = tokenizer().train()
        alone({key: value[rows] for key, value in batch(4, 3, 64, 64).items()})
        expected.append(dict(alone.named_buffers()))
    name = "backbone.blocks.1.0.bn1.running_var"
    torch.testing.assert_close(first[name], expected[0][name] / 4 + expected[1][name] * 3 / 4)


def test_weights_go_round(tmp_path: Path):
    from safetensors.torch import save_file

    from metaformer.weights.load import load_into

    first, second = tokenizer(24), tokenizer(24)
    shaken(first)
    save_file({key: value.clone() for key, value in first.state_dict().items()}, tmp_path / "w.safetensors")
    receipt = load_into(second, f"file:{tmp_path}/w.safetensors", name="it", translate=second.translate)
    assert (receipt.missing, receipt.unknown) == ((), ())
    assert not receipt.unused
    assert all(torch.equal(value, second.state_dict()[key]) for key, value in first.state_dict().items())


@pytest.mark.parametrize("backbone", [TINY, "resnet18", "test_convnext"])
@pytest.mark.parametrize("prefix", ["", "visual.trunk."])
def test_out_of_timm(backbone, prefix):
    import timm

    source = {prefix + key: value for key, value in timm.create_model(backbone).state_dict().items()}
    source |= {"text.words": torch.zeros(3)} if prefix else {}
    ours = tokenizer(7, backbone, channels=1)
    left = {key: value for key, value in source.items() if not key.endswith("num_batches_tracked")}
    found = ours.translate(left)
    assert ours.state_dict().keys() - found.keys() == {"proj.weight", "proj.bias"}
    first = next(iter(ours.backbone.state_dict()))
    torch.testing.assert_close(found[f"backbone.{first}"], source[prefix + first].sum(1, keepdim=True))


def test_weights_of_something_else_are_refused():
    import timm

    ours = tokenizer()
    state = timm.create_model(TINY).state_dict()
    with pytest.raises(WeightsError, match=r"(?s)2 tensors.*blocks\.9\.0\.x, extra.*set `backbone`"):
        ours.translate({**state, "blocks.9.0.x": torch.zeros(1), "extra": torch.zeros(1)})
    with pytest.raises(WeightsError, match="none among 1 tensors"):
        ours.translate({"head.weight": torch.zeros(1)})
    with pytest.raises(WeightsError, match=r"several, at one\., two\."):
        ours.translate({f"{name}.{key}": value for name in ("one", "two") for key, value in state.items()})


@pytest.mark.parametrize(
    ("knobs", "says"),
    [
        ({"backbone": "tf_efficientnet_b77"}, r"did you mean tf_efficientnet_b7"),
        ({"backbone": "qqqqqqqq"}, r"list_models"),
        ({"backbone": "vit_base_patch16_224"}, r"use: image"),
        ({"backbone": "vgg11", "drop_path": 0.1}, r"vgg11, which has none"),
        ({"crop_scale": (1.0, 0.5)}, r"crop_scale"),
        ({"mean": (0.5,)}, r"give both"),
    ],
)
def test_impossible_knobs(knobs, says):
    with pytest.raises(MetaformerError, match=says):
        tokenizer(**knobs)


def test_what_workers_hand_over():
    make = tokenizer(channels=1, resize="exact").preprocess
    raw = make.collate([make(np.zeros((20, 30, 3), np.uint8), False), make.blank()])
    assert raw["pixels"].shape == (2, 1, 64, 64)
    assert raw["real"].tolist() == [True, False]


def test_bf16_weights():
    ours = tokenizer(24).eval()
    raw = batch(2, 3, 64, 64)
    exact = ours(raw).x
    rough = ours.bfloat16()(raw).x
    assert rough.dtype == torch.bfloat16
    assert (rough.float() - exact).abs().max() < 0.05 * exact.abs().max()
