"""Globs, presets, groups, LoRA insertion, and the certificate that frozen stayed frozen."""

import pytest
import torch
from torch import nn

from metaformer.errors import FreezeError, RecipeError
from metaformer.layers.lora import LoraLinear
from metaformer.recipe import Group, Lora
from metaformer.trainable import (
    Certificate,
    digest,
    freeze,
    frozen_tensors,
    insert_lora,
    parameter_groups,
)


def trained(model):
    return {name for name, p in model.named_parameters() if p.requires_grad}


def test_frozen_trains_everything_but_the_encoders(make_model):
    model = make_model()
    freeze(model, "frozen")
    assert trained(model) == {n for n, _ in model.named_parameters() if not n.startswith("encoders.")}


def test_tuned_trains_everything(make_model):
    model = make_model()
    freeze(model, "tuned")
    assert trained(model) == {n for n, _ in model.named_parameters()}


@pytest.mark.parametrize(
    ("preset", "inside"),
    [
        ("norm", lambda n: "norm" in n),
        ("bitfit", lambda n: n.endswith(".bias")),
        ("last-1", lambda n: ".blocks.1." in n),
    ],
)
def test_ladder(make_model, preset, inside):
    model = make_model()
    freeze(model, preset)
    encoder = {n for n, _ in model.named_parameters() if n.startswith("encoders.")}
    assert trained(model) & encoder == {n for n in encoder if inside(n)}
    assert trained(model) & encoder


def test_words_add_up(make_model):
    model = make_model()
    freeze(model, ["heads.sign.*", "encoders.shared.blocks.0.attn.*"])
    assert {n.split(".")[0] for n in trained(model)} == {"heads", "encoders"}
    assert all(".attn." in n for n in trained(model) if n.startswith("encoders"))


def test_every_glob_that_matches_nothing_is_named(make_model):
    with pytest.raises(RecipeError) as caught:
        freeze(make_model(), ["heads.*", "encoders.sharde.*", "tokens.*"])
    assert [p.path for p in caught.value.problems] == ["trainable.1", "trainable.2"]
    assert "encoders.shared.*" in caught.value.problems[0].do


def test_lora_trains_only_updates_inside_the_encoder(make_model):
    model = make_model()
    names = insert_lora(model, Lora(rank=2))
    assert len(names) == 4
    assert isinstance(model.encoders["shared"].blocks[0].attn.qkv, LoraLinear)
    freeze(model, "lora")
    inside = {n for n in trained(model) if n.startswith("encoders.")}
    assert inside == {f"{n}.{ab}" for n in names for ab in ("lora_a", "lora_b")}
    with pytest.raises(RecipeError, match="no linear layer"):
        insert_lora(model, Lora(targets=("encoders.*.nothing",)))


def test_groups_take_the_first_match_and_never_decay_vectors(make_model):
    model = make_model()
    freeze(model, "tuned")
    groups = [Group(match="encoders.*", lr_scale=0.1), Group(match="heads.*", weight_decay=0.5)]
    made = parameter_groups(model, groups, 0.05)
    where = {name: g for g in made for name in g["names"]}
    assert sum(len(g["params"]) for g in made) == len(list(model.parameters()))
    assert where["encoders.shared.blocks.0.mlp.fc1.weight"]["lr_scale"] == 0.1
    assert where["encoders.shared.blocks.0.mlp.fc1.weight"]["weight_decay"] == 0.05
    assert where["heads.sign.linear.weight"]["weight_decay"] == 0.5
    assert where["heads.sign.linear.bias"]["weight_decay"] == 0.0
    with pytest.raises(RecipeError, match=r"groups\.1"):
        parameter_groups(model, [Group(match="*"), Group(match="heads.*")], 0.0)


def test_no_state_and_no_gradient_for_frozen_parameters(make_model, make_reader):
    from metaformer.data.order import Address
    from metaformer.engine.base import make_optimizer
    from metaformer.model import Step
    from metaformer.recipe import Optimizer

    model = make_model()
    freeze(model, "frozen")
    model.train()
    reader = make_reader(model)
    optimizer = make_optimizer(model, Optimizer())
    out = Step(model, {"totals": make_reader(model, "totals").blank_batch()})(
        reader.collate([reader.read(Address("signs", 0, i)) for i in (1, 2, 3)])
    )
    out["loss"].backward()
    optimizer.step()
    tokenizer = model.tokenizers["left"].linear.weight
    assert tokenizer.grad.abs().sum() > 0, "the tokenizer trains through the frozen encoder"
    frozen = {p for p in model.parameters() if not p.requires_grad}
    assert all(p.grad is None for p in frozen)
    assert not frozen & set(optimizer.state)
    assert not frozen & {p for g in optimizer.param_groups for p in g["params"]}


def test_certificate_names_a_mutated_buffer(make_model):
    model = make_model()
    freeze(model, ["heads.*"])
    before = Certificate.of(model)
    assert "tokenizers.left.norm.running_mean" in before.digests
    before.verify(Certificate.of(model))
    model.tokenizers["left"].norm.running_mean[3] += 1e-7
    with pytest.raises(FreezeError, match=r"tokenizers\.left\.norm\.running_mean"):
        before.verify(Certificate.of(model))


def test_buffers_of_trained_modules_are_not_frozen(make_model):
    model = make_model()
    freeze(model, "tuned")
    assert not frozen_tensors(model)


def test_digest_sees_values_shapes_and_types():
    x = torch.arange(6.0)
    assert digest(x) == digest(x.clone())
    assert len({digest(x), digest(x.view(2, 3)), digest(x.bfloat16()), digest(-x)}) == 4
    assert digest(torch.tensor(1.0)) != digest(torch.tensor(2.0))
    assert digest(torch.zeros(0)) == digest(torch.zeros(0))
    assert digest(nn.Parameter(x)) == digest(x)
