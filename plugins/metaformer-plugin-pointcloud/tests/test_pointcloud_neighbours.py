"""Farthest point sampling and nearest neighbours beside brute force, and what they promise."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from metaformer_plugin_pointcloud.neighbours import farthest_points, nearest, take


def clouds(kind: str, rows: int = 3, points: int = 60) -> torch.Tensor:
    draw = torch.Generator().manual_seed(1)
    if kind == "lattice":  # ties everywhere
        return torch.randint(0, 3, (rows, points, 3), generator=draw).float()
    return torch.randn(rows, points, 3, generator=draw)


def square(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    # As float32 sums them, so that ties are ties.
    d = (a - b) ** 2
    return d[..., 0] + d[..., 1] + d[..., 2]


def farthest_by_hand(points: torch.Tensor, count: int, start: int = 0) -> list[int]:
    order = [start]
    while len(order) < count:
        far = [min(float(square(p, points[j])) for j in order) for p in points]
        left = [i for i in range(len(points)) if i not in order]
        order.append(max(left, key=lambda i: (far[i], -i)))  # the lowest index of the farthest
    return order


@pytest.mark.parametrize("kind", ["random", "lattice"])
def test_sampling_is_brute_force(kind):
    points = clouds(kind)
    found = farthest_points(points, torch.ones(3, 60, dtype=torch.bool), 12)
    assert found.tolist() == [farthest_by_hand(cloud, 12) for cloud in points]


@pytest.mark.parametrize("kind", ["random", "lattice"])
def test_neighbours_are_brute_force(kind):
    points = clouds(kind)
    queries = points[:, :7] + (0.1 if kind == "random" else 0)
    index, found, squares = nearest(queries, points, torch.ones(3, 60, dtype=torch.bool), 9)
    for row in range(3):
        for q in range(7):
            d = [float(square(queries[row, q], p)) for p in points[row]]
            best = sorted(range(60), key=lambda i: (d[i], i))[:9]
            assert index[row, q].tolist() == best
            assert squares[row, q].tolist() == [d[i] for i in best]
    assert found.all()


def test_both_agree_with_other_implementations():
    points = clouds("random", 1, 200)[0]
    whole = torch.ones(1, 200, dtype=torch.bool)
    found = farthest_points(points[None], whole, 40)[0].tolist()
    fpsample = pytest.importorskip("fpsample")
    assert found == fpsample.fps_sampling(points.numpy(), 40, start_idx=0).tolist()
    scipy = pytest.importorskip("scipy.spatial")
    _, index = scipy.cKDTree(points.double().numpy()).query(points[:20].double().numpy(), k=8)
    assert nearest(points[None, :20], points[None], whole, 8)[0][0].tolist() == index.tolist()


def test_least_distances_fall_and_no_point_comes_twice():
    points = clouds("random", 1, 50)
    order = farthest_points(points, torch.ones(1, 50, dtype=torch.bool), 50)[0]
    assert sorted(order.tolist()) == list(range(50))
    d = torch.cdist(points[0, order].double(), points[0, order].double())
    least = [float(d[i, :i].min()) for i in range(1, 50)]
    assert all(a >= b - 1e-6 for a, b in pairwise(least))


def test_duplicates_are_chosen_last_and_by_index():
    points = torch.zeros(1, 6, 3)
    points[0, 4, 0] = 1.0
    order = farthest_points(points, torch.ones(1, 6, dtype=torch.bool), 6)
    assert order.tolist() == [[0, 4, 1, 2, 3, 5]]


@pytest.mark.parametrize("kind", ["random", "lattice"])
def test_padding_changes_nothing(kind):
    points = clouds(kind)
    mask = torch.ones(3, 60, dtype=torch.bool)
    wide = torch.cat([points, torch.full((3, 13, 3), 7.0)], dim=1)
    padded = torch.cat([mask, torch.zeros(3, 13, dtype=torch.bool)], dim=1)
    assert torch.equal(farthest_points(points, mask, 60), farthest_points(wide, padded, 73)[:, :60])
    few, many = nearest(points, points, mask, 60), nearest(points, wide, padded, 73)
    assert torch.equal(few[0], many[0][..., :60])
    assert many[1].sum(dim=2).eq(60).all()
    assert torch.equal(many[0][..., 60:], many[0][..., :1].expand(-1, -1, 13))


def test_sampling_does_not_see_where_a_cloud_is_or_how_it_is_turned():
    points = clouds("random").double()
    mask = torch.ones(3, 60, dtype=torch.bool)
    turn, _ = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2)))
    moved = points @ turn + torch.tensor([3.0, -5.0, 2.0], dtype=torch.float64)
    assert torch.equal(farthest_points(points, mask, 30), farthest_points(moved, mask, 30))


def test_order_of_points_decides_nothing_but_the_start():
    points = clouds("random")
    mask = torch.ones(3, 60, dtype=torch.bool)
    order = torch.from_numpy(np.random.default_rng(0).permutation(60))
    start = torch.full((3,), int((order == 5).nonzero()))
    mixed = farthest_points(points[:, order], mask, 20, start)
    assert torch.equal(order[mixed], farthest_points(points, mask, 20, torch.full((3,), 5)))


def test_large_clouds_go_in_parts(monkeypatch):
    points = clouds("random")
    mask = torch.ones(3, 60, dtype=torch.bool)
    whole = nearest(points, points, mask, 5)
    monkeypatch.setattr("metaformer_plugin_pointcloud.neighbours.CHUNK", 3 * 60 * 7)
    assert all(torch.equal(a, b) for a, b in zip(whole, nearest(points, points, mask, 5), strict=True))


def test_no_real_point_is_no_error():
    points, mask = torch.zeros(2, 1, 3), torch.zeros(2, 1, dtype=torch.bool)
    assert farthest_points(points, mask, 1).tolist() == [[0], [0]]
    index, found, square = nearest(points, points, mask, 1)
    assert not found.any()
    assert index.eq(0).all()
    assert take(points, index).isfinite().all()
    assert square.shape == (2, 1, 1)
