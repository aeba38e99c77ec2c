"""The stem beside Hugging Face's AST, and sounds of several lengths in one batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from metaformer_plugin_audio.tokenizer import AudioTokenizer

from metaformer.errors import MetaformerError, WeightsError

RNG = np.random.default_rng(0)
SOUNDS = [RNG.normal(0, 0.1, n).astype(np.float32) for n in (10240 + 240, 5000, 3000, 100)]


def published(max_length: int, dim: int = 24):
    """A random AST of few layers, as Hugging Face builds it."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.ASTConfig(
        hidden_size=dim, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, max_length=max_length
    )
    model = transformers.ASTModel(config).eval()
    for parameter in model.embeddings.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return model


def ours(dim: int = 24, **knobs: object) -> AudioTokenizer:
    torch.manual_seed(1)
    tokenizer = AudioTokenizer(dim, **{"max_frames": 64, "class_tokens": 2, **knobs})
    return tokenizer.eval()


def batch(tokenizer: AudioTokenizer, sounds: list[np.ndarray]):
    return tokenizer.preprocess.collate([tokenizer.preprocess(sound, False) for sound in sounds])


def test_embeddings_are_those_of_ast():
    model, tokenizer = published(64), ours(padding="zeros")
    tokenizer.load_state_dict(dict(tokenizer.translate(model.state_dict())))
    raw = batch(tokenizer, SOUNDS)
    with torch.no_grad():
        tokens, want = tokenizer(raw), model.embeddings(raw["values"][:, 0].transpose(1, 2))
    assert tokens.mask.all()
    assert tokens.grid == (12, 5)
    assert tokens.num_prefix == 2
    assert tokens.x.shape == want.shape == (4, 2 + 60, 24)
    assert (tokens.x - want).abs().max() <= 1e-5


def test_real_tokens_of_sounds_of_any_length_are_those_of_ast():
    model, tokenizer = published(64), ours()
    tokenizer.load_state_dict(dict(tokenizer.translate(model.state_dict())))
    raws = [tokenizer.preprocess(sound, False) for sound in SOUNDS]
    with torch.no_grad():
        tokens = tokenizer(tokenizer.preprocess.collate(raws))
        few = tokenizer(tokenizer.preprocess.collate(raws[1:]))
        for row, raw in enumerate(raws):
            frames = raw["values"].shape[2]
            columns = (frames - 16) // 10 + 1
            padded = torch.nn.functional.pad(raw["values"], (0, 64 - frames))
            want = model.embeddings(padded[:, :, :].transpose(1, 2))[0]
            patches = want[2:].view(12, 5, -1)[:, :columns].flatten(0, 1)
            real = tokens.x[row][tokens.mask[row]]
            assert len(real) == 2 + 12 * columns
            assert (real - torch.cat([want[:2], patches])).abs().max() <= 1e-5
            if row:
                assert torch.allclose(few.x[row - 1][few.mask[row - 1]], real, atol=1e-6)
    assert few.grid == (12, 2)  # the longest there has 29 frames: no token is spent on what nobody has
    assert few.positions is not None
    assert few.positions.shape == few.x.shape


def test_positions_of_a_longer_ast_are_resized():
    model = published(104)
    tokenizer = ours(class_tokens=1)
    state = dict(tokenizer.translate({f"audio.{name}": tensor for name, tensor in model.state_dict().items()}))
    tokenizer.load_state_dict(state)
    assert state["embed.positions"].shape == (1, 1 + 60, 24)
    assert torch.equal(state["embed.class_token"], model.embeddings.cls_token)
    with pytest.raises(WeightsError):
        ours(dim=32).translate(model.state_dict())
    with pytest.raises(WeightsError):
        ours(patch_size=8, stride=8).translate(model.state_dict())


def test_the_papers_grid_is_what_the_convolution_yields():
    assert ours(max_frames=224).embed.grid == (12, 21)
    assert ours(max_frames=1024).embed.grid == (12, 101)


def test_number_of_columns():
    tokenizer = ours(patch_size=(128, 4), stride=(128, 3), class_tokens=0, positions="none")
    mask = torch.arange(40)[None] < torch.tensor([[4], [6], [7], [10], [39], [40]])
    values = torch.randn(6, 1, 128, 40)
    tokens = tokenizer({"values": values, "mask": mask})
    assert tokens.mask.sum(dim=1).tolist() == [1, 1, 2, 3, 12, 13]
    assert tokens.x.shape == (6, 13, 24)
    assert tokens.grid == (1, 13)


def test_contents_are_the_patches_behind_the_tokens():
    tokenizer = ours(positions="none", class_tokens=1)
    raw = batch(tokenizer, SOUNDS)
    contents, tokens = tokenizer.contents(raw), tokenizer(raw)
    assert contents.shape == (4, tokens.x.shape[1] - 1, tokenizer.num_contents)
    assert torch.allclose(tokenizer.embed.proj(contents), tokens.x[:, 1:], atol=1e-5)
    first = raw["values"][0, 0, 10:26, 10:26].flatten()
    assert torch.equal(contents[0, tokens.grid[1] + 1], first)
    for row, sound in enumerate(SOUNDS):
        alone = tokenizer.contents(batch(tokenizer, [sound]))[0]
        assert torch.equal(contents[row][tokens.mask[row, 1:]], alone)


@pytest.mark.parametrize(
    "knobs",
    [
        {"stride": 17},
        {"max_frames": 8},
        {"mean": 1.0},
        {"mel_bins": 8},
        {"frame_length": 0.01},
        {"frame_shift": 0.01},
    ],
    ids=str,
)
def test_knobs_that_do_not_fit(knobs):
    with pytest.raises(MetaformerError):
        ours(**knobs)


def test_it_describes_itself():
    assert "12x5" not in ours().describe()
    assert "at most 0.66 s = 60 tokens" in ours().describe()
