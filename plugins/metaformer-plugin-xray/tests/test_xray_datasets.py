"""Data sets of radiographs in small copies of their published layouts, the bundled slices, and the paper's recipes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from metaformer_plugin_xray.chests import CHEXPERT_FINDINGS, ChestXray14Dataset, CheXpertDataset, TuberculosisDataset
from metaformer_plugin_xray.slices import CtPatchesDataset
from PIL import Image

from metaformer.data.target import encode_target
from metaformer.errors import DataError
from metaformer.train import train_command
from metaformer.types import Target

RECIPES = Path(__file__).parents[3] / "recipes"


def picture(path: Path, level: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((20, 24), level, dtype=np.uint8)).save(path)


def make_tb(root: Path, count: int = 10) -> Path:
    for label in ("Normal", "Tuberculosis"):
        for index in range(count):
            picture(root / label / f"{label}-{index + 1}.png", 40 + 10 * index)
    (root / "Normal.metadata.xlsx").write_bytes(b"not needed")
    return root


def test_tb_chest_splits_every_class_by_file(tmp_path):
    root = make_tb(tmp_path)
    parts = {split: TuberculosisDataset(root=root, split=split) for split in ("train", "valid")}
    names = {split: {data.sample_id(i) for i in range(len(data))} for split, data in parts.items()}
    assert not names["train"] & names["valid"]
    assert len(names["train"] | names["valid"]) == 20
    assert [data.labels.count("Tuberculosis") for data in parts.values()] == [8, 2]
    other = TuberculosisDataset(root=root, split="valid", seed=1)
    assert other.fingerprint() != parts["valid"].fingerprint()
    with pytest.raises(DataError, match="get the TB Chest"):
        TuberculosisDataset(root=root / "nowhere", split="train")


def make_nih(root: Path) -> Path:
    rows, lists = ["Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age"], {"train_val": [], "test": []}
    found = ["No Finding", "Effusion|Mass", "Hernia"]
    for patient in range(1, 13):
        for visit in range(2):
            name = f"{patient:08d}_{visit:03d}.png"
            rows.append(f"{name},{found[(patient + visit) % 3]},{visit},{patient},50")
            lists["test" if patient > 10 else "train_val"].append(name)
            folder = root / f"images_{1 + patient % 2:03d}" / "images" if patient % 3 else root / "images"
            picture(folder / name, patient)
    (root / "Data_Entry_2017.csv").write_text("\n".join(rows) + "\n")
    for name, names in lists.items():
        (root / f"{name}_list.txt").write_text("\n".join(names))
    return root


def test_chestxray14_keeps_patients_apart_and_names_findings(tmp_path):
    root = make_nih(tmp_path)
    parts = {s: ChestXray14Dataset(root=root, split=s, valid_share=0.2) for s in ("train", "valid", "test")}
    assert {split: len(data) for split, data in parts.items()} == {"train": 16, "valid": 4, "test": 4}
    patients = [{path.name[:8] for path in data.files} for data in parts.values()]
    assert not (patients[0] & patients[1] | patients[0] & patients[2] | patients[1] & patients[2])
    data = parts["test"]
    labels = {path.name: label for path, label in zip(data.files, data.labels, strict=True)}
    assert labels["00000011_000.png"] == ["Hernia"]
    assert labels["00000011_001.png"] == []
    assert labels["00000012_001.png"] == ["Effusion", "Mass"]
    coded = encode_target("label", Target("multilabel", 14), ["Effusion", "Mass"], data.classes["label"])
    assert coded.tolist() == [0, 0, 1, 0, 1] + [0] * 9


def test_chestxray14_says_what_is_absent(tmp_path):
    root = make_nih(tmp_path)
    (root / "images" / "00000003_000.png").unlink()
    with pytest.raises(DataError, match="00000003_000"):
        [ChestXray14Dataset(root=root, split=s) for s in ("train", "valid")]
    assert sum(len(ChestXray14Dataset(root=root, split=s, skip_absent=True)) for s in ("train", "valid")) == 19
    table = root / "Data_Entry_2017.csv"
    whole = table.read_text()
    for damage in (whole.replace("Hernia", "Hernias"), "", "a,b\n1,2\n", "\n".join(whole.splitlines()[:5])):
        table.write_text(damage)
        with pytest.raises(DataError):
            ChestXray14Dataset(root=root, split="train", skip_absent=True)


def make_chexpert(root: Path, path: str = "CheXpert-v1.0-small/train/patient00001/study1/view1_frontal.jpg") -> Path:
    root.mkdir(parents=True, exist_ok=True)
    header = ",".join(["Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *CHEXPERT_FINDINGS])
    values = ["1.0", "", "-1.0", "0.0", *[""] * 10]
    lines = [header, ",".join([path, "Male", "60", "Frontal", "AP", *values])]
    lines.append(",".join([path.replace("frontal", "lateral"), "Male", "60", "Lateral", "", *values]))
    (root / "train.csv").write_text("\n".join(lines) + "\n")
    return root


def test_chexpert_treats_uncertain_and_blank_labels_as_asked(tmp_path):
    root = make_chexpert(tmp_path / "CheXpert-v1.0-small")
    first = CheXpertDataset(root=root, split="train")[0]
    assert first["image"] == root / "train/patient00001/study1/view1_frontal.jpg"
    assert first["label"] == [1.0, 0.0, None, 0.0] + [0.0] * 10
    ones = CheXpertDataset(root=root, split="train", uncertain="ones", blank="ignore")[0]["label"]
    assert ones == [1.0, None, 1.0, 0.0] + [None] * 10
    assert len(CheXpertDataset(root=root, split="train", views="frontal")) == 1
    with pytest.raises(DataError, match="get CheXpert"):
        CheXpertDataset(root=root, split="valid")


@pytest.mark.parametrize("path", ["CheXpert/../../secret.jpg", "x//etc/passwd", "alone.jpg"])
def test_paths_do_not_leave_the_root(tmp_path, path):
    with pytest.raises(DataError, match="files below"):
        CheXpertDataset(root=make_chexpert(tmp_path / "set", path), split="train")


def test_holes_of_ct_patches_are_what_was_there():
    data = CtPatchesDataset(split="train", samples=8, zoom=(1.0, 1.0))
    assert data[0]["image"].shape == (32, 32)
    assert data[0]["hole"].shape == (16,)
    for index in range(8):
        sample = data[index]
        assert (sample["image"][16:20, 16:20] == 0.5).all()
        whole = sample["image"].copy()
        whole[16:20, 16:20] = (sample["hole"].reshape(4, 4) + 1) / 2
        windows = [np.lib.stride_tricks.sliding_window_view(s, (32, 32)) for s in data.slices]
        assert any((np.abs(w[..., 16, :] - whole[16]).max(axis=-1) < 1e-6).any() for w in windows)


def test_no_pixel_of_ct_patches_is_in_both_splits():
    train, valid = (CtPatchesDataset(split=split, samples=1) for split in ("train", "valid"))
    for left, right, width in zip(train.slices, valid.slices, (128, 512, 512), strict=True):
        assert left.shape[1] + right.shape[1] == width


@pytest.mark.parametrize("name", ["xray_frozen", "xray_tuned"])
def test_the_papers_recipes_train_on_a_small_folder_of_the_same_layout(tmp_path, name):
    root = make_tb(tmp_path / "tb")
    sets = [
        *(f"tasks.chests.data.{part}.root={root}" for part in ("train", "valid")),
        *("encoders.shared.weights=null", "encoders.shared.dim=32", "encoders.shared.depth=2"),
        *("encoders.shared.num_heads=2", "tokenizers.image.image_size=32", "engine={use: torch}", "steps=2"),
        *("batch_size=4", "schedule.warmup=1", "loader.workers=0", f"output={tmp_path / 'runs'}"),
    ]
    train_command([RECIPES / "meta_transformer" / f"{name}.yaml"], sets)
    assert list((tmp_path / "runs").rglob("metrics.jsonl"))
