"""The recipes of the paper, as they stand but for size and data, and what a trained run says about a file."""

from __future__ import annotations

import json
from pathlib import Path

import av
import numpy as np
import pytest
from metaformer_plugin_video import views as views_module
from metaformer_plugin_video.views import main, predict_views, views

import metaformer
from metaformer.errors import DataError, UsageError
from metaformer.predict import predict_command
from metaformer.train import train_command

RECIPES = Path(__file__).parents[3] / "recipes"
CLASSES = ("Archery", "YoYo")
TINY = (
    *(
        "encoders.shared.dim=16",
        "encoders.shared.depth=1",
        "encoders.shared.num_heads=2",
        "encoders.shared.weights=null",
    ),
    *("tokenizers.video.image_size=32", "tokenizers.video.num_frames=4", "tokenizers.video.stride=2"),
    *("heads.label.num_classes=2", "engine={use: torch, micro_batch: 2}", "steps=2", "schedule.warmup=1"),
    *("batch_size=4", "loader.workers=0"),
)


def record(path: Path, seed: int, count: int = 30) -> None:
    """As UCF101 has them: AVI, MPEG-4, wider than high."""
    draw = np.random.default_rng(seed)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        (stream.width, stream.height), stream.pix_fmt = (64, 48), "yuv420p"
        for _ in range(count):
            pixels = draw.integers(0, 256, (48, 64, 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())


@pytest.fixture(scope="module")
def ucf101(tmp_path_factory):
    root = tmp_path_factory.mktemp("ucf101")
    lists = root / "ucfTrainTestlist"
    lists.mkdir()
    lists.joinpath("classInd.txt").write_text("1 Archery\n2 YoYo\n")
    for number, name in enumerate(CLASSES, 1):
        (root / "UCF-101" / name).mkdir(parents=True)
        for part, groups in (("train", (8, 9)), ("test", (1,))):
            for group in groups:
                file = f"{name}/v_{name}_g{group:02d}_c01.avi"
                record(root / "UCF-101" / file, seed=10 * number + group)
                with lists.joinpath(f"{part}list01.txt").open("a") as out:
                    out.write(f"{file} {number}\n" if part == "train" else f"{file}\n")
    return root


@pytest.fixture(scope="module")
def runs(ucf101, tmp_path_factory):
    """A run of each recipe."""
    found = {}
    for name in ("frozen", "tuned"):
        folder = tmp_path_factory.mktemp(name)
        data = [f"tasks.ucf101.data.{split}.root={ucf101}" for split in ("train", "valid")]
        train_command([RECIPES / "meta_transformer" / f"video_{name}.yaml"], [*TINY, *data, f"output={folder}"])
        (result,) = folder.rglob("result.json")
        found[name] = result.parent
    return found


@pytest.mark.parametrize("name", ["frozen", "tuned"])
def test_the_recipe_trains_on_a_small_folder_of_the_same_layout(runs, name):
    metrics = json.loads((runs[name] / "result.json").read_text())["this run"]["metrics"]
    assert {"ucf101/accuracy@1", "ucf101/accuracy@5"} <= set(metrics)
    assert all(value == value for value in metrics.values())


def test_a_file_is_predicted_from_the_command_line(runs, ucf101, capsys):
    file = ucf101 / "UCF-101/YoYo/v_YoYo_g01_c01.avi"
    predict_command(runs["frozen"], [str(file)], None)
    (line,) = capsys.readouterr().out.strip().splitlines()
    assert json.loads(line)["label"]["class"] in CLASSES


def test_views_are_clips_times_crops_and_their_probabilities_are_averaged(runs, ucf101):
    run = metaformer.load(runs["frozen"])
    file = ucf101 / "UCF-101/YoYo/v_YoYo_g01_c01.avi"
    preprocess = run.model.tokenizers["video"].preprocess
    seen = list(views(preprocess, file, clips=5, crops=3))
    assert len(seen) == 15
    assert {view.frames.shape for view in seen} == {(4, 32, 32, 3)}
    assert len({view.frames.tobytes() for view in seen}) == 15
    each = [run.predict(video=view)["label"]["probabilities"] for view in seen]
    found = predict_views(run, file)["label"]
    for name in CLASSES:
        assert found["probabilities"][name] == pytest.approx(np.mean([one[name] for one in each]), abs=1e-5)
    assert found["class"] == max(found["probabilities"], key=found["probabilities"].get)
    assert found["probability"] == max(found["probabilities"].values())


def test_one_view_is_what_predict_sees(runs, ucf101):
    run = metaformer.load(runs["frozen"])
    preprocess = run.model.tokenizers["video"].preprocess
    file = ucf101 / "UCF-101/Archery/v_Archery_g01_c01.avi"
    (view,) = views(preprocess, file, clips=1, crops=1)
    seen = preprocess(file, False)["pixels"].permute(0, 2, 3, 1).numpy()
    np.testing.assert_array_equal(view.frames, seen)


def test_crops_lie_along_the_longer_side():
    for shape in ((2, 32, 96, 3), (2, 96, 32, 3)):
        frames = np.zeros(shape, np.uint8)
        axis = 2 if shape[2] > shape[1] else 1
        for third, level in enumerate((10, 20, 30)):
            frames[(slice(None),) * axis + (slice(32 * third, 32 * third + 32),)] = level
        boxes = list(views_module._boxes(frames, (16, 16), 3))
        assert [set(box.ravel().tolist()) for box in boxes] == [{10}, {20}, {30}]


def test_the_command_prints_a_line_per_video(runs, ucf101, capsys):
    file = str(ucf101 / "UCF-101/YoYo/v_YoYo_g01_c01.avi")
    assert main([str(runs["frozen"]), file, "--clips", "2", "--crops", "1"]) == 0
    assert json.loads(capsys.readouterr().out)["id"] == file
    with pytest.raises(SystemExit) as ended:
        main([str(runs["frozen"]), str(ucf101 / "absent.avi")])
    assert ended.value.code == DataError.exit_code


def test_views_of_no_video_stream(runs):
    with pytest.raises(UsageError):
        predict_views(metaformer.load(runs["frozen"]), "a.mp4", stream="image")
