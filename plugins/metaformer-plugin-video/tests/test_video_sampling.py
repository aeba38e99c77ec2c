"""Which frames: evenly spread views, random starts within bounds, rates by the frames' own times."""

from __future__ import annotations

import random

import numpy as np
import pytest
from metaformer_plugin_video.preprocess import VideoPreprocess
from metaformer_plugin_video.sampling import clip_indices, random_clip, segment_indices, timed_clip
from metaformer_plugin_video.source import ArrayVideo, Limits

from metaformer.errors import DataError


@pytest.mark.parametrize(("total", "frames", "stride", "clips"), [(300, 16, 4, 5), (64, 16, 4, 5), (100, 8, 3, 2)])
def test_clips_go_from_the_first_frame_to_the_last(total, frames, stride, clips):
    views = [clip_indices(total, frames, stride, clip, clips) for clip in range(clips)]
    span = (frames - 1) * stride + 1
    assert views[0][0] == 0
    assert views[-1][-1] == total - 1
    starts = [int(view[0]) for view in views]
    assert starts == [(total - span) * clip // (clips - 1) for clip in range(clips)]
    assert all((np.diff(view) == stride).all() and len(view) == frames for view in views)


def test_one_clip_is_in_the_middle():
    assert clip_indices(100, 4, 2).tolist() == [46, 48, 50, 52]
    assert clip_indices(7, 4, 2).tolist() == [0, 2, 4, 6]


@pytest.mark.parametrize("total", [1, 2, 6])
def test_short_videos_give_what_they_have(total):
    for indices in (clip_indices(total, 4, 2), clip_indices(total, 4, 2, 3, 5), random_clip(total, 4, 2)):
        assert indices.tolist() == list(range(0, total, 2))[:4]
    assert segment_indices(total, 8).tolist() == list(range(total))


def test_random_clips_reach_both_ends_and_stay_inside():
    random.seed(0)
    starts = set()
    for _ in range(300):
        indices = random_clip(20, 4, 3)
        assert (np.diff(indices) == 3).all()
        assert indices[0] >= 0
        assert indices[-1] < 20
        starts.add(int(indices[0]))
    assert starts == set(range(11))


def test_segments_take_one_frame_out_of_each_part():
    assert segment_indices(100, 4).tolist() == [12, 37, 62, 87]
    random.seed(0)
    for _ in range(50):
        indices = segment_indices(103, 5, train=True)
        assert np.searchsorted([20, 41, 61, 82], indices, side="right").tolist() == [0, 1, 2, 3, 4]


def test_a_rate_goes_by_the_frames_own_times():
    regular = np.arange(100) / 25
    # 5 per second of 25 per second is every fifth.
    assert np.diff(timed_clip(regular, 8, 5.0)).tolist() == [5] * 7
    assert timed_clip(regular, 4, 5.0, 0, 2).tolist() == [0, 5, 10, 15]
    # Slow at first, then fast: frames are as far apart as their times are.
    slow = np.concatenate([np.arange(10) / 10, 1 + np.arange(40) / 40])
    assert timed_clip(slow, 4, 2.0, 0, 2).tolist() == [0, 5, 10, 30]
    assert timed_clip(slow, 8, 2.0).tolist() == [0, 5, 10, 30]  # no more than there is
    random.seed(0)
    for _ in range(50):
        indices = timed_clip(slow, 3, 4.0, train=True)
        assert len(indices) == 3
        assert indices[0] >= 0
        assert indices[-1] < 50


def test_a_rate_needs_times():
    preprocess = VideoPreprocess((8, 8), 3, 4, 2, frame_rate=5.0)
    with pytest.raises(DataError, match="stride"):
        preprocess.choose(ArrayVideo(np.zeros((9, 8, 8, 3), np.uint8), Limits()), False)
