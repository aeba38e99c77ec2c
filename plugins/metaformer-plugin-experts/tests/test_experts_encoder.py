"""Which expert takes which tokens, what is refused, and that stages freeze what they should."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from metaformer_plugin_experts.encoder import ExpertsEncoder
from torch import nn

from metaformer.errors import MetaformerError, RecipeError
from metaformer.layers.join import join
from metaformer.layers.recompute import recompute
from metaformer.recipe import Lora
from metaformer.registry import registry
from metaformer.schema import construct
from metaformer.trainable import digest, freeze, insert_lora, parameter_groups
from metaformer.types import TokenBatch

SMALL: dict[str, Any] = {"dim": 16, "depth": 3, "num_heads": 2}
EXPERTS = {"text": ("text",), "image": ("image", "video")}
SIZES = {"text": (7,), "image": (2, 3)}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def make(**knobs: Any) -> ExpertsEncoder:
    encoder = ExpertsEncoder(**{"experts": EXPERTS, "pair_from": 2, "relative_positions": SIZES, **SMALL, **knobs})
    for table in [] if encoder.positions is None else encoder.positions.parameters():
        nn.init.normal_(table)
    return encoder.eval()


def text(length: int = 6, pad: int = 0) -> TokenBatch:
    mask = torch.arange(length + pad).expand(2, -1) < length
    return TokenBatch(torch.randn(2, length + pad, 16), mask, "text", num_prefix=1)


def image(modality: str = "image", rows: int = 2) -> TokenBatch:
    x = torch.randn(2, 1 + rows * 3, 16)
    return TokenBatch(x, torch.ones(x.shape[:2], dtype=torch.bool), modality, grid=(rows, 3), num_prefix=1)


def used(encoder: ExpertsEncoder, tokens: TokenBatch) -> set[str]:
    """Which `LAYER.EXPERT` get a gradient from a pass."""
    encoder.zero_grad()
    encoder(tokens).x.square().sum().backward()
    return {
        f"{name.split('.')[1]}.{name.split('.')[3]}"
        for name, parameter in encoder.named_parameters()
        if ".mlp." in name and parameter.grad is not None
    }


@pytest.mark.parametrize(
    ("tokens", "experts"),
    [
        (text, {"0.text", "1.text", "2.text"}),
        (image, {"0.image", "1.image", "2.image"}),
        (lambda: image("video"), {"0.image", "1.image", "2.image"}),
        (lambda: text()._replace(expert="pair"), {"0.text", "1.text", "2.pair"}),
        (lambda: join([text(), image()]), {"0.text", "0.image", "1.text", "1.image", "2.pair"}),
    ],
    ids=["text", "image", "video", "text through pair", "joint"],
)
def test_routes(tokens, experts):
    assert used(make(), tokens()) == experts


def test_without_an_expert_for_pairs_each_part_keeps_its_own():
    encoder = make(pair_from=None)
    assert used(encoder, join([text(), image()])) == {f"{i}.{name}" for i in range(3) for name in EXPERTS}
    assert not any("pair" in name for name, _ in encoder.named_parameters())


def test_all_passes_together_reach_every_parameter():
    encoder = make()
    loss = sum(encoder(tokens).x.square().sum() for tokens in (text(), image(), join([text(), image()])))
    torch.as_tensor(loss).backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in encoder.parameters())


def test_experts_with_equal_weights_are_one_transformer():
    """With relative positions off, and every expert a copy of one, it does not matter who takes what."""
    encoder = make(relative_positions=None)
    for block in encoder.blocks:
        for group in (block.norm2, block.mlp):
            for name in group:
                group[name].load_state_dict(group["text"].state_dict())
    one = ExpertsEncoder(experts={"any": ("text",)}, **SMALL).eval()
    state = {key.replace(".text.", ".any."): value for key, value in encoder.state_dict().items()}
    one.load_state_dict({key: value for key, value in state.items() if ".image." not in key and ".pair." not in key})
    both = join([text(), image()])
    torch.testing.assert_close(encoder(both).x, one(both._replace(joined=(), modality="text")).x)


def test_padding_inside_a_joint_sequence_changes_nothing():
    encoder = make()
    short, picture = text(4), image()
    garbage = torch.cat([short.x, 100 * torch.randn(2, 3, 16)], dim=1)
    long = short._replace(x=garbage, mask=torch.arange(7).expand(2, -1) < 4)
    alone, padded = encoder(join([short, picture])).x, encoder(join([long, picture])).x
    torch.testing.assert_close(padded[:, [0, 1, 2, 3, *range(7, 14)]], alone, atol=1e-5, rtol=1e-5)


def test_a_smaller_grid_keeps_its_offsets():
    """Behind a mask, the last row of a picture is as good as cut off."""
    encoder = make()
    whole = image()
    mask = whole.mask.clone()
    mask[:, 4:] = False
    cut = whole._replace(x=whole.x[:, :4], mask=whole.mask[:, :4], grid=(1, 3))
    torch.testing.assert_close(encoder(cut).x, encoder(whole._replace(mask=mask)).x[:, :4], atol=1e-5, rtol=1e-5)


def test_a_set_has_no_order():
    encoder = make(experts={"points": ("text",)}, pair_from=None, relative_positions={"points": ()})
    tokens = text(6)
    order = torch.tensor([0, 3, 5, 1, 2, 4])
    moved = encoder(tokens.with_x(tokens.x[:, order])).x
    torch.testing.assert_close(moved, encoder(tokens).x[:, order], atol=1e-5, rtol=1e-5)


def test_relative_positions_make_an_order():
    encoder = make(pair_from=None)
    tokens = text(6)
    order = torch.tensor([0, 3, 5, 1, 2, 4])
    assert (encoder(tokens.with_x(tokens.x[:, order])).x - encoder(tokens).x[:, order]).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("tokens", "knobs", "words"),
    [
        (lambda: text()._replace(modality="smell"), {}, ("'smell'", "text: text; image: image, video", "`experts`")),
        (lambda: join([text(), image("smell")]), {}, ("'smell'",)),
        (lambda: text()._replace(expert="pair"), {"pair_from": None}, ("'pair'", "pair_from")),
        (lambda: text()._replace(expert="image"), {}, ("'image'", "leave `expert` out")),
        (lambda: text(12), {}, ("at most 7", "text: [11]")),
        (lambda: image(rows=5), {}, ("at most 2 x 3", "5 x 3", "image: [5, 3]", "resized")),
        (lambda: image()._replace(grid=None), {}, ("no grid", "image: [6]")),
        (lambda: image()._replace(grid=(1, 2, 3)), {}, ("1 x 2 x 3",)),
    ],
    ids=["modality", "joint", "no pair", "other expert", "long text", "large grid", "no grid", "three axes"],
)
def test_sequences_that_are_refused(tokens, knobs, words):
    with pytest.raises(MetaformerError) as error:
        make(**knobs)(tokens())
    assert all(word in str(error.value) for word in words), str(error.value)
    assert error.value.do


@pytest.mark.parametrize(
    ("knobs", "words"),
    [
        ({"experts": {}}, "empty"),
        ({"experts": {"pair": ["text"]}}, "pair"),
        ({"experts": {"values": ["text"]}}, "values"),
        ({"experts": {"a_reads_b": ["text"]}}, "a_reads_b"),
        ({"experts": {"a.b": ["text"]}}, "experts"),
        ({"experts": {"a": ["text"], "b": ["text"]}}, "more than one expert serves text"),
        ({"pair_from": 3}, "at most 2"),
        ({"relative_positions": {"text": [4]}}, "the experts are text, image"),
        ({"relative_positions": {"text": [0], "image": [1, 1]}}, "relative_positions"),
        ({"plain_expert": "smell"}, "smell"),
        ({"num_heads": 3}, "divisible"),
    ],
    ids=str,
)
def test_knobs_that_do_not_go_together(knobs, words):
    entry = {"experts": {"text": ["text"], "image": ["image"]}, **SMALL, **knobs}
    with pytest.raises(RecipeError, match=words):
        construct(registry().load("encoder", "experts"), entry, {}, "encoders.shared")


def test_a_recipe_writes_lists():
    entry = {"experts": {"text": ["text"], "image": ["image"]}, "relative_positions": {"text": [4], "image": [2, 2]}}
    encoder = construct(registry().load("encoder", "experts"), {**SMALL, **entry}, {})
    assert encoder.positions.sizes == {"text": (4,), "image": (2, 2)}


PAPER = ["encoders.shared.blocks.*.mlp.text.*", "encoders.shared.blocks.*.norm2.text.*", "*.positions.within_text.*"]


def test_the_second_stage_changes_what_text_alone_has():
    """Attention and the experts of other modalities stay, bit by bit, in spite of weight decay."""
    model = nn.Module()
    model.encoders = nn.ModuleDict({"shared": make(layer_scale=0.1)})
    freeze(model, PAPER)
    before = {name: digest(parameter) for name, parameter in model.named_parameters()}
    optimizer = torch.optim.AdamW(parameter_groups(model, (), 0.1), lr=0.01)
    for _ in range(3):
        optimizer.zero_grad()
        model.encoders["shared"](text()).x.square().sum().backward()
        optimizer.step()
    moved = {name for name, parameter in model.named_parameters() if digest(parameter) != before[name]}
    assert moved == {name for name in before if ".text." in name or "within_text" in name}


def test_low_rank_updates_keep_the_biases():
    encoder, tokens = make(), text()
    for block in encoder.blocks:
        nn.init.normal_(block.attn.q_bias)
        nn.init.normal_(block.attn.v_bias)
    expected = encoder(tokens).x
    model = nn.Module()
    model.encoders = nn.ModuleDict({"shared": encoder})
    assert len(insert_lora(model, Lora(targets=("encoders.*.attn.qkv",)))) == 3
    torch.testing.assert_close(encoder.eval()(tokens).x, expected)


def test_blocks_may_be_recomputed():
    encoder, both = make().train(), join([text(), image()])
    expected = encoder(both).x
    expected.sum().backward()
    gradients = [None if p.grad is None else p.grad.clone() for p in encoder.parameters()]
    encoder.zero_grad()
    recompute(encoder.blocks)
    found = encoder(both).x
    found.sum().backward()
    torch.testing.assert_close(found, expected)
    for parameter, gradient in zip(encoder.parameters(), gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)
