"""ViLT out of our text and image tokenizers, a joint pass with types, a pre-norm encoder and its heads.

The oracle draws the order of full pictures' patches at random: image tokens are compared by what they are, not where.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from metaformer_plugin_image.tokenizer import ImageTokenizer
from torch import Tensor, nn

from metaformer.encoders.transformer import TransformerEncoder
from metaformer.heads.classification import ClassificationHead
from metaformer.heads.language import LanguageHead
from metaformer.layers.join import join
from metaformer.sequence import TypeVectors
from metaformer.types import TokenBatch
from tests.parity.towers import close, fill, ids_of, randomise, save, text_tokenizer

transformers = pytest.importorskip("transformers")

SIZE, LENGTH, DIM, DEPTH, HEADS, PATCH = 64, 9, 48, 3, 4, 8
NOMINAL, LENGTHS = 32, (9, 5)
PICTURES = [(32, 32), (48, 32), (24, 56)]
LIGHTNING = (
    (r"vilt\.encoder\.layer\.", "transformer.blocks."),
    (r"layernorm_before", "norm1"),
    (r"layernorm_after", "norm2"),
    (r"attention\.output\.dense", "attn.proj"),
    (r"intermediate\.dense", "mlp.fc1"),
    (r"output\.dense", "mlp.fc2"),
    (r"vilt\.embeddings\.patch_embeddings\.projection", "transformer.patch_embed.proj"),
    (r"vilt\.embeddings\.cls_token", "transformer.cls_token"),
    (r"vilt\.embeddings\.position_embeddings", "transformer.pos_embed"),
    (r"vilt\.layernorm", "transformer.norm"),
    (r"vilt\.embeddings\.", ""),
    (r"vilt\.", ""),
    (r"^classifier\.", "vqa_classifier."),
)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def config(**more: object) -> object:
    made = transformers.ViltConfig(
        vocab_size=SIZE,
        hidden_size=DIM,
        num_hidden_layers=DEPTH,
        num_attention_heads=HEADS,
        intermediate_size=4 * DIM,
        max_position_embeddings=LENGTH,
        image_size=NOMINAL,
        patch_size=PATCH,
        max_image_length=-1,
        tie_word_embeddings=False,
        **more,
    )
    made._attn_implementation = "eager"
    return made


def lightning(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same under the names of the published checkpoints."""
    out, parts = {}, {}
    for key, value in state.items():
        if match := re.fullmatch(r"vilt\.encoder\.layer\.(\d+)\.attention\.attention\.(query|key|value)\.(.+)", key):
            parts[match[1], match[3], match[2]] = value
            continue
        for old, new in LIGHTNING:
            key = re.sub(old, new, key)
        out[key] = value
    for index, kind, name in list(parts):
        if name == "query":
            joined = [parts[index, kind, part] for part in ("query", "key", "value")]
            out[f"transformer.blocks.{index}.attn.qkv.{kind}"] = torch.cat(joined)
    return out


def encoded(
    uri: str, folder: Path, words: dict[str, Tensor], pictures: dict[str, Tensor], **knobs: object
) -> TokenBatch:
    text = text_tokenizer(DIM, folder, SIZE, max_length=LENGTH, end_token=True, norm=True, norm_eps=1e-12)
    settings = {"image_size": 64, "positions_size": NOMINAL, "positions_resize": "bilinear", "normalize": "inception"}
    image = ImageTokenizer(DIM, patch_size=PATCH, **(settings | knobs))  # type: ignore[arg-type]
    encoder = TransformerEncoder(dim=DIM, depth=DEPTH, num_heads=HEADS, norm_eps=1e-12, norm_out=True)
    types = TypeVectors(2, DIM)
    for part in (text, image, encoder, types):
        fill(part, uri)
    with torch.no_grad():
        return encoder(join(types([text(words), image(pictures)])))


def batch(size: tuple[int, int]) -> tuple[dict[str, Tensor], Tensor]:
    return ids_of(LENGTHS, SIZE, 2, 3), torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8)


def ask(model: nn.Module, words: dict[str, Tensor], pixels: Tensor, mask: Tensor | None = None) -> dict[str, Tensor]:
    with torch.no_grad():
        return model(
            input_ids=words["ids"],
            attention_mask=words["mask"].long(),
            pixel_values=pixels / 127.5 - 1,
            pixel_mask=torch.ones_like(pixels[:, 0], dtype=torch.long) if mask is None else mask.long(),
        )


