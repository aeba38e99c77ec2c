"""Activation checkpointing: less is kept, and nothing else changes, through frozen blocks and under every engine."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

from metaformer.build import TaskData, step_module
from metaformer.data.order import Address
from metaformer.encoders.transformer import TransformerEncoder
from metaformer.engine import find_place, start_engine
from metaformer.layers.attention import key_mask
from metaformer.layers.recompute import recompute
from metaformer.model import Step
from metaformer.recipe import Recipe
from metaformer.trainable import freeze

ALL = {"zero_optimization": {"stage3_param_persistence_threshold": 0}}
"""No parameter is small enough to stay whole."""


def recipe(**engine) -> Recipe:
    task = {"data": {"train": {"use": "none"}}, "objective": {"use": "none"}}
    settings = {"micro_batch": 4, **engine}
    return Recipe(name="tiny", tokenizers={"left": {"use": "none"}}, tasks={"signs": task}, steps=1, engine=settings)


def prepared(model, make_reader, spec: Recipe) -> Step:
    """The model as a run has it: with a blank batch of every task."""
    data = {task: TaskData(make_reader(model, task), None, (), {}, {}) for task in model.objectives}
    return step_module(model, data, spec)


def batch_of(reader, indices=range(4)):
    return reader.collate([reader.read(Address(reader.task, 0, i)) for i in indices])


@pytest.mark.parametrize("zero", [None, 0, 3])
@pytest.mark.parametrize("trainable", ["frozen", "norm", ("tokenizers.*", "heads.*", "encoders.*mlp*")])
def test_gradient_flows_through_a_frozen_encoder(make_model, make_reader, zero, trainable):
    found = []
    for checkpointing in (False, True):
        model = make_model(depth=3)
        freeze(model, trainable)
        chosen = {"use": "torch"} if zero is None else {"zero": zero, "config": ALL if zero == 3 else {}}
        spec = recipe(activation_checkpointing=checkpointing, **chosen)
        engine = start_engine(prepared(model, make_reader, spec), spec, find_place())
        model.train()
        steps = []
        for _ in range(2):
            torch.manual_seed(0)
            engine.backward(engine.forward(batch_of(make_reader(model)))["loss"])
            steps.append({name: gradient.clone() for name, gradient in engine.gradients()})
            engine.step(1e-3)
        found.append(steps)
    for plain, recomputed in zip(*found, strict=True):
        assert plain.keys() == recomputed.keys()
        assert any(name.startswith("tokenizers.left") for name in plain)
        for name, gradient in plain.items():
            torch.testing.assert_close(recomputed[name], gradient, rtol=1e-6, atol=1e-7, msg=name)
            if name.startswith("tokenizers.left.linear"):
                assert gradient.abs().max() > 0


@pytest.mark.parametrize("options", [{"drop": 0.3}, {"drop_path": 0.5}, {"norm": "post", "layer_scale": 0.1}], ids=str)
@pytest.mark.parametrize("bf16", [False, True])
def test_dropout_draws_the_same_again_and_streams_share_the_blocks(options, bf16):
    results = []
    for recomputed in (False, True):
        torch.manual_seed(0)
        encoder = TransformerEncoder(dim=16, depth=3, num_heads=4, **options)
        if recomputed:
            recompute(encoder.blocks)
        x = torch.randn(4, 5, 16, requires_grad=True)
        mask = key_mask(torch.arange(5) < torch.tensor([5, 4, 3, 2])[:, None])
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            y, z = x, 2 * x[:, :3]
            for block in encoder.blocks:
                y, z = block(y, mask), block(z)
        loss = y.square().mean() + z.abs().mean()
        loss.backward()
        results.append([loss.detach(), x.grad, torch.rand(1), *(p.grad for p in encoder.parameters())])
    for plain, again in zip(*results, strict=True):
        assert torch.equal(plain, again)


def test_two_passes_of_one_batch(make_model, make_reader):
    found = []
    for checkpointing in (False, True):
        model = make_model()
        batch = batch_of(make_reader(model, train=False))
        step = prepared(model, make_reader, recipe(activation_checkpointing=checkpointing))
        (step(batch)["loss"] + 2 * step(batch)["loss"]).backward()
        found.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert all(torch.equal(gradient, found[1][name]) for name, gradient in found[0].items())


def kept_bytes(run) -> int:
    """What autograd keeps for the backward pass."""
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        run()
    return sum(kept.values())


def test_only_the_blocks_inputs_are_kept():
    encoder = TransformerEncoder(dim=32, depth=4, num_heads=4, drop=0.1)
    x = torch.randn(8, 64, 32, requires_grad=True)
    parameters = sum(p.nbytes for p in encoder.parameters())

    def run() -> None:
        y = x
        for block in encoder.blocks:
            y = block(y)
        outputs.append(y)

    outputs: list[torch.Tensor] = []
    plain = kept_bytes(run)
    recompute(encoder.blocks)
    # torch's own hooks keep the inputs, out of sight of ours: count them too.
    recomputed = kept_bytes(run) + 4 * x.nbytes
    assert plain > 30 * x.nbytes
    assert recomputed < plain / 5 + parameters


class Counting(nn.Module):
    """A block that counts how often it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.calls = 0

    def forward(self, tokens: tuple[torch.Tensor, str]) -> tuple[torch.Tensor, str]:
        self.calls += 1
        return self.linear(tokens[0]).square(), tokens[1]


def test_a_block_runs_twice_only_where_something_is_learned():
    block = Counting()
    recompute([block])
    x = torch.randn(2, 4)
    block((x, "name"))[0].sum().backward()
    assert block.calls == 2
    with torch.no_grad():
        block((x, "name"))
    assert block.calls == 3
    block.requires_grad_(False)
    assert not block((x, "name"))[0].requires_grad
    assert block.calls == 4
    block((x.clone().requires_grad_(), "name"))[0].sum().backward()
    assert block.calls == 6


def test_names_and_copies_stay_what_they_were(make_model, make_reader):
    plain, model = make_model(), make_model()
    prepared(model, make_reader, recipe(activation_checkpointing=True))
    assert list(model.state_dict()) == list(plain.state_dict())
    copied = copy.deepcopy(model)
    with torch.no_grad():
        for p in copied.encoders.parameters():
            p.zero_()
    # A copy runs its own weights: with all of them zero, a block adds nothing.
    x = torch.randn(2, 3, 16, requires_grad=True)
    assert torch.equal(copied.encoders["shared"].blocks[0](x), x)
    assert not torch.equal(model.encoders["shared"].blocks[0](x), x)
    batch = batch_of(make_reader(model, train=False))
    with torch.no_grad():
        assert torch.equal(model.eval()(batch)["sign"].value, plain.eval()(batch)["sign"].value)
