"""The recipes of `recipes/meta_transformer` at a tiny size, on small files of the official layouts."""

import json
from pathlib import Path

import numpy as np
import pytest

from metaformer.recipe_file import read_recipe
from metaformer.train import train_command

RECIPES = Path(__file__).parents[3] / "recipes" / "meta_transformer"
RNG = np.random.default_rng(0)
SMALL = ["steps=2", "batch_size=4", "schedule.warmup=1", "controls=[]", "loader.workers=0", "engine={use: torch}"]
SMALL += ["encoders.shared={use: transformer, dim: 16, depth: 1, num_heads: 2}", "eval_every=2", "save_every=2"]
SMALL += ["tokenizers.cloud.num_points=64", "tokenizers.cloud.neighbours=4"]


def train(name: str, folder: Path, *sets: str) -> dict[str, float]:
    train_command([RECIPES / name], [*SMALL, f"output={folder / 'runs'}", *sets])
    (result,) = folder.rglob("result.json")
    return json.loads(result.read_text())["this run"]["metrics"]


@pytest.mark.parametrize("name", ["pointcloud_frozen.yaml", "pointcloud_tuned.yaml"])
def test_modelnet(tmp_path, name):
    (tmp_path / "modelnet40_shape_names.txt").write_text("chair\nsofa\n")
    for split in ("train", "test"):
        models = [f"{kind}_{split}{i}" for kind in ("chair", "sofa") for i in range(3)]
        (tmp_path / f"modelnet40_{split}.txt").write_text("\n".join(models))
        for model in models:
            folder = tmp_path / model.partition("_")[0]
            folder.mkdir(exist_ok=True)
            np.savetxt(folder / f"{model}.txt", RNG.normal(size=(100, 6)), delimiter=",", fmt="%.5f")
    roots = [f"tasks.modelnet.data.{part}.root={tmp_path}" for part in ("train", "valid")]
    metrics = train(name, tmp_path, *roots, "tokenizers.cloud.widths=[8, 12, 16]", "heads.label.num_classes=2")
    assert all(np.isfinite(value) for value in metrics.values())


def test_s3dis(tmp_path):
    for area in (1, 5):
        for room in range(2):
            rows = np.concatenate([RNG.uniform(0, 3, (200, 3)), RNG.integers(0, 256, (200, 3))], axis=1)
            table = np.concatenate([rows, RNG.integers(0, 13, (200, 1))], axis=1).astype(np.float32)
            np.save(tmp_path / f"Area_{area}_office_{room}.npy", table)
    sets = [
        f"tasks.rooms.data.{part}.{knob}" for part in ("train", "valid") for knob in (f"root={tmp_path}", "points=64")
    ]
    detail = ("tokenizers.cloud.detail_dim=8", "heads.parts.detail_dim=8")
    metrics = train("pointcloud_s3dis_frozen.yaml", tmp_path, *sets, *detail)
    assert all(np.isfinite(value) for value in metrics.values())


def test_sizes_are_the_papers():
    for path in RECIPES.glob("pointcloud_*.yaml"):
        knobs = read_recipe(path).recipe.encoders["shared"].knobs
        assert (knobs["dim"], knobs["depth"], knobs["num_heads"]) == (768, 12, 12)
