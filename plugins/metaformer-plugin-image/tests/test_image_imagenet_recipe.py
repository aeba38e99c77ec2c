"""`recipes/imagenet_frozen.yaml` as it stands, but for data root, size and weights: it trains; with nothing there,
it says what is missing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

RECIPE = Path(__file__).parents[3] / "recipes" / "imagenet_frozen.yaml"
WIDTH, DEPTH = 32, 2
CLASSES = [f"n0000000{index}" for index in range(6)]


def train(folder: Path, *sets: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "metaformer", "train", str(RECIPE)]
    for one in sets:
        command += ["--set", one]
    # Offline, as a machine without the weights would be after a moment.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hub")}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=240)


def make_imagenet(root: Path) -> None:
    """Crops of real photographs; a class is a photograph and a third of it."""
    datasets = pytest.importorskip("sklearn.datasets", reason='pip install "metaformer-plugin-image[samples]"')
    photos = [Image.fromarray(photo) for photo in datasets.load_sample_images().images]
    for number, name in enumerate(CLASSES):
        photo, third = photos[number % 2], number // 2
        for part, top in (("train", 0), ("val", 250)):
            (root / part / name).mkdir(parents=True)
            for index in range(4):
                left = third * 210 + index * 20
                crop = photo.crop((left, top + 10 * index, left + 130, top + 10 * index + 100))
                crop.save(root / part / name / f"{name}_{index}.JPEG", quality=90)


def make_encoder(path: Path) -> None:
    """A file as Meta-Transformer publishes it: the state dict of a bare list of timm blocks."""
    from timm.models.vision_transformer import Block

    torch.manual_seed(0)
    blocks = torch.nn.Sequential(*(Block(WIDTH, 2, qkv_bias=True, norm_layer=torch.nn.LayerNorm) for _ in range(DEPTH)))
    torch.save(blocks.state_dict(), path)


def test_the_recipe_trains_on_a_small_folder_of_the_same_layout(tmp_path):
    make_imagenet(tmp_path / "imagenet")
    make_encoder(tmp_path / "encoder.pth")
    done = train(
        tmp_path,
        "tasks.imagenet.data.train.root=imagenet/train",
        "tasks.imagenet.data.valid.root=imagenet/val",
        "encoders.shared.weights=file:encoder.pth",
        f"encoders.shared.dim={WIDTH}",
        f"encoders.shared.depth={DEPTH}",
        "encoders.shared.num_heads=2",
        "tokenizers.image.image_size=32",
        f"heads.label.num_classes={len(CLASSES)}",
        "engine.micro_batch=6",
        "schedule.warmup=1",
        "steps=3",
        "loader.workers=0",
        "log_every=1",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    runs = list((tmp_path / "runs" / "imagenet_frozen").glob("*/metrics.jsonl"))
    assert len(runs) == 1
    records = [json.loads(line) for line in runs[0].read_text().splitlines()]
    text = json.dumps(records)
    assert "accuracy@1" in text
    assert "accuracy@5" in text
    assert "NaN" not in text


def said_by(done: subprocess.CompletedProcess[str]) -> str:
    """Everything printed, unwrapped."""
    text = " ".join((done.stdout + done.stderr).split())
    assert "Traceback" not in text
    return text


def test_with_nothing_there_it_says_what_is_expected_and_how_to_get_it(tmp_path):
    done = train(tmp_path)
    said = said_by(done)
    assert done.returncode == 2, said
    for what in (
        "tasks.imagenet.data.train.root",  # where in the recipe
        "data/imagenet/train",
        "tasks.imagenet.data.valid.root",
        "data/imagenet/val",
        str(tmp_path),  # where it looked
        "ROOT/CLASS/FILE",  # what it should find there
        "register at the ImageNet site",  # how to get it
    ):
        assert what in said, f"{what!r} is missing from: {said}"
    assert not (tmp_path / "runs").exists()


def test_without_weights_it_says_which_and_how_to_go_on_with_a_file(tmp_path):
    make_imagenet(tmp_path / "data" / "imagenet")
    done = train(tmp_path)
    said = said_by(done)
    assert done.returncode in (2, 7), said  # found by the recipe check, or when the weights are loaded
    assert "vit_base_patch16_clip_224.laion2b" in said
    assert "--set encoders.shared.weights=file:" in said
