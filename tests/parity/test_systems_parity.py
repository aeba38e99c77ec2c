"""Whole systems against their public implementations: the project's own recipes at tiny sizes, random weights, which
travel through our loaders out of a file in the public model's layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from metaformer.assemble import assemble
from metaformer.build import load_pretrained
from metaformer.recipe_file import read_recipe
from metaformer.types import Batch

RECIPES = Path(__file__).parents[2] / "recipes"
TEXTS = ["a cat", "two dogs on a mat", "the sea, and a boat"]
CLOSE = {"rtol": 0, "atol": 1e-5}
LETTERS = [*"abcdefghijklmnopqrstuvwxyz,."]
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS, *(f"##{letter}" for letter in LETTERS)]


def shaken(module):
    """Random weights large enough for differences to show, norms and positions among them."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return module.eval()


def ours(recipe, sets, state, folder):
    """The recipe's model with the weights of a state dict."""
    save_file({key: value.contiguous().clone() for key, value in state.items()}, folder / "public.safetensors")
    file = read_recipe(RECIPES / recipe, tuple(sets))
    model = assemble(file.recipe)
    receipts = load_pretrained(model, file.recipe, folder)
    assert not [receipt for receipt in receipts if receipt.missing]
    return model.eval(), receipts


def batch(model, size, texts=tuple(TEXTS), channels=3):
    """Pictures of noise beside texts."""
    pictures = np.random.default_rng(0).integers(0, 256, (len(texts), size, size, channels), dtype=np.uint8)
    values = {name: list(pictures if name in ("image", "left") else texts) for name in model.tokenizers}
    streams = {}
    for name, of in values.items():
        preprocess = model.tokenizer(name).preprocess
        streams[name] = preprocess.collate([preprocess(value, False) for value in of])
    present = {name: torch.ones(len(texts), dtype=torch.bool) for name in streams}
    return Batch(next(iter(model.objectives)), streams, present, {}, list(texts)), pictures


def pixels(pictures, mean, std):
    values = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255
    return (values - torch.tensor(mean).view(1, -1, 1, 1)) / torch.tensor(std).view(1, -1, 1, 1)


CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
CLIP_SIZES = (
    *("tokenizers.image.image_size=32", "tokenizers.image.patch_size=16", "tokenizers.image.resize=exact"),
    *("encoders.vision.dim=32", "encoders.vision.depth=2", "encoders.vision.num_heads=4"),
    *("encoders.text.dim=24", "encoders.text.depth=2", "encoders.text.num_heads=4"),
    *("heads.image.size=16", "heads.caption.size=16", "tasks.pairs.objective.chunk=null"),
)


def clip_logits(model, data):
    one, other = (model.predict(data, name).value for name in ("image", "caption"))
    return one @ other.T


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_clip_is_transformers_clip(activation, tmp_path):
    transformers = pytest.importorskip("transformers")
    common = {"intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "hidden_act": activation}
    config = transformers.CLIPConfig(
        text_config={**common, "hidden_size": 24, "intermediate_size": 96, "eos_token_id": 49407},
        vision_config={**common, "hidden_size": 32, "image_size": 32, "patch_size": 16},
        projection_dim=16,
    )
    public = shaken(transformers.CLIPModel(config))
    at = "file:public.safetensors"
    sets = (
        *CLIP_SIZES,
        *(f"encoders.{name}.activation={activation}" for name in ("vision", "text")),
        *(f"tokenizers.image.weights={at}", f"tokenizers.caption.weights={at}#text_model"),
        *(f"encoders.vision.weights={at}", f"encoders.text.weights={at}#text_model"),
        *(f"heads.image.weights={at}#visual_projection", f"heads.caption.weights={at}#text_projection"),
    )
    model, _ = ours("clip/vit_b_16.yaml", sets, public.state_dict(), tmp_path)
    data, pictures = batch(model, 32)
    with torch.no_grad():
        theirs = public(
            input_ids=data.streams["caption"]["ids"].masked_fill(~data.streams["caption"]["mask"], 0),
            attention_mask=data.streams["caption"]["mask"].long(),
            pixel_values=pixels(pictures, CLIP_MEAN, CLIP_STD),
        )
        scale = public.logit_scale.exp()
        logits = clip_logits(model, data) * scale
        torch.testing.assert_close(logits / scale, theirs.logits_per_image / scale, **CLOSE)
        torch.testing.assert_close(logits.T / scale, theirs.logits_per_text / scale, **CLOSE)


def test_clip_is_open_clips_clip(tmp_path):
    open_clip = pytest.importorskip("open_clip")
    from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

    assert open_clip
    public = shaken(
        CLIP(
            16,
            CLIPVisionCfg(layers=2, width=32, head_width=8, patch_size=16, image_size=32),
            CLIPTextCfg(context_length=77, vocab_size=49408, width=24, heads=4, layers=2),
        )
    )
    at = "file:public.safetensors"
    sets = (
        *CLIP_SIZES,
        *(f"tokenizers.image.weights={at}", f"tokenizers.caption.weights={at}"),
        *(f"encoders.vision.weights={at}", f"encoders.text.weights={at}#text"),
        *(f"heads.image.weights={at}#visual", f"heads.caption.weights={at}#text"),
    )
    state = {key: value for key, value in public.state_dict().items() if key != "attn_mask"}
    model, _ = ours("clip/vit_b_16.yaml", sets, state, tmp_path)
    data, pictures = batch(model, 32)
    ids = F.pad(data.streams["caption"]["ids"].masked_fill(~data.streams["caption"]["mask"], 0), (0, 77))[:, :77]
    with torch.no_grad():
        one = public.encode_image(pixels(pictures, CLIP_MEAN, CLIP_STD), normalize=True)
        other = public.encode_text(ids, normalize=True)
        torch.testing.assert_close(clip_logits(model, data), one @ other.T, **CLOSE)


@pytest.fixture
def vocabulary(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(VOCABULARY) + "\n")
    return f"file:{path}"


VILT_SIZES = (
    *("tokenizers.image.image_size=64", "tokenizers.image.patch_size=16", "tokenizers.image.augment=none"),
    *("encoders.shared.dim=32", "encoders.shared.depth=2", "encoders.shared.num_heads=4"),
)


def vilt(name, transformers, **more):
    config = transformers.ViltConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        max_position_embeddings=40,
        image_size=64,
        patch_size=16,
        layer_norm_eps=1e-6,
        hidden_dropout_prob=0.0,
        **more,
    )
    return shaken(getattr(transformers, name)(config))


