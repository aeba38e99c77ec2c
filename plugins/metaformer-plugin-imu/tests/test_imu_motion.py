"""Grids of time, gravity and rotations."""

from __future__ import annotations

import numpy as np
import pytest
from metaformer_plugin_imu.motion import on_grid, random_rotation, triads, without_gravity

from metaformer.errors import DataError

RNG = np.random.default_rng(0)


def grid(
    values: np.ndarray, times: np.ndarray, rate: float = 10.0, gap: float = 0.5, longest: int = 1000
) -> np.ndarray:
    return on_grid(values.reshape(len(values), -1).astype(float), times.astype(float), rate, gap, longest)


def test_the_grid_a_recording_has_already_changes_nothing() -> None:
    values = RNG.normal(size=(137, 3))
    for rate in (3.0, 7.3, 200.0):
        np.testing.assert_allclose(on_grid(values, 5 + np.arange(137) / rate, rate, 1.0, 1000), values, atol=1e-9)


def test_lines_stay_lines_at_any_rate() -> None:
    times = np.sort(RNG.uniform(0, 4, 200))
    found = grid(3 * times - 1, times, rate=23.0)
    place = times[0] + np.arange(len(found)) / 23
    there = ~np.isnan(found[:, 0])
    assert there.mean() > 0.95
    np.testing.assert_allclose(found[there, 0], 3 * place[there] - 1, atol=1e-9)
    assert place[-1] <= times[-1] + 1e-6


def test_gaps_are_missing_and_not_bridged() -> None:
    times = np.r_[np.arange(0, 1.01, 0.1), np.arange(3, 4.01, 0.1)]
    found = grid(times, times)[:, 0]
    assert len(found) == 41
    there = ~np.isnan(found)
    assert there[:11].all()
    assert not there[11:30].any()
    assert there[30:].all()
    assert not np.isnan(grid(times, times, gap=2.0)).any()


def test_short_gaps_of_one_channel_are_bridged_and_its_ends_are_not_invented() -> None:
    times = np.arange(20) / 10
    values = np.stack([times, times], axis=1)
    values[5:8, 0] = np.nan
    values[[0, 1, 19], 1] = np.nan
    found = on_grid(values, times, 10.0, 0.5, 100)
    np.testing.assert_allclose(found[:, 0], times)
    assert np.isnan(found[:, 1]).tolist() == [True, True, *[False] * 17, True]


def test_order_unknown_times_and_doubles_do_not_matter() -> None:
    times, values = np.arange(30) / 10, RNG.normal(size=30)
    order = RNG.permutation(30)
    shuffled = np.r_[times[order], np.nan, times[order][-1]]
    np.testing.assert_allclose(grid(np.r_[values[order], 99, 99], shuffled), grid(values, times), atol=1e-9)


@pytest.mark.parametrize("times", [[np.nan, np.nan], [0, 1e9], [-1e300, 1e300]])
def test_times_that_make_no_grid_are_refused(times: list[float]) -> None:
    with pytest.raises(DataError):
        grid(np.zeros(2), np.array(times))


def test_gravity_is_what_does_not_change() -> None:
    time = np.arange(400) / 50
    shake = np.sin(2 * np.pi * 5 * time)
    moving = without_gravity(np.stack([shake + 9.81, shake - 3.0], axis=1), 50)
    np.testing.assert_allclose(moving[50:-50], np.stack([shake, shake], axis=1)[50:-50], atol=0.05)
    gappy = np.full((5, 1), 9.81)
    gappy[2] = np.nan
    np.testing.assert_allclose(without_gravity(gappy, 3)[[0, 1, 3, 4]], 0, atol=1e-12)


@pytest.mark.parametrize("degrees", [0.0, 10.0, 180.0])
def test_rotations_turn_and_do_nothing_else(degrees: float) -> None:
    np.random.seed(0)
    for _ in range(20):
        turn = random_rotation(degrees)
        np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-12)
        assert np.linalg.det(turn) == pytest.approx(1)
        angle = np.rad2deg(np.arccos(np.clip((np.trace(turn) - 1) / 2, -1, 1)))
        assert angle <= degrees + 1e-5


def test_triads_are_found_by_name() -> None:
    names = ("acc_x", "gyro_z", "acc_z", "acc_y", "gyro_x", "temperature", "gyro_y", "mag_x", "mag_y")
    assert triads(names) == [(0, 3, 2), (4, 6, 1)]