@pytest.mark.parametrize("naming", ["hugging_face", "lightning"])
@pytest.mark.parametrize("size", PICTURES, ids=str)
def test_answers(size: tuple[int, int], naming: str, tmp_path: Path) -> None:
    model = randomise(transformers.ViltForQuestionAnswering(config(num_labels=5)))
    state = model.state_dict()
    uri = save(state if naming == "hugging_face" else lightning(state), tmp_path)
    words, pixels = batch(size)
    found = encoded(uri, tmp_path, words, {"pixels": pixels})
    head = fill(ClassificationHead(DIM, num_classes=5, norm=False, pooler=True, hidden=2 * DIM), uri)
    with torch.no_grad():
        close(head(found), ask(model, words, pixels)["logits"])
    close(
        found.x[:, :LENGTH][words["mask"]],
        ask(model.vilt, words, pixels)["last_hidden_state"][:, :LENGTH][words["mask"]],
    )
    theirs = ask(model.vilt, words, pixels)["last_hidden_state"][:, LENGTH + 1 :]
    for ours, other in zip(found.x[:, LENGTH + 1 :], theirs, strict=True):
        nearest = torch.cdist(ours, other).argmin(dim=1)
        assert len(nearest.unique()) == len(ours)
        close(ours, other[nearest])


def test_each_picture_of_a_padded_batch_has_positions_of_its_own_grid(tmp_path: Path) -> None:
    model = randomise(transformers.ViltModel(config()))
    uri = save(model.state_dict(), tmp_path)
    words, pixels = batch((48, 56))
    real = torch.zeros(2, 6, 7, dtype=torch.bool)
    real[0, :, :4] = real[1, :3] = True
    mask = real.repeat_interleave(PATCH, 1).repeat_interleave(PATCH, 2)
    found = encoded(uri, tmp_path, words, {"pixels": pixels, "real": real}, resize="keep")
    out = ask(model, words, pixels, mask)
    close(found.x[:, :LENGTH][words["mask"]], out["last_hidden_state"][:, :LENGTH][words["mask"]])
    head = fill(ClassificationHead(DIM, num_classes=2, norm=False, pooler=True), uri, allow_missing=["linear.*"])
    with torch.no_grad():
        close(torch.tanh(head.pooler(found.x[:, 0])), out["pooler_output"])  # type: ignore[misc]


def test_hidden_words(tmp_path: Path) -> None:
    model = randomise(transformers.ViltForMaskedLM(config()))
    uri = save(model.state_dict(), tmp_path)
    words, pixels = batch((NOMINAL, NOMINAL))
    found = encoded(uri, tmp_path, words, {"pixels": pixels})
    head = fill(LanguageHead(DIM, {"text": SIZE}, stream="text"), uri)
    with torch.no_grad():
        logits = head(found.with_x(found.x[:, :LENGTH])._replace(mask=found.mask[:, :LENGTH], num_prefix=0))
    close(logits[words["mask"]], ask(model, words, pixels)["logits"][words["mask"]])


def test_the_published_number_of_parameters(tmp_path: Path) -> None:
    """87.4 million are the blocks and the projection of the patches; embeddings of words and places come on top."""
    with torch.device("meta"):
        encoder = TransformerEncoder(norm_out=True)
        image = ImageTokenizer(768, image_size=384, patch_size=32)
        text = text_tokenizer(768, tmp_path, 30522, max_length=40, end_token=True, norm=True, norm_eps=1e-12)
        head = ClassificationHead(768, num_classes=2, norm=False, pooler=True)
        model = transformers.ViltModel(transformers.ViltConfig())
    count = {id(part): sum(p.numel() for p in part.parameters()) for part in (encoder, image.embed.proj, text, image)}
    assert (count[id(encoder)] + count[id(image.embed.proj)]) / 1e6 == pytest.approx(87.4, abs=0.05)
    ours = count[id(encoder)] + count[id(image)] + count[id(text)]
    ours += sum(p.numel() for p in head.pooler.parameters()) + 2 * 768  # type: ignore[union-attr]
    # The oracle's kinds of text token are two rows that we add to the positions.
    assert ours + 2 * 768 == sum(p.numel() for p in model.parameters())
