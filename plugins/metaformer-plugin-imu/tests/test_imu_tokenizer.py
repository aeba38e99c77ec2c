"""The IMU tokenizer: units, files, augmentation, and ImageBind's published stem."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from metaformer_plugin_imu.tokenizer import ImuTokenizer
from torch import nn

from metaformer.errors import DataError, MetaformerError, WeightsError
from metaformer.types import TokenBatch

RNG = np.random.default_rng(0)
MOTION = RNG.normal(size=(40, 6))


def build(**knobs: Any) -> ImuTokenizer:
    torch.manual_seed(0)
    return ImuTokenizer(16, **{"max_length": 40, "normalize": "none", "patch_length": 4, **knobs}).eval()


def run(tokenizer: ImuTokenizer, *values: Any) -> TokenBatch:
    pre = tokenizer.preprocess
    with torch.no_grad():
        tokens: TokenBatch = tokenizer(pre.collate([pre(value, False) for value in values]))
    return tokens


class PublishedStem(nn.Module):
    """ImageBind's IMU branch up to its trunk, after its description, with its names."""

    def __init__(self, dim: int = 512) -> None:
        super().__init__()
        self.imu_stem = nn.ModuleDict({"proj": nn.Linear(48, dim, bias=False), "norm_layer": nn.LayerNorm(dim)})
        self.cls_token = nn.Parameter(torch.randn(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.randn(1, 251, dim))
        nn.init.normal_(self.imu_stem["norm_layer"].weight)
        nn.init.normal_(self.imu_stem["norm_layer"].bias)

    def forward(self, imu: torch.Tensor) -> torch.Tensor:
        windows = torch.stack(imu.split(8, dim=2), dim=1).flatten(2)
        x = self.imu_stem["norm_layer"](self.imu_stem["proj"](windows))
        return torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1) + self.pos_embed


def published() -> tuple[PublishedStem, dict[str, torch.Tensor]]:
    torch.manual_seed(1)
    model = PublishedStem()
    prefix = "modality_preprocessors.imu."
    state = {f"{prefix}{name}": tensor.detach() for name, tensor in model.state_dict().items()}
    other = {"modality_preprocessors.vision.cls_token": torch.zeros(1, 1, 1280)}
    other["modality_preprocessors.thermal.pos_embedding_helper.pos_embed"] = torch.zeros(1, 197, 768)
    return model, {**other, **state}


def test_imagebinds_stem_is_the_published_one() -> None:
    model, state = published()
    ours = ImuTokenizer(512, max_length=2000, stem="imagebind", normalize="none")
    ours.load_state_dict(dict(ours.translate(state)))
    values = RNG.normal(size=(2, 2000, 6))
    expected = model(torch.tensor(values, dtype=torch.float32).transpose(1, 2))
    found = run(ours, *values)
    assert found.x.shape == (2, 251, 512)
    torch.testing.assert_close(found.x, expected, atol=1e-4, rtol=1e-4)


def test_imagebinds_weights_fit_shorter_recordings_and_no_others() -> None:
    model, state = published()
    short = ImuTokenizer(512, max_length=100, stem="imagebind", normalize="none")
    short.load_state_dict(dict(short.translate(state)))
    assert torch.equal(short.embed.positions, model.pos_embed[0, :14])
    with pytest.raises(WeightsError, match="max_length is at most 2000"):
        ImuTokenizer(512, max_length=2001, stem="imagebind").translate(state)
    with pytest.raises(WeightsError, match="without imu_stem"):
        short.translate({"modality_preprocessors.vision.cls_token": torch.zeros(1)})
    own = dict(short.state_dict())
    assert dict(short.translate(own)) == own


def test_units_become_metres_and_radians() -> None:
    plain = build().preprocess
    other = build(accelerometer_unit="g", gyroscope_unit="deg/s").preprocess
    factor = np.r_[[9.80665] * 3, [np.pi / 180] * 3]
    np.testing.assert_allclose(other.read(MOTION), plain.read(MOTION) * factor)


