"""ImageBind's trunks against blocks around `torch.nn.MultiheadAttention`, which is what they are made of, in a file
with the names of the published one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from metaformer_plugin_audio.tokenizer import AudioTokenizer
from metaformer_plugin_image.tokenizer import ImageTokenizer
from torch import Tensor, nn
from torch.nn import functional as F

from metaformer.encoders.transformer import TransformerEncoder
from metaformer.errors import WeightsError
from metaformer.heads.projection import ProjectionHead
from metaformer.types import TokenBatch
from metaformer.weights.load import load_into
from tests.parity.towers import close, fill, ids_of, randomise, save, text_tokenizer

DIM, DEPTH, HEADS, OUT, IMAGE, PATCH = 48, 3, 4, 20, 32, 8
SIZE, LENGTH = 64, 10


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


class Layer(nn.Module):
    """One of the trunk's: pre-norm, with a learned key and value where asked for."""

    def __init__(self, bias_kv: bool) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(DIM, HEADS, bias=True, add_bias_kv=bias_kv, batch_first=True)
        self.norm_1, self.norm_2 = nn.LayerNorm(DIM, eps=1e-6), nn.LayerNorm(DIM, eps=1e-6)
        self.mlp = nn.Module()
        self.mlp.fc1, self.mlp.fc2 = nn.Linear(DIM, 4 * DIM), nn.Linear(4 * DIM, DIM)

    def forward(self, x: Tensor, padded: Tensor | None = None, later: Tensor | None = None) -> Tensor:
        y = self.norm_1(x)
        x = x + self.attn(y, y, y, key_padding_mask=padded, attn_mask=later, need_weights=False)[0]
        return x + self.mlp.fc2(F.gelu(self.mlp.fc1(self.norm_2(x))))


class Published(nn.Module):
    """The parts of one modality, under the published names."""

    def __init__(self, name: str, bias_kv: bool, norm_in: bool, head: nn.Module) -> None:
        super().__init__()
        trunk = nn.Module()
        trunk.blocks = nn.ModuleList(Layer(bias_kv) for _ in range(DEPTH))
        if norm_in:
            trunk.pre_transformer_layer = nn.Sequential(nn.LayerNorm(DIM, eps=1e-6))
        self.modality_trunks = nn.ModuleDict({name: trunk})
        self.modality_heads = nn.ModuleDict({name: head})


def state_of(*parts: nn.Module) -> dict[str, Tensor]:
    return {key: value for part in parts for key, value in randomise(part).state_dict().items()}


def trunk(**knobs: object) -> TransformerEncoder:
    return TransformerEncoder(dim=DIM, depth=DEPTH, num_heads=HEADS, norm_eps=1e-6, **knobs)  # type: ignore[arg-type]


def selecting() -> nn.Module:
    return nn.Sequential(nn.LayerNorm(DIM, eps=1e-6), nn.Identity(), nn.Linear(DIM, OUT, bias=False))


@pytest.mark.parametrize(("name", "bias_kv", "norm_in"), [("audio", True, False), ("vision", False, True)])
def test_trunks_and_heads(name: str, bias_kv: bool, norm_in: bool, tmp_path: Path) -> None:
    model = Published(name, bias_kv, norm_in, selecting())
    uri = save(state_of(model, Published("depth", True, False, selecting())), tmp_path)
    ours = fill(trunk(bias_kv=bias_kv, norm_in=norm_in), f"{uri}#modality_trunks.{name}")
    head = fill(ProjectionHead(DIM, size=OUT, norm_eps=1e-6), f"{uri}#modality_heads.{name}")
    x, mask = torch.randn(3, 7, DIM), torch.arange(7) < torch.tensor([7, 4, 1])[:, None]
    blocks = model.modality_trunks[name].blocks
    with torch.no_grad():
        y = model.modality_trunks[name].pre_transformer_layer(x) if norm_in else x
        for block in blocks:  # type: ignore[union-attr]
            y = block(y, ~mask)
        z = model.modality_heads[name](y[:, 0])
        found = ours(TokenBatch(x, mask, name, num_prefix=1))
        close(found.x[mask], y[mask])
        close(head(found), F.normalize(z, dim=-1))


def test_the_learned_key_and_value_are_asked_for_and_refused(tmp_path: Path) -> None:
    parts = [Published(name, bias_kv, False, selecting()) for name, bias_kv in (("audio", True), ("text", False))]
    uri = save(state_of(*parts), tmp_path)
    with pytest.raises(WeightsError, match=r"it\.bias_kv: true"):
        load_into(trunk(), f"{uri}#modality_trunks.audio", name="it")
    with pytest.raises(WeightsError, match=r"it\.bias_kv: false"):
        load_into(trunk(bias_kv=True), f"{uri}#modality_trunks.text", name="it")
    with pytest.raises(WeightsError, match=r"modality_trunks\.audio, modality_trunks\.text"):
        load_into(trunk(), uri, name="it")


