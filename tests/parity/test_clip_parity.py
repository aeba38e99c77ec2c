"""CLIP out of our tokenizers, encoders and projections: features and logits of transformers and of open_clip, and the
published numbers of parameters."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from metaformer_plugin_image.tokenizer import ImageTokenizer
from metaformer_plugin_text.tokenizer import TextTokenizer
from torch import Tensor, nn
from torch.nn import functional as F

from metaformer.base import Weighted
from metaformer.encoders.transformer import TransformerEncoder
from metaformer.errors import WeightsError
from metaformer.heads.projection import ProjectionHead
from metaformer.types import Raw
from metaformer.weights.load import load_into
from tests.parity.towers import close, fill, ids_of, randomise, save, text_tokenizer

SIZE, IMAGE, PATCH, LENGTH, OUT = 64, 32, 8, 12, 20
WIDE, NARROW = 48, 32
LENGTHS = (12, 5, 3)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def pictures() -> Tensor:
    return torch.randint(0, 256, (3, 3, IMAGE, IMAGE), dtype=torch.uint8)


def normalised(pixels: Tensor, tokenizer: ImageTokenizer) -> Tensor:
    mean, std = (torch.tensor(values)[:, None, None] for values in (tokenizer.mean, tokenizer.std))
    return (pixels / 255 - mean) / std


def towers(folder: Path, activation: str, layer: int = 3) -> tuple[list[Weighted], list[Weighted]]:
    image: list[Weighted] = [
        ImageTokenizer(WIDE, image_size=IMAGE, patch_size=PATCH, bias=False, normalize="clip"),
        TransformerEncoder(dim=WIDE, depth=layer, num_heads=3, norm_in=True, norm_out=True, activation=activation),  # type: ignore[arg-type]
        ProjectionHead(WIDE, size=OUT, norm=False),
    ]
    text: list[Weighted] = [
        text_tokenizer(NARROW, folder, SIZE, max_length=LENGTH, end_token=True),
        TransformerEncoder(dim=NARROW, depth=layer, num_heads=2, norm_out=True, causal=True, activation=activation),  # type: ignore[arg-type]
        ProjectionHead(NARROW, size=OUT, norm=False, pool="end"),
    ]
    return image, text


@torch.no_grad()
def features(tower: list[Weighted], raw: Raw) -> Tensor:
    for component in tower:
        raw = component(raw)
    assert isinstance(raw, Tensor)
    return raw


def hugging_face() -> nn.Module:
    transformers = pytest.importorskip("transformers")
    shared = {"num_hidden_layers": 3, "projection_dim": OUT}
    text = {"vocab_size": SIZE, "hidden_size": NARROW, "intermediate_size": 4 * NARROW, "num_attention_heads": 2}
    text |= {"max_position_embeddings": LENGTH, "bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 3}
    vision = {"hidden_size": WIDE, "intermediate_size": 4 * WIDE, "num_attention_heads": 3, "image_size": IMAGE}
    config = transformers.CLIPConfig(
        text_config=shared | text, vision_config=shared | vision | {"patch_size": PATCH}, projection_dim=OUT
    )
    config._attn_implementation = "eager"
    return randomise(transformers.CLIPModel(config))


def test_features_and_logits_of_transformers(tmp_path: Path) -> None:
    model = hugging_face()
    with torch.no_grad():
        model.logit_scale.fill_(math.log(1 / 0.07))  # type: ignore[operator, union-attr]
    uri = save(model.state_dict(), tmp_path)
    image, text = towers(tmp_path, "quick_gelu")
    for tower, parts in ((image, ("", "", "#visual_projection")), (text, ("", "#text_model", "#text_projection"))):
        for component, part in zip(tower, parts, strict=True):
            fill(component, uri + part)
    pixels, words = pictures(), ids_of(LENGTHS, SIZE - 5, 2, 3)
    words["ids"][:, 1:][words["ids"][:, 1:] == 3] = 4  # it pools at the first end token
    for row, length in enumerate(LENGTHS):
        words["ids"][row, length - 1 :] = 3
    with torch.no_grad():
        out = model(
            input_ids=words["ids"],
            attention_mask=words["mask"].long(),
            pixel_values=normalised(pixels, image[0]),  # type: ignore[arg-type]
        )
    one, other = features(image, {"pixels": pixels}), features(text, words)
    close(one, out.image_embeds)
    close(other, out.text_embeds)
    scale = model.logit_scale.exp().item()
    close(scale * one @ other.T, out.logits_per_image)
    close(scale * other @ one.T, out.logits_per_text)


@pytest.mark.parametrize("custom", [False, True])
def test_features_of_open_clip(custom: bool, tmp_path: Path) -> None:
    open_clip = pytest.importorskip("open_clip")
    kind = open_clip.CustomTextCLIP if custom else open_clip.CLIP
    model = kind(
        OUT,
        {"image_size": IMAGE, "layers": 3, "width": WIDE, "head_width": 16, "patch_size": PATCH},
        {"context_length": LENGTH, "vocab_size": SIZE, "width": NARROW, "heads": 2, "layers": 3},
    )
    uri = save(randomise(model).state_dict(), tmp_path)
    image, text = towers(tmp_path, "gelu")
    for tower, part in ((image, "#visual"), (text, "#text")):
        for component in tower:
            fill(component, uri + part)
    pixels, words = pictures(), ids_of(LENGTHS, SIZE - 5, 2, SIZE - 1)
    # open_clip pools where the largest id is, and pads with 0.
    padded = words["ids"].masked_fill(~words["mask"], 0)
    padded = F.pad(padded, (0, LENGTH - padded.shape[1]))
    with torch.no_grad():
        one = model.encode_image(normalised(pixels, image[0]), normalize=True)  # type: ignore[arg-type]
        other = model.encode_text(padded, normalize=True)
    close(features(image, {"pixels": pixels}), one)
    close(features(text, words), other)


def test_a_whole_file_has_two_projections_and_none_is_guessed(tmp_path: Path) -> None:
    uri = save(hugging_face().state_dict(), tmp_path)
    head = ProjectionHead(WIDE, size=OUT, norm=False)
    with pytest.raises(WeightsError, match="#visual_projection"):
        load_into(head, uri, name="it", translate=head.translate)


def test_a_tower_alone_brings_its_norm_where_the_head_has_one(tmp_path: Path) -> None:
    state = {key: value for key, value in hugging_face().state_dict().items() if not key.startswith("text")}
    head = fill(ProjectionHead(WIDE, size=OUT), save(state, tmp_path))
    assert torch.equal(head.norm.weight, state["vision_model.post_layernorm.weight"])  # type: ignore[union-attr]


def test_weights_of_a_causal_tower_are_noticed(tmp_path: Path) -> None:
    uri = save(hugging_face().state_dict(), tmp_path)
    encoder = TransformerEncoder(dim=NARROW, depth=3, num_heads=2, norm_out=True)
    receipt = load_into(encoder, f"{uri}#text_model", name="encoders.text")
    assert "encoders.text.causal: true" in " ".join(receipt.notes)


@pytest.mark.parametrize(
    ("wide", "depth", "patch", "narrow", "heads", "out", "published"),
    [
        (768, 12, 32, 512, 8, 512, 151_277_313),
        (768, 12, 16, 512, 8, 512, 149_620_737),
        (1024, 24, 14, 768, 12, 768, 427_616_513),
    ],
    ids=["B32", "B16", "L14"],
)
def test_published_numbers_of_parameters(
    wide: int, depth: int, patch: int, narrow: int, heads: int, out: int, published: int
) -> None:
    """The temperature is the objective's; ids that we add to CLIP's 49408 are left out of the sum."""
    pytest.importorskip("open_clip")
    with torch.device("meta"):
        parts: list[nn.Module] = [
            ImageTokenizer(wide, image_size=224, patch_size=patch, bias=False, normalize="clip"),
            TransformerEncoder(dim=wide, depth=depth, num_heads=wide // 64, norm_in=True, norm_out=True),
            ProjectionHead(wide, size=out, norm=False),
            (words := TextTokenizer(narrow, vocabulary="clip", max_length=77, end_token=True)),
            TransformerEncoder(dim=narrow, depth=12, num_heads=heads, norm_out=True, causal=True),
            ProjectionHead(narrow, size=out, norm=False, pool="end"),
        ]
    count = sum(parameter.numel() for part in parts for parameter in part.parameters())
    added = (words.num_ids - 49408) * narrow
    assert count - added + 1 == published