def test_recordings_come_in_many_forms(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    names = ("acc_x", "acc_y", "acc_z", "gyro_x", "gyro_y", "gyro_z")
    times = np.arange(40) * 20.0
    np.save(tmp_path / "a.npy", MOTION)
    table = np.column_stack([MOTION, times])
    header = ",".join([*names, "ms"])
    np.savetxt(tmp_path / "a.csv", table, delimiter=",", header=header, comments="", fmt="%.17g")
    pq.write_table(pa.table(dict(zip((*names, "ms"), table.T, strict=True))), tmp_path / "a.parquet")
    case = ":".join(",".join(f"{x:.17g}" for x in channel) for channel in MOTION.T)
    (tmp_path / "a.ts").write_text(f"@problemName a\n@classLabel false\n@data\n{case}\n")
    plain = build(columns=names).preprocess
    for value in (tmp_path / "a.csv", tmp_path / "a.parquet", MOTION, torch.from_numpy(MOTION), MOTION.tolist()):
        np.testing.assert_allclose(plain.read(value), MOTION, atol=1e-12)
    for name in ("a.npy", "a.ts"):
        np.testing.assert_allclose(build().preprocess.read(tmp_path / name), MOTION, atol=1e-12)
    timed = build(columns=names, time_column="ms", time_unit="ms", rate=25.0).preprocess
    for name in ("a.csv", "a.parquet"):
        np.testing.assert_allclose(timed.read(tmp_path / name), MOTION[::2], atol=1e-9)
    for value in ({"values": MOTION, "rate": 50}, {"values": MOTION, "timestamps": times / 1000}):
        np.testing.assert_allclose(timed.read(value), MOTION[::2], atol=1e-9)
    np.testing.assert_allclose(build(rate=25.0, input_rate=50.0).preprocess.read(MOTION), MOTION[::2], atol=1e-9)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.parquet", b"PAR1 no table PAR1"),
        ("a.parquet", b""),
        ("a.csv", b"1,2,3,4,5,6\n1,2\n"),
        ("a.csv", b"\xff\xfe"),
        ("a.npy", b"\x93NUMPY\x01\x00\xff"),
        ("a.ts", b"@data\n1,2:3,4\n5,6:7,8\n"),
        ("a.txt", b"1 2 3 4 5 6"),
        ("a.csv", b"\n".join([b"1,2,3,4,5,6"] * 60)),
    ],
)
def test_files_that_cannot_be_used(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError):
        build(max_samples=50).preprocess(tmp_path / name, False)


