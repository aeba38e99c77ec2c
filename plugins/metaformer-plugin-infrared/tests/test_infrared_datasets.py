"""Bundled sets are what they say, RegDB in a small copy of its layout, and the paper's recipes train on it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from metaformer_plugin_infrared.pictures import NirFieldsDataset, RegDbDataset
from metaformer_plugin_infrared.spectra import CoffeeDataset, TecatorDataset
from PIL import Image

from metaformer.errors import DataError
from metaformer.train import train_command

RECIPES = Path(__file__).parents[3] / "recipes"


def make_regdb(root: Path, persons: int = 4, pictures: int = 5) -> Path:
    draw = np.random.default_rng(0)
    (root / "idx").mkdir(parents=True)
    for part, first in (("train", 0), ("test", persons)):
        for camera in ("visible", "thermal"):
            lines = []
            for person in range(persons):
                folder = f"{camera.capitalize()}/{first + person + 1}"
                (root / folder).mkdir(parents=True)
                for index in range(pictures):
                    name = f"{folder}/back_{camera[0]}_{index:05d}.bmp"
                    pixels = draw.integers(0, 256, (16, 8, 3), dtype=np.uint8)
                    Image.fromarray(pixels if camera == "visible" else pixels[..., 0]).save(root / name)
                    lines.append(f"{name} {person}")
            (root / "idx" / f"{part}_{camera}_1.txt").write_text("\n".join(lines) + "\n")
    return root


def test_regdb_pairs_pictures_of_one_person(tmp_path):
    root = make_regdb(tmp_path)
    train, valid, test = (RegDbDataset(root=root, split=s) for s in ("train", "valid", "test"))
    assert [len(data) for data in (train, valid, test)] == [12, 8, 20]
    assert not {train.sample_id(i) for i in range(12)} & {valid.sample_id(i) for i in range(8)}
    for index in range(12):
        sample = train[index]
        person = str(int(sample["identity"]) + 1)
        assert sample["visible"].parent == root / "Visible" / person
        assert sample["thermal"].parent == root / "Thermal" / person
    assert train.classes["identity"] == ["0", "1", "2", "3"]
    assert test[0]["thermal"].parent.name == "5"  # another person under the same number
    assert train.fingerprint() != valid.fingerprint()


def test_regdb_gives_every_picture_by_itself(tmp_path):
    root = make_regdb(tmp_path)
    both = RegDbDataset(root=root, split="train", samples="each")
    heat = RegDbDataset(root=root, split="train", samples="each", cameras=("thermal",), held_out=1)
    assert (len(both), len(heat)) == (24, 16)
    assert set(both[0]) == {"infrared", "identity"}


def test_regdb_that_is_not_as_published_is_refused(tmp_path):
    root = make_regdb(tmp_path)
    with pytest.raises(DataError, match="ask the makers"):
        RegDbDataset(root=root, split="train", trial=2)
    path = root / "idx" / "train_thermal_1.txt"
    whole = path.read_text()
    for text in ("", "a.bmp\n", "../../secret.bmp 0\n", "/etc/passwd 0\n", "a.bmp x\n", "a.bmp 99\n"):
        path.write_text(text)
        with pytest.raises(DataError):
            RegDbDataset(root=root, split="train")
    path.write_text(whole)
    with pytest.raises(DataError, match="none are left"):
        RegDbDataset(root=root, split="train", held_out=5)


def test_tecator_is_whole_and_its_halves_share_nothing():
    train, valid = TecatorDataset(split="train"), TecatorDataset(split="valid")
    assert (len(train), len(valid)) == (164, 43)  # eight of the training file's 172 are validation spectra
    assert train[0]["spectrum"].shape == (100,)
    assert (min(train.labels + valid.labels), max(train.labels + valid.labels)) == (0.9, 49.1)
    assert not {s.tobytes() for s in train.spectra} & {s.tobytes() for s in valid.spectra}


def test_coffee_is_whole_and_every_origin_is_held_out():
    train, valid = CoffeeDataset(split="train"), CoffeeDataset(split="valid")
    assert (len(train), len(valid)) == (42, 18)
    assert sorted(train.index + valid.index) == list(range(60))
    assert [valid.labels.count(name) for name in valid.classes["origin"]] == [6, 6, 6]
    assert train[0]["spectrum"].shape == (1841,)


def test_no_pixel_of_nir_fields_is_in_both_splits_nor_beside_one():
    covered = {}
    for split in ("train", "valid"):
        data = NirFieldsDataset(split=split)
        covered[split] = np.zeros((147, 147), dtype=bool)
        for top, left in data.corners + 1:
            covered[split][top : top + 6, left : left + 6] = True
        assert {data[i]["label"] for i in range(len(data))} == set(data.classes["label"])
        assert data[0]["image"].dtype == np.uint16
    wider = sum(np.roll(covered["train"], step, axis=(0, 1)) for step in [(0, 0), (0, 1), (0, -1), (1, 0), (-1, 0)])
    assert not (covered["valid"] & (wider > 0)).any()


@pytest.mark.parametrize("name", ["infrared_frozen", "infrared_tuned"])
def test_the_papers_recipes_train_on_a_small_folder_of_the_same_layout(tmp_path, name):
    root = make_regdb(tmp_path / "RegDB")
    sets = [
        *(f"tasks.persons.data.{part}.root={root}" for part in ("train", "valid")),
        *("encoders.shared.weights=null", "encoders.shared.dim=32", "encoders.shared.depth=2"),
        *("encoders.shared.num_heads=2", "tokenizers.infrared.image_size=[32, 16]", "engine={use: torch}", "steps=2"),
        *("heads.identity.num_classes=4", "batch_size=4", "schedule.warmup=1", "loader.workers=0"),
        f"output={tmp_path / 'runs'}",
    ]
    train_command([RECIPES / "meta_transformer" / f"{name}.yaml"], sets)
    assert list((tmp_path / "runs").rglob("metrics.jsonl"))
