"""Testing on several views of a video, their answers averaged: `python -m metaformer_plugin_video.views RUN VIDEO`.

Source: the protocol of SlowFast (arXiv 1812.03982) and VideoMAE (arXiv 2203.12602): clips spread over time, times
crops along the longer side.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from typing import Any, cast

import numpy as np
from jaxtyping import UInt8

import metaformer
from metaformer.arrays.raster import resample
from metaformer.errors import DataError, MetaformerError, UsageError
from metaformer_plugin_video.preprocess import VideoPreprocess
from metaformer_plugin_video.source import Clip, open_video


def predict_views(run: Any, video: Any, *, clips: int = 5, crops: int = 3, stream: str | None = None) -> dict[str, Any]:
    """What every head says of a video, averaged over `clips` x `crops` views.

    `run` is what `metaformer.load` returns; `stream` the tokenizer that reads the video, the only one by default.
    Classes: the mean of the views' probabilities. Numbers and embeddings: their means. Raises DataError."""
    names = [name for name, t in run.model.tokenizers.items() if isinstance(t.preprocess, VideoPreprocess)]
    if stream is None and len(names) == 1:
        stream = names[0]
    if stream not in names:
        raise UsageError("a stream of videos", f"{stream}", f"name one of {', '.join(names)}")
    preprocess = cast(VideoPreprocess, run.model.tokenizers[stream].preprocess)
    samples = [{stream: view} for view in views(preprocess, video, clips, crops)]
    answers = list(run.predict_many(samples, batch=crops))
    return {head: _mean([answer[head] for answer in answers]) for head in answers[0]}


def views(preprocess: VideoPreprocess, value: Any, clips: int = 5, crops: int = 3) -> Iterator[Clip]:
    """Clips from the first frame to the last; of each, squares (or what has the tokenizer's shape) along the side that
    is too long, from left to right or from top to bottom."""
    if preprocess.sampling == "segments" and clips > 1:
        raise UsageError(f"{clips} clips", "sampling: segments takes one clip of the whole video", "ask for clips 1")
    with open_video(value, preprocess.limits, preprocess.decoder) as video:
        if video.total == 0:
            raise DataError(f"views of {video.name}", "no frames")
        for clip in range(clips):
            chosen = [int(index) for index in preprocess.choose(video, False, clip, clips)]
            for box in _boxes(video.read(chosen), preprocess.size, crops):
                pixels = resample(preprocess.gray_or_color(box), preprocess.size)
                yield Clip(pixels.permute(0, 2, 3, 1).contiguous().numpy())


def _boxes(
    frames: UInt8[np.ndarray, "F H W C"], size: tuple[int, int], crops: int
) -> Iterator[UInt8[np.ndarray, "F h w C"]]:
    height, width = frames.shape[1:3]
    scale = min(height / size[0], width / size[1])
    box_h, box_w = max(round(size[0] * scale), 1), max(round(size[1] * scale), 1)
    for crop in range(crops):
        share = 0.5 if crops == 1 else crop / (crops - 1)
        top, left = round((height - box_h) * share), round((width - box_w) * share)
        yield frames[:, top : top + box_h, left : left + box_w]


def _mean(answers: Sequence[Any]) -> Any:
    """The mean of what the views say, in the same form."""
    first = answers[0]
    if isinstance(first, list):
        if first and isinstance(first[0], dict):  # a class per token: views have different tokens
            return first
        return np.mean(answers, axis=0).tolist()
    names = list(first["probabilities"])
    shares = np.mean([[answer["probabilities"][name] for name in names] for answer in answers], axis=0)
    probabilities = dict(zip(names, shares.tolist(), strict=True))
    if "classes" in first:
        return {"classes": [name for name, p in probabilities.items() if p >= 0.5], "probabilities": probabilities}
    best = int(shares.argmax())
    found = {"class": names[best], "index": best, "probability": float(shares[best])}
    return found | {"probabilities": probabilities}


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints one line of JSON per video; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m metaformer_plugin_video.views", description=__doc__)
    parser.add_argument("run", help="a run directory, or the folder of a recipe's runs")
    parser.add_argument("videos", nargs="+", metavar="VIDEO")
    parser.add_argument("--clips", type=int, default=5)
    parser.add_argument("--crops", type=int, default=3)
    parser.add_argument("--checkpoint", default="best")
    given = parser.parse_args(arguments)
    try:
        run = metaformer.load(given.run, given.checkpoint)
        for video in given.videos:
            found = predict_views(run, video, clips=given.clips, crops=given.crops)
            print(json.dumps({"id": video, **found}))
    except MetaformerError as error:
        parser.exit(error.exit_code, f"{error}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