def test_damaged_files_are_a_data_error_or_other_numbers(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    pq.write_table(pa.table({name: MOTION[:, index] for index, name in enumerate("abcdef")}), tmp_path / "a.parquet")
    np.save(tmp_path / "a.npy", MOTION)
    generator = np.random.default_rng(0)
    pre = build().preprocess
    for name in ("a.parquet", "a.npy"):
        data = (tmp_path / name).read_bytes()
        for _ in range(60):
            broken = bytearray(data)
            broken[generator.integers(len(data))] ^= 1 << int(generator.integers(8))
            (tmp_path / name).write_bytes(broken)
            try:
                assert pre(tmp_path / name, False)["values"].shape[1] == 6
            except DataError:
                continue
        (tmp_path / name).write_bytes(data[: len(data) // 2])
        with pytest.raises(DataError):
            pre(tmp_path / name, False)


def test_a_rate_is_needed_where_times_are_given_and_where_it_is_asked_for() -> None:
    with pytest.raises(DataError, match="set `rate`"):
        build().preprocess({"values": MOTION, "timestamps": np.arange(40)}, False)
    with pytest.raises(DataError, match="set input_rate"):
        build(rate=10.0).preprocess(MOTION, False)


def test_gaps_stay_missing_in_the_tokens() -> None:
    tokenizer = build(rate=10.0, max_length=60, positions="none")
    times = np.r_[np.arange(20), 40 + np.arange(20)] / 10
    raw = tokenizer.preprocess({"values": MOTION, "timestamps": times}, False)
    assert raw["observed"].all(dim=1).tolist() == [True] * 20 + [False] * 20 + [True] * 20
    assert run(tokenizer, {"values": MOTION, "timestamps": times}).x.isfinite().all()


def test_rotation_keeps_lengths_and_turns_both_sensors_alike() -> None:
    pre = build(rotate=180.0, normalize="none").preprocess
    twins = np.concatenate([MOTION[:, :3], 2 * MOTION[:, :3]], axis=1)
    np.random.seed(0)
    turned = pre.read(twins, train=True)
    assert not np.allclose(turned, twins)
    np.testing.assert_allclose(turned[:, 3:], 2 * turned[:, :3])
    np.testing.assert_allclose(np.linalg.norm(turned[:, :3], axis=1), np.linalg.norm(MOTION[:, :3], axis=1))
    np.testing.assert_array_equal(pre.read(twins), twins)


def test_other_augmentation_stays_near_and_crops_are_windows() -> None:
    np.random.seed(0)
    cut = build(crop=0.25).preprocess
    lengths = set()
    for _ in range(50):
        found = cut.read(MOTION, train=True)
        start = int(np.argmin(np.abs(MOTION[:, 0] - found[0, 0])))
        np.testing.assert_array_equal(found, MOTION[start : start + len(found)])
        lengths.add(len(found))
    assert min(lengths) >= 10
    assert len(lengths) > 10
    assert len(build(crop=1.0, max_length=16).preprocess.read(MOTION, train=True)) == 16
    ratio = build(scale=0.2).preprocess.read(MOTION, train=True) / MOTION
    assert np.ptp(ratio) < 1e-9
    noise = build(jitter=0.1).preprocess.read(MOTION, train=True) - MOTION
    np.testing.assert_allclose(noise.std(0), 0.1 * MOTION.std(0), rtol=0.4)


def test_statistics_of_the_training_set_are_used_and_saved() -> None:
    fitted, fresh = build(normalize="dataset"), build(normalize="dataset")
    fitted.fit([None, "no recording", MOTION, MOTION[:7] + 5])
    every = np.concatenate([MOTION, MOTION[:7] + 5])
    np.testing.assert_allclose(fitted.mean.numpy(), every.mean(0))
    np.testing.assert_allclose(fitted.std.numpy(), every.std(0))
    fresh.load_state_dict(fitted.state_dict())
    assert torch.equal(run(fitted, MOTION).x, run(fresh, MOTION).x)
    assert fitted.bfloat16().mean.dtype == torch.float64


def test_contents_are_what_tokens_are_made_of() -> None:
    for knobs in ({"positions": "none", "class_token": False, "missing_indicator": False}, {"stem": "imagebind"}):
        tokenizer = build(**knobs)
        raw = tokenizer.preprocess.collate([tokenizer.preprocess(MOTION, False)])
        contents = tokenizer.contents(raw)
        tokens = run(tokenizer, MOTION)
        assert contents.shape == (1, tokens.x.shape[1] - tokens.num_prefix, tokenizer.num_contents)
        x = tokens.x - tokens.positions if tokens.positions is not None else tokens.x
        with torch.no_grad():
            expected = tokenizer.embed.project(contents)
            if knobs.get("stem"):
                expected = tokenizer.embed.norm(expected)
        torch.testing.assert_close(x[:, tokens.num_prefix :], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "knobs",
    [
        {"channels": ()},
        {"channels": ("a", "a")},
        {"columns": ("a",)},
        {"stem": "imagebind", "class_token": False},
        {"stem": "imagebind", "positions": "none"},
    ],
)
def test_impossible_knobs_are_refused(knobs: dict[str, Any]) -> None:
    with pytest.raises(MetaformerError):
        build(**knobs)