def vilt_inputs(data, pictures, stream):
    return {
        "input_ids": data.streams[stream]["ids"],
        "attention_mask": data.streams[stream]["mask"].long(),
        "token_type_ids": torch.zeros_like(data.streams[stream]["ids"]),
        "pixel_values": pixels(pictures, (0.5,) * 3, (0.5,) * 3),
        "pixel_mask": torch.ones(len(pictures), 64, 64, dtype=torch.int64),
    }


def test_vilts_answers_are_transformers_vilts(tmp_path, vocabulary):
    """All of it: embeddings of words and patches, kinds of token, the joint pass, pooler and the head of two layers."""
    transformers = pytest.importorskip("transformers")
    public = vilt("ViltForQuestionAnswering", transformers, num_labels=7)
    for module in public.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.eps = 1e-6 if module.normalized_shape == (32,) else module.eps
    at = "file:public.safetensors"
    sets = (
        *VILT_SIZES,
        *(f"tokenizers.question.vocabulary={vocabulary}", "tokenizers.question.norm_eps=1.0e-6"),
        *(f"tokenizers.{name}.weights={at}#vilt" for name in ("image", "question")),
        *(f"encoders.shared.weights={at}#vilt", f"passes.pair.weights={at}#vilt", f"heads.answer.weights={at}"),
        *("heads.answer.num_classes=7", "heads.answer.hidden=64"),
    )
    model, _ = ours("vilt/vqa.yaml", sets, public.state_dict(), tmp_path)
    data, pictures = batch(model, 64)
    with torch.no_grad():
        theirs = public(**vilt_inputs(data, pictures, "question")).logits
        torch.testing.assert_close(model.predict(data, "answer").value, theirs, **CLOSE)


def test_vilts_words_are_transformers_vilts(tmp_path, vocabulary):
    transformers = pytest.importorskip("transformers")
    public = vilt("ViltForMaskedLM", transformers, tie_word_embeddings=False)
    at = "file:public.safetensors"
    sets = (
        *VILT_SIZES,
        *(f"tokenizers.caption.vocabulary={vocabulary}", "tokenizers.caption.norm_eps=1.0e-6"),
        *(f"tokenizers.{name}.weights={at}#vilt" for name in ("image", "caption")),
        *(f"encoders.shared.weights={at}#vilt", "passes.pair={reads: [caption, image], types: true}"),
        *(f"passes.pair.weights={at}#vilt", f"heads.words.weights={at}#mlm_score", "heads.words.norm_eps=1.0e-6"),
    )
    model, _ = ours("vilt/pretrain.yaml", sets, public.state_dict(), tmp_path)
    data, pictures = batch(model, 64)
    with torch.no_grad():
        theirs = public(**vilt_inputs(data, pictures, "caption")).logits
        mask = data.streams["caption"]["mask"][:, 1:]  # the first token is no word
        found = model.predict(data, "words").value[:, : mask.shape[1]]
        torch.testing.assert_close(found[mask], theirs[:, 1:][mask], **CLOSE)


def test_aligns_text_tower_and_temperature_are_transformers_aligns(tmp_path, vocabulary):
    transformers = pytest.importorskip("transformers")
    config = transformers.AlignTextConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        max_position_embeddings=64,
    )
    public = shaken(transformers.AlignTextModel(config))
    projection = torch.nn.Linear(32, 16)
    state = {f"text_model.{key}": value for key, value in public.state_dict().items()}
    state |= {f"text_projection.{key}": value.detach() for key, value in projection.state_dict().items()}
    at = "file:public.safetensors"
    sets = (
        *("encoders.text.dim=32", "encoders.text.depth=2", "encoders.text.num_heads=4"),
        *("tokenizers.image.backbone=test_efficientnet", "tokenizers.image.image_size=64", "encoders.vision.dim=16"),
        *(f"tokenizers.caption.vocabulary={vocabulary}", f"tokenizers.caption.weights={at}#text_model"),
        *(f"encoders.text.weights={at}#text_model", f"heads.caption.weights={at}#text_projection"),
        "heads.caption.size=16",
    )
    model, _ = ours("align/base.yaml", sets, state, tmp_path)
    data, _ = batch(model, 64)
    raw = data.streams["caption"]
    with torch.no_grad():
        states = public(input_ids=raw["ids"], attention_mask=raw["mask"].long()).last_hidden_state
        theirs = F.normalize(projection(states[:, 0]), dim=1)
        torch.testing.assert_close(model.predict(data, "caption").value, theirs, **CLOSE)
    # Cosines are divided by the temperature, which is 1 at first.
    objective = model.objectives["pairs"][0]
    assert objective.scale().item() == 1.0
    objective.temperature.data.fill_(0.25)
    assert objective.scale().item() == 4.0
