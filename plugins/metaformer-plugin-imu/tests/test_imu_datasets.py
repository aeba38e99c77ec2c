"""Data sets of motion: bundled, official layouts, clips, and the paper's recipes on a small folder of the layout."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from metaformer_plugin_imu.archive import GESTURES, BasicMotions, PickupGesture
from metaformer_plugin_imu.clips import Ego4dImu, ImuClips
from metaformer_plugin_imu.har import UciHar
from metaformer_plugin_imu.tokenizer import ImuTokenizer

from metaformer.errors import DataError
from metaformer.train import train_command

RECIPES = Path(__file__).parents[3] / "recipes" / "meta_transformer"
RNG = np.random.default_rng(0)


def test_bundled_sets_are_the_archives() -> None:
    pytest.importorskip("aeon")
    for split in ("train", "valid"):
        motions, gestures = BasicMotions(split=split), PickupGesture(split=split)
        assert (len(motions), len(gestures)) == (40, 50)
        assert motions[0]["motion"]["values"].shape == (100, 6)
        assert sorted({gestures[i]["label"] for i in range(50)}) == sorted(GESTURES)
        assert motions.classes["label"] == ("Standing", "Running", "Walking", "Badminton")


def write_har(root: Path, test_people: tuple[int, ...] = (2, 4)) -> dict[str, np.ndarray]:
    (root / "train" / "Inertial Signals").mkdir(parents=True)
    (root / "test" / "Inertial Signals").mkdir(parents=True)
    (root / "activity_labels.txt").write_text("1 WALKING\n2 SITTING\n3 STANDING\n")
    out = {}
    for part, people in (("train", (1, 3)), ("test", test_people)):
        count = 6
        (root / part / f"y_{part}.txt").write_text("".join(f"{1 + i % 3}\n" for i in range(count)))
        (root / part / f"subject_{part}.txt").write_text("".join(f"{people[i % len(people)]}\n" for i in range(count)))
        for signal in ("total_acc", "body_acc", "body_gyro"):
            for axis in "xyz":
                out[f"{part}/{signal}_{axis}"] = values = RNG.normal(size=(count, 128)).astype(np.float32)
                lines = [" ".join(f" {x: .7e}" for x in row) for row in values]
                (root / part / "Inertial Signals" / f"{signal}_{axis}_{part}.txt").write_text("\n".join(lines) + "\n")
    return out


def test_uci_har(tmp_path: Path) -> None:
    written = write_har(tmp_path)
    train = UciHar(root=tmp_path, split="train")
    valid = UciHar(root=tmp_path, split="valid", signals=("body_acc", "body_gyro", "total_acc"))
    assert train.classes == {"label": ("walking", "sitting", "standing")}
    assert train[4]["label"] == "sitting"
    assert not set(train.people.tolist()) & set(valid.people.tolist())
    assert train[1]["motion"]["rate"] == 50
    np.testing.assert_allclose(train[1]["motion"]["values"][:, 4], written["train/body_gyro_y"][1], rtol=1e-5)
    assert valid[5]["motion"]["values"].shape == (128, 9)
    copy = pickle.loads(pickle.dumps(train))
    np.testing.assert_array_equal(copy[1]["motion"]["values"], train[1]["motion"]["values"])
    before = train.fingerprint()
    path = tmp_path / "train" / "Inertial Signals" / "total_acc_x_train.txt"
    path.write_text(path.read_text().replace("1", "2"))
    assert UciHar(root=tmp_path, split="train").fingerprint() != before


def test_uci_har_that_is_damaged(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="UCI HAR Dataset"):
        UciHar(root=tmp_path, split="train")
    write_har(tmp_path / "leak", test_people=(3, 4))
    with pytest.raises(DataError, match=r"people \[3\] in both"):
        UciHar(root=tmp_path / "leak", split="train")
    write_har(tmp_path / "cut")
    path = tmp_path / "cut" / "train" / "Inertial Signals" / "total_acc_x_train.txt"
    for text in (path.read_text()[:-40], "x" + path.read_text(), "", "\xff"):
        path.write_text(text)
        with pytest.raises(DataError, match="total_acc_x_train"):
            UciHar(root=tmp_path / "cut", split="train")[0]
    (tmp_path / "cut" / "train" / "y_train.txt").write_text("7\n" * 6)
    with pytest.raises(DataError, match="activities 1 to 3"):
        UciHar(root=tmp_path / "cut", split="train")


HEADER = "component_idx,component_timestamp_ms,canonical_timestamp_ms,gyro_x,gyro_y,gyro_z,accl_x,accl_y,accl_z"


def write_video(path: Path, seconds: int = 60, rate: float = 50.0, label: int = 0) -> np.ndarray:
    """A recording as Ego4D has them: some times out of order, some empty, some channels lacking."""
    count = int(seconds * rate)
    times = np.arange(count) * 1000 / rate
    values = RNG.normal(label, 1, (count, 6))
    order = np.arange(count)
    order[100:120] = order[100:120][::-1]
    lines = [HEADER]
    for at in order:
        canonical = "" if at % 97 == 0 else repr(float(times[at]))
        cells = ["NULL" if at % 101 == 0 else repr(float(x)) for x in values[at]]
        lines.append(",".join(["0", repr(float(times[at])), canonical, *cells]))
    path.write_text("\n".join(lines) + "\n")
    return values


def write_ego4d(root: Path, videos: int = 12) -> dict[str, np.ndarray]:
    (root / "imu").mkdir(parents=True)
    values, lines = {}, ["video_uid,start,end,label"]
    for number in range(videos):
        name = f"video-{number:02d}"
        values[name] = write_video(root / "imu" / f"{name}.csv", label=number % 2)
        lines += [f"{name},{start},{start + 5},{('rest', 'move')[number % 2]}" for start in (0, 17.5, 55)]
    (root / "clips.csv").write_text("\n".join(lines) + "\n")
    return values


def test_clips_are_the_seconds_they_say(tmp_path: Path) -> None:
    values = write_ego4d(tmp_path)
    data = Ego4dImu(root=tmp_path, clips=tmp_path / "clips.csv", split="all")
    assert len(data) == 36
    for index, clip in enumerate(data.clips):
        value = data[index]["motion"]
        first = int(clip.start * 50)
        kept = np.array([at for at in range(first, first + 250) if at % 97])
        order = np.argsort(value["timestamps"], kind="stable")
        np.testing.assert_allclose(value["timestamps"][order], (kept - first) / 50, atol=1e-9)
        expected = values[clip.recording][kept][:, [3, 4, 5, 0, 1, 2]]
        expected[kept % 101 == 0] = np.nan
        np.testing.assert_allclose(value["values"][order], expected)


def test_clips_become_tokens(tmp_path: Path) -> None:
    write_ego4d(tmp_path, videos=1)
    data = Ego4dImu(root=tmp_path, clips=tmp_path / "clips.csv", split="all")
    tokenizer = ImuTokenizer(16, max_length=250, rate=50.0, patch_length=10)
    raw = tokenizer.preprocess(data[1]["motion"], False)
    assert raw["values"].shape == (250, 6)
    assert raw["observed"].all()


def test_nobody_is_on_both_sides(tmp_path: Path) -> None:
    write_ego4d(tmp_path)
    knobs = {"root": tmp_path / "imu", "columns": ("accl_x",), "time_column": "canonical_timestamp_ms"}
    knobs |= {"time_unit": "ms", "valid_share": 0.4}
    lines = (tmp_path / "clips.csv").read_text().splitlines()
    people = ["subject", *(f"person{(number // 3) // 2}" for number in range(36))]
    with_people = [f"{line},{person}" for line, person in zip(lines, people, strict=True)]
    for name, text in (("a.csv", lines), ("b.csv", with_people)):
        (tmp_path / name).write_text("\n".join(text).replace("video_uid", "recording"))
        train, valid = (ImuClips(clips=tmp_path / name, split=split, **knobs) for split in ("train", "valid"))
        assert len(train) + len(valid) == 36
        sides = [{clip.recording for clip in data.clips} for data in (train, valid)]
        assert not sides[0] & sides[1]
        if name == "b.csv":
            groups = [{int(recording[-2:]) // 2 for recording in side} for side in sides]
            assert not groups[0] & groups[1]
    assert train.classes == valid.classes == {"label": ("move", "rest")}


@pytest.mark.parametrize(
    "line",
    ["../secret,0,5,a", "video-00,5,0,a", "video-00,0,nan,a", "video-00,0,5,", "video-00,0,x,a", "video-00", ",0,5,a"],
)
def test_lists_of_clips_that_cannot_be_used(tmp_path: Path, line: str) -> None:
    write_ego4d(tmp_path, videos=1)
    (tmp_path / "clips.csv").write_text(f"video_uid,start,end,label\n{line}\n")
    with pytest.raises(DataError):
        Ego4dImu(root=tmp_path, clips=tmp_path / "clips.csv", split="all")


def test_recordings_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="licence"):
        Ego4dImu(root=tmp_path, clips=tmp_path / "clips.csv", split="all")
    write_ego4d(tmp_path, videos=1)
    data = Ego4dImu(root=tmp_path, clips=tmp_path / "clips.csv", split="all")
    path = tmp_path / "imu" / "video-00.csv"
    whole = path.read_bytes()
    for content in (
        b"",
        b"a,b\n1,2\n",
        whole[:200],
        b"\xff" * 9999,
        whole.replace(b",", b";"),
        HEADER.encode() + b"\n",
    ):
        path.write_bytes(content)
        with pytest.raises(DataError):
            data[2]
    path.unlink()
    with pytest.raises(DataError):
        data[0]


@pytest.mark.parametrize("kind", ["frozen", "tuned"])
def test_the_papers_recipes_train_on_a_small_folder_of_the_layout(kind: str, tmp_path: Path) -> None:
    write_ego4d(tmp_path)
    sets = []
    for which in ("train", "valid"):
        sets += [
            f"tasks.clips.data.{which}.root={tmp_path}",
            f"tasks.clips.data.{which}.clips={tmp_path / 'clips.csv'}",
        ]
    sets += ["encoders.shared.dim=32", "encoders.shared.depth=1", "encoders.shared.num_heads=2", "steps=2"]
    sets += ["encoders.shared.weights=null", "engine={use: torch}", "batch_size=4", "loader.workers=0"]
    sets += ["schedule.warmup=1", "heads.label.num_classes=2", f"output={tmp_path / 'runs'}"]
    train_command([RECIPES / f"imu_{kind}.yaml"], sets)
    (result,) = tmp_path.rglob("result.json")
    metrics = json.loads(result.read_text())["this run"]["metrics"]
    assert set(metrics) == {"clips/loss", "clips/accuracy"}
    assert all(value == value for value in metrics.values())