def test_the_text_tower(tmp_path: Path) -> None:
    head = nn.Module()
    head.proj = nn.Sequential(nn.LayerNorm(DIM, eps=1e-6), nn.Linear(DIM, OUT, bias=False))
    model = Published("text", False, False, head)
    words = {
        "modality_preprocessors.text.token_embedding.weight": torch.randn(SIZE, DIM),
        "modality_preprocessors.text.pos_embed": torch.randn(1, LENGTH, DIM),
    }
    uri = save(state_of(model) | words, tmp_path)
    tokenizer = text_tokenizer(DIM, tmp_path, SIZE, max_length=LENGTH, end_token=True)
    fill(tokenizer, f"{uri}#modality_preprocessors.text")
    ours = fill(trunk(causal=True), f"{uri}#modality_trunks.text")
    projection = fill(ProjectionHead(DIM, size=OUT, norm_eps=1e-6, pool="end"), f"{uri}#modality_heads.text")
    lengths = torch.tensor([10, 6, 3])
    raw = ids_of(tuple(lengths.tolist()), SIZE, 2, 3)
    with torch.no_grad():
        y = words["modality_preprocessors.text.token_embedding.weight"][raw["ids"]]
        y = y + words["modality_preprocessors.text.pos_embed"]
        later = torch.ones(LENGTH, LENGTH, dtype=torch.bool).triu(1)
        for block in model.modality_trunks["text"].blocks:  # type: ignore[union-attr]
            y = block(y, later=later)
        z = head.proj(y[torch.arange(3), lengths - 1])
        close(projection(ours(tokenizer(raw))), F.normalize(z, dim=-1))


@pytest.mark.parametrize(("frames", "stem"), [(True, "rgbt_stem.proj.1"), (False, "depth_stem.proj")])
def test_stems(frames: bool, stem: str, tmp_path: Path) -> None:
    """A still picture is two equal frames to its film stem; depth and heat have a norm behind theirs."""
    channels, tokens = (3, 16) if frames else (1, 16)
    kind = nn.Conv3d(3, DIM, (2, PATCH, PATCH), (2, PATCH, PATCH), bias=False)
    conv = kind if frames else nn.Conv2d(1, DIM, PATCH, PATCH, bias=False)
    norm = nn.LayerNorm(DIM)
    randomise(nn.ModuleList([conv, norm]))
    first, places = torch.randn(1, 1, DIM), torch.randn(1, 1 + tokens, DIM)
    state = {f"{stem}.weight": conv.weight, "cls_token": first, "pos_embedding_helper.pos_embed": places}
    if not frames:
        state |= {f"depth_stem.norm_layer.{part}": getattr(norm, part) for part in ("weight", "bias")}
    uri = save(state, tmp_path)
    knobs = {"image_size": IMAGE, "patch_size": PATCH, "channels": channels, "bias": False, "normalize": "inception"}
    wrong = ImageTokenizer(DIM, stem_norm=frames, **knobs)  # type: ignore[arg-type]
    with pytest.raises(WeightsError, match=f"stem_norm: {str(not frames).lower()}"):
        load_into(wrong, uri, name="it", translate=wrong.translate)
    ours = fill(ImageTokenizer(DIM, stem_norm=not frames, **knobs), uri)  # type: ignore[arg-type]
    pixels = torch.randint(0, 256, (2, channels, IMAGE, IMAGE), dtype=torch.uint8)
    x = pixels / 127.5 - 1
    with torch.no_grad():
        y = conv(torch.stack([x, x], dim=2)) if frames else conv(x)
        y = y.flatten(2).transpose(1, 2)
        y = torch.cat([first.expand(2, -1, -1), y if frames else norm(y)], dim=1) + places
        close(ours({"pixels": pixels}).x, y)


def test_the_stem_of_sound(tmp_path: Path) -> None:
    """Patches that overlap, and positions on mel bins and frames."""
    conv, norm = nn.Conv2d(1, DIM, 16, 10, bias=False), nn.LayerNorm(DIM)
    randomise(nn.ModuleList([conv, norm]))
    first, places = torch.randn(1, 1, DIM), torch.randn(1, 1 + 3 * 6, DIM)
    state = {"rgbt_stem.proj.weight": conv.weight, "cls_token": first, "pos_embedding_helper.pos_embed": places}
    state |= {f"rgbt_stem.norm_layer.{part}": getattr(norm, part) for part in ("weight", "bias")}
    tokenizer = AudioTokenizer(DIM, mel_bins=40, max_frames=70, bias=False, stem_norm=True)
    ours = fill(tokenizer, save(state, tmp_path))
    x = torch.randn(2, 1, 40, 70)
    with torch.no_grad():
        y = norm(conv(x).flatten(2).transpose(1, 2))
        y = torch.cat([first.expand(2, -1, -1), y], dim=1) + places
        close(ours({"values": x, "mask": torch.ones(2, 70, dtype=torch.bool)}).x, y)
