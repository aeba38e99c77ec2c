"""ALIGN as Hugging Face has it: its EfficientNet out of our convolutional tokenizer, and the whole model's logits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from metaformer_plugin_image.convolutional import ConvolutionalTokenizer
from torch import Tensor, nn

from metaformer.encoders.transformer import TransformerEncoder
from metaformer.errors import WeightsError
from metaformer.heads.pool import pool
from metaformer.heads.projection import ProjectionHead
from metaformer.objectives.contrastive import Contrastive
from metaformer.weights.load import load_into
from tests.parity.towers import close, fill, ids_of, randomise, save, text_tokenizer

transformers = pytest.importorskip("transformers")

SIZE, LENGTH, DIM, DEPTH, HEADS, WIDTH = 64, 12, 48, 2, 3, 320
LENGTHS = (12, 5, 2)
TEXT = {
    "vocab_size": SIZE,
    "hidden_size": DIM,
    "num_hidden_layers": DEPTH,
    "num_attention_heads": HEADS,
    "intermediate_size": 4 * DIM,
    "max_position_embeddings": LENGTH,
}
VISION = {"width_coefficient": 1.0, "depth_coefficient": 1.0, "hidden_dim": 1280}
"""The size of tf_efficientnet_b0."""


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@torch.no_grad()
def random(model: nn.Module) -> Any:
    """Weights and running statistics; deviations stay positive."""
    for name, buffer in randomise(model).named_buffers():
        if name.endswith("running_mean"):
            buffer.uniform_(-0.3, 0.3)
        elif name.endswith("running_var"):
            buffer.uniform_(0.1, 0.4)  # about what such weights give, or the last map would be flat
    return model


def align() -> Any:
    config = transformers.AlignConfig(text_config=TEXT, vision_config=VISION, projection_dim=WIDTH)
    config._attn_implementation = "eager"
    return random(transformers.AlignModel(config))


def vision(uri: str, backbone: str = "tf_efficientnet_b0") -> ConvolutionalTokenizer:
    return fill(ConvolutionalTokenizer(WIDTH, backbone=backbone, normalize="inception"), uri)


def pictures(side: int) -> tuple[dict[str, Tensor], Tensor]:
    """As our tokenizer and as Hugging Face's model read them: within ±1, as the published processor gives them."""
    pixels = torch.randint(0, 256, (len(LENGTHS), 3, side, side), dtype=torch.uint8)
    return {"pixels": pixels, "real": torch.ones(len(LENGTHS), dtype=torch.bool)}, pixels / 127.5 - 1


@pytest.mark.parametrize("side", [64, 96])
@pytest.mark.parametrize("part", ["", "#vision_model"])
def test_the_image_tower(side: int, part: str, tmp_path: Path) -> None:
    model = align()
    ours, (raw, theirs) = vision(save(model.state_dict(), tmp_path) + part), pictures(side)
    with torch.no_grad():
        out, tokens = model.vision_model(pixel_values=theirs), ours(raw)
    expected = out.last_hidden_state.flatten(2).transpose(1, 2)
    scale = float(expected.abs().max())
    close(tokens.x / scale, expected / scale)
    close(pool(tokens, "auto") / scale, out.pooler_output / scale)
    assert tokens.grid == (side // 32, side // 32)


def test_an_image_tower_alone_and_an_efficientnet(tmp_path: Path) -> None:
    model, (raw, theirs) = random(transformers.AlignVisionModel(transformers.AlignVisionConfig(**VISION))), pictures(64)
    ours = vision(save(model.state_dict(), tmp_path))
    with torch.no_grad():
        expected, found = model(pixel_values=theirs).pooler_output, pool(ours(raw), "mean")
    close(found / expected.abs().max(), expected / expected.abs().max())
    other = random(transformers.EfficientNetModel(transformers.EfficientNetConfig(**VISION, image_size=64)))
    ours = vision(save(other.state_dict(), tmp_path))
    assert ours.backbone.conv_stem.weight.equal(other.embeddings.convolution.weight)


def test_odd_sizes_differ_as_the_readme_says() -> None:
    model, (raw, theirs) = align(), pictures(289)
    ours = ConvolutionalTokenizer(WIDTH, backbone="tf_efficientnet_b0")
    with torch.no_grad():
        assert model.vision_model(pixel_values=theirs[:1]).last_hidden_state.shape[2:] == (9, 9)
        assert ours.eval()({key: value[:1] for key, value in raw.items()}).grid == (10, 10)


def test_the_logits_of_the_whole_model(tmp_path: Path) -> None:
    model = align()
    with torch.no_grad():
        model.temperature.fill_(0.07)
    uri, (raw, theirs) = save(model.state_dict(), tmp_path), pictures(64)
    words = ids_of(LENGTHS, SIZE, 2, 3)
    caption = text_tokenizer(DIM, tmp_path, SIZE, max_length=LENGTH, end_token=True, norm=True, norm_eps=1e-12)
    encoder = TransformerEncoder(dim=DIM, depth=DEPTH, num_heads=HEADS, norm="post", norm_eps=1e-12)
    text = ProjectionHead(DIM, size=WIDTH, norm=False, bias=True)
    image = ProjectionHead(WIDTH, size=None, norm=False)
    fill(caption, f"{uri}#text_model"), fill(encoder, f"{uri}#text_model"), fill(text, f"{uri}#text_projection")
    knobs = {"temperature": 0.07, "temperature_as": "plain", "min_temperature": None}
    heads = {"image": image, "caption": text}
    objective = Contrastive(heads, between=("image", "caption"), **knobs)  # type: ignore[arg-type]
    with torch.no_grad():
        out = model(input_ids=words["ids"], attention_mask=words["mask"].long(), pixel_values=theirs)
        embedded = image(vision(uri)(raw)), text(encoder(caption(words)))
        logits = embedded[0] @ embedded[1].T * objective.scale()
    close(embedded[0], out.image_embeds, 0.01)
    scale = float(out.logits_per_image.abs().max())
    close(logits / scale, out.logits_per_image / scale)


def test_another_size_of_network_is_refused(tmp_path: Path) -> None:
    uri = save(align().state_dict(), tmp_path)
    ours = ConvolutionalTokenizer(WIDTH, backbone="tf_efficientnet_b1")
    with pytest.raises(WeightsError, match=r"23 blocks"):
        load_into(ours, uri, name="it", translate=ours.translate)
    small = ConvolutionalTokenizer(WIDTH, backbone="test_efficientnet")
    with pytest.raises(WeightsError, match=r"(?s)an EfficientNet of 16 blocks, with no place for.*tf_efficientnet_b7"):
        load_into(small, uri, name="it", translate=small.translate)
