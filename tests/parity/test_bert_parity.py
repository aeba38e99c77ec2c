"""BERT's and ALIGN's text towers, padded, out of our text tokenizer, post-norm encoder and heads."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from metaformer.encoders.transformer import TransformerEncoder
from metaformer.errors import WeightsError
from metaformer.heads.classification import ClassificationHead
from metaformer.heads.language import LanguageHead
from metaformer.heads.projection import ProjectionHead
from metaformer.types import TokenBatch
from metaformer.weights.load import load_into
from tests.parity.towers import close, fill, ids_of, randomise, real, save, text_tokenizer

transformers = pytest.importorskip("transformers")

SIZE, LENGTH, DIM, DEPTH, HEADS = 64, 12, 48, 4, 3
LENGTHS = (12, 5, 2)
CONFIG = {
    "vocab_size": SIZE,
    "hidden_size": DIM,
    "num_hidden_layers": DEPTH,
    "num_attention_heads": HEADS,
    "intermediate_size": 4 * DIM,
    "max_position_embeddings": LENGTH,
}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def eager(config: object) -> object:
    config._attn_implementation = "eager"  # type: ignore[attr-defined]
    return config


def tokens(folder: Path, uri: str, part: str = "") -> TokenBatch:
    tokenizer = text_tokenizer(DIM, folder, SIZE, max_length=LENGTH, end_token=True, norm=True, norm_eps=1e-12)
    fill(tokenizer, uri + part)
    with torch.no_grad():
        return tokenizer(words())


def words() -> dict[str, Tensor]:
    torch.manual_seed(1)
    return ids_of(LENGTHS, SIZE, 2, 3)


def encoder(depth: int = DEPTH) -> TransformerEncoder:
    return TransformerEncoder(dim=DIM, depth=depth, num_heads=HEADS, norm="post", norm_eps=1e-12, drop=0.1)


def ask(model: nn.Module) -> dict[str, Tensor]:
    raw = words()
    with torch.no_grad():
        return model(input_ids=raw["ids"], attention_mask=raw["mask"].long())


def test_bert_with_its_pooler(tmp_path: Path) -> None:
    model = randomise(transformers.BertModel(eager(transformers.BertConfig(**CONFIG))))
    uri = save(model.state_dict(), tmp_path)
    embedded = tokens(tmp_path, uri)
    out, pooler = ask(model), ClassificationHead(DIM, num_classes=5, norm=False, pooler=True)
    with torch.no_grad():
        found = fill(encoder(), uri)(embedded)
        close(real(embedded, found.x), real(embedded, out["last_hidden_state"]))
        for part in ("", "#pooler"):
            fill(pooler, uri + part, allow_missing=["linear.*"])
            close(torch.tanh(pooler.pooler(found.x[:, 0])), out["pooler_output"])  # type: ignore[misc]


def test_the_names_of_the_first_published_files(tmp_path: Path) -> None:
    model = randomise(transformers.BertForMaskedLM(eager(transformers.BertConfig(**CONFIG))))
    renames = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    state = {}
    for key, value in model.state_dict().items():
        for new, old in renames.items():
            key = key.replace(new, old)
        state[key] = value
    assert any(key.endswith("gamma") for key in state)
    uri = save(state, tmp_path)
    embedded = tokens(tmp_path, uri)
    head = fill(LanguageHead(DIM, {"text": SIZE}, stream="text"), uri)
    with torch.no_grad():
        found = fill(encoder(), uri)(embedded)
        close(real(embedded, head(found._replace(num_prefix=0))), real(embedded, ask(model)["logits"]))


@pytest.mark.parametrize("prefix", ["", "text_encoder.bert."])
def test_a_range_of_blocks(prefix: str, tmp_path: Path) -> None:
    model = randomise(transformers.BertModel(eager(transformers.BertConfig(**CONFIG)), add_pooling_layer=False))
    uri = save({prefix + key: value for key, value in model.state_dict().items()}, tmp_path)
    embedded = tokens(tmp_path, uri)
    with torch.no_grad():
        first = fill(encoder(3), f"{uri}#{prefix}encoder.layer.0-2")(embedded)
        found = fill(encoder(1), f"{uri}#{prefix}encoder.layer.3-3")(first)
    close(real(embedded, found.x), real(embedded, ask(model)["last_hidden_state"]))
    with pytest.raises(WeightsError, match=r"no block 4, 5: .*blocks 0 to 3"):
        load_into(encoder(), f"{uri}#{prefix}encoder.layer.2-5", name="it")


def test_align_reads_the_first_token_and_divides_by_its_temperature(tmp_path: Path) -> None:
    vision = {"image_size": 32, "hidden_dim": 16, "width_coefficient": 0.1, "depth_coefficient": 0.1}
    config = transformers.AlignConfig(
        text_config=CONFIG, vision_config=vision, projection_dim=20, temperature_init_value=0.07
    )
    model = randomise(transformers.AlignModel(eager(config)))
    with torch.no_grad():
        model.temperature.fill_(0.07)
    uri = save(model.state_dict(), tmp_path)
    embedded = tokens(tmp_path, uri, "#text_model")
    head = ProjectionHead(DIM, size=20, norm=False, bias=True)
    fill(head, f"{uri}#text_projection")
    with torch.no_grad():
        found = head(fill(encoder(), f"{uri}#text_model")(embedded))
        raw = words()
        out = model.get_text_features(input_ids=raw["ids"], attention_mask=raw["mask"].long()).pooler_output
    expected = torch.nn.functional.normalize(out, dim=-1)
    close(found, expected)


@pytest.mark.parametrize("start", [0.07, 1.0])
def test_a_plain_temperature_is_divided_by(start: float) -> None:
    from metaformer.objectives.contrastive import Contrastive

    heads = {name: ProjectionHead(DIM, size=20) for name in ("image", "text")}
    knobs = {"temperature": start, "temperature_as": "plain", "min_temperature": None}
    objective = Contrastive(heads, between=("image", "text"), **knobs)  # type: ignore[arg-type]
    assert objective.scale().item() == pytest.approx(1 / start)
