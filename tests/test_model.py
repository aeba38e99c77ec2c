"""The verbs, what absent streams do, and the step that every rank runs alike."""

import pytest
import torch

from metaformer.data.order import Address
from metaformer.model import MetaFormer, Route, Step, join
from metaformer.types import TokenBatch


def batch_of(reader, indices):
    return reader.collate([reader.read(Address(reader.task, 0, i)) for i in indices])


def test_forward_answers_every_head_whose_streams_are_there(make_model, make_reader):
    model = make_model().eval()
    out = model(batch_of(make_reader(model), [1, 2, 3]))
    assert out.keys() == {"sign"}
    assert out["sign"].value.shape == (3, 2)
    assert out["sign"].present.all()


def test_passes_run_once_per_batch(make_model, make_reader):
    model = make_model().eval()
    calls = []
    model.encoders["shared"].register_forward_hook(lambda *_: calls.append(1))
    batch = batch_of(make_reader(model), [1, 2])
    model.predict(batch, "sign")
    model.stream(batch, "left")
    model(batch)
    assert len(calls) == 1


def test_absent_streams_are_masked_and_do_not_count(make_model, make_reader):
    model = make_model().eval()
    step = Step(model, {})
    reader = make_reader(model, train=False, holes=True)
    whole = batch_of(reader, [0, 1, 2, 3, 4, 5, 6])
    assert whole.present["left"].tolist() == [True] * 5 + [False, True]
    assert whole.targets["sign"][0] == -100
    counted = batch_of(reader, [1, 2, 3, 4, 6])
    torch.testing.assert_close(step(whole)["loss"], step(counted)["loss"])
    assert not model(whole)["sign"].present[5]


def test_a_batch_in_which_nothing_counts_gives_a_connected_zero(make_model, make_reader):
    model = make_model()
    for task in ("signs", "totals"):
        blank = make_reader(model, task).blank_batch()
        (objective,) = model.objectives[task]
        (loss,) = objective(model, blank).values()
        assert loss.item() == 0
        loss.backward()
        head = model.heads["sign" if task == "signs" else "total"]
        assert head.linear.weight.grad is not None
        assert (head.linear.weight.grad == 0).all()


def test_every_step_touches_every_parameter_and_only_its_task_counts(make_model, make_reader):
    model = make_model()
    readers = {task: make_reader(model, task) for task in ("signs", "totals")}
    step = Step(model, {task: reader.blank_batch() for task, reader in readers.items()})
    out = step(batch_of(readers["signs"], [1, 2, 3]))
    assert out["loss"].detach() == out["signs/sign"]
    out["loss"].backward()
    used = [n for n, p in model.named_parameters() if ".norm." not in n or "heads" in n]
    assert all(model.get_parameter(n).grad is not None for n in used)
    assert (model.tokenizers["right"].linear.weight.grad == 0).all()
    assert model.tokenizers["left"].linear.weight.grad.abs().sum() > 0


def test_modules_run_in_one_order_whatever_the_task(make_model, make_reader):
    model = make_model()
    readers = {task: make_reader(model, task) for task in ("signs", "totals")}
    step = Step(model, {task: reader.blank_batch() for task, reader in readers.items()})
    orders = []
    for reader in readers.values():
        seen: list[str] = []
        hooks = [
            module.register_forward_hook(lambda *_, name=name, seen=seen: seen.append(name))
            for name, module in model.named_modules()
            if name.count(".") < 3
        ]
        step(batch_of(reader, [1, 2]))
        for hook in hooks:
            hook.remove()
        orders.append(seen)
    assert orders[0] == orders[1]


def test_eval_step_returns_predictions(make_model, make_reader):
    model = make_model().eval()
    out = Step(model, {})(batch_of(make_reader(model, train=False), [1, 2]))
    assert out["predictions/sign"].shape == (2, 2)
    assert out["present/sign"].all()


def test_bf16_autocast_is_close_to_fp32(make_model, make_reader):
    model = make_model().eval()
    batch = batch_of(make_reader(model, train=False), [1, 2, 3])
    exact = Step(model, {})(batch)["loss"]
    rough = Step(model, {}, torch.bfloat16)(batch)["loss"]
    assert rough.dtype == torch.float32
    assert exact != rough
    torch.testing.assert_close(exact, rough, rtol=2e-2, atol=2e-2)


def test_joint_pass_is_one_sequence():
    a = TokenBatch(torch.randn(2, 3, 4), torch.ones(2, 3, dtype=torch.bool), "a", num_prefix=1)
    b = TokenBatch(torch.randn(2, 2, 4), torch.zeros(2, 2, dtype=torch.bool), "b", num_prefix=1)
    joined = join([a, b])
    assert joined.x.shape == (2, 5, 4)
    assert joined.mask.tolist() == [[True] * 3 + [False] * 2] * 2
    assert joined.modality == "a+b"
    assert joined.num_prefix == 1
    assert join([a]) is a


def test_joint_pass_lets_streams_see_each_other(make_model, make_reader):
    model = make_model().eval()
    joint = MetaFormer(
        dict(model.tokenizers.items()),
        dict(model.encoders.items()),
        {"pair": Route(("left", "right"), "shared")},
        {},
        {},
        {},
    ).eval()
    left = batch_of(make_reader(model, train=False), [1, 2])
    right = batch_of(make_reader(model, "totals", train=False), [1, 2])
    left.streams |= right.streams
    left.present |= right.present
    both = joint.stream(left, "pair").x
    left.memo.clear()
    left.present["right"] = torch.zeros(2, dtype=torch.bool)
    alone = joint.stream(left, "pair")
    width = alone.mask[0].sum()
    assert not torch.allclose(both[0, :width], alone.x[0, :width])
    left.memo.clear()
    torch.testing.assert_close(alone.x[:, :3], model.stream(left, "left").x[:, :3], atol=1e-5, rtol=1e-5)


def test_train_keeps_frozen_parts_in_eval_mode(make_model):
    model = make_model()
    model.encoders.requires_grad_(False)
    model.tokenizers["left"].requires_grad_(False)
    model.train()
    assert not model.encoders["shared"].training
    assert not model.tokenizers["left"].norm.training
    assert model.tokenizers["right"].norm.training
    assert model.heads["sign"].training
    model.eval()
    assert not any(m.training for m in model.modules())


@pytest.mark.parametrize("name", ["left", "sign"])
def test_sources_of_streams_and_heads(make_model, name):
    assert make_model().sources(name) == {"left"}
