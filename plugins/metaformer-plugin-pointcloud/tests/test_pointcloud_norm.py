"""Batch norm over what is there."""

import pytest
import torch
from metaformer_plugin_pointcloud.norm import MaskedBatchNorm
from torch import distributed, nn


def test_without_padding_it_is_torch_batch_norm():
    torch.manual_seed(0)
    ours, theirs = MaskedBatchNorm(5), nn.BatchNorm1d(5)
    x = torch.randn(40, 5) * 3 + 1
    whole = torch.ones(40, dtype=torch.bool)
    for _ in range(3):
        torch.testing.assert_close(ours(x, whole), theirs(x))
    torch.testing.assert_close(ours.mean, theirs.running_mean)
    torch.testing.assert_close(ours.variance, theirs.running_var)
    ours.eval(), theirs.eval()
    torch.testing.assert_close(ours(x, whole), theirs(x))


def test_padding_counts_in_no_statistic():
    torch.manual_seed(0)
    x = torch.randn(2, 9, 5)
    mask = torch.zeros(2, 9, dtype=torch.bool)
    mask[0, :4] = mask[1, :7] = True
    few, many = MaskedBatchNorm(5), MaskedBatchNorm(5)
    padded = x.masked_fill(~mask.unsqueeze(-1), 99.0)
    torch.testing.assert_close(few(x[mask], torch.ones(11, dtype=torch.bool)), many(padded, mask)[mask])
    torch.testing.assert_close(few.mean, many.mean)
    torch.testing.assert_close(few.variance, many.variance)


@pytest.mark.parametrize("there", [0, 1])
def test_too_few_leave_the_statistics_alone(there):
    norm = MaskedBatchNorm(3)
    x = torch.full((4, 3), 50.0, requires_grad=True)
    out = norm(x, torch.arange(4) < there)
    (0.0 * out.sum()).backward()
    assert out.isfinite().all()
    assert x.grad.isfinite().all()
    assert norm.mean.eq(0).all()
    assert norm.variance.eq(1).all()


def test_statistics_stay_in_float32():
    norm = MaskedBatchNorm(3).bfloat16()
    assert norm.mean.dtype == norm.variance.dtype == torch.float32
    assert norm(torch.randn(8, 3).bfloat16(), torch.ones(8, dtype=torch.bool)).dtype == torch.bfloat16


def follow(rank: int, folder: str) -> None:
    if distributed.is_initialized():
        distributed.destroy_process_group()  # of a training in the process that was forked
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    norm = MaskedBatchNorm(2)
    x = torch.tensor([[1.0, 2.0], [3.0, 4.0], [8.0, 9.0]]) * (rank + 1)
    norm(x, torch.ones(3, dtype=torch.bool) if rank else torch.zeros(3, dtype=torch.bool))
    torch.save(norm.state_dict(), f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.ranks
def test_ranks_agree_on_running_statistics(tmp_path):
    # Forked: starting torch twice would take seconds.
    torch.multiprocessing.start_processes(follow, (str(tmp_path),), nprocs=2, start_method="fork")
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    assert all(torch.equal(first[key], second[key]) for key in first)
    torch.testing.assert_close(first["mean"], torch.tensor([0.8, 1.0]))  # rank 1 alone has seen anything
