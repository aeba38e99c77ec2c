"""Weights URIs: parsing, looking for files, the cheap check."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from metaformer.errors import WeightsError
from metaformer.weights.uri import check_file, locate, open_weights, parse_uri, run_files


def write(path: Path, **tensors: torch.Tensor) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path)
    return path


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("timm:vit_base_patch16_clip_224.laion2b", ("timm", "vit_base_patch16_clip_224.laion2b", None)),
        ("hf:owner/repo@v1#vision_model", ("hf", "owner/repo@v1", "vision_model")),
        ("openclip:ViT-B-16/laion2b_s34b_b88k", ("openclip", "ViT-B-16/laion2b_s34b_b88k", None)),
        ("file:some where/a#b.pth#visual", ("file", "some where/a#b.pth", "visual")),
        ("file:///data/x.pth", ("file", "/data/x.pth", None)),
        ("run:runs/a/1#encoders.shared.", ("run", "runs/a/1", "encoders.shared")),
    ],
)
def test_a_uri_comes_apart(text: str, expected: tuple[str, str, str | None]) -> None:
    uri = parse_uri(text)
    assert (uri.scheme, uri.address, uri.part) == expected


@pytest.mark.parametrize("text", ["encoder.pth", "./x/encoder.pth", "file:", "file:#part", "", "./a:b"])
def test_what_is_no_uri_is_refused(text: str) -> None:
    with pytest.raises(WeightsError, match="file:PATH"):
        parse_uri(text)


def test_a_bare_path_is_told_to_become_a_file_uri() -> None:
    with pytest.raises(WeightsError, match=r"write `file:weights/encoder\.pth`"):
        parse_uri("weights/encoder.pth")


def test_schemes_of_others_are_left_to_the_plugins() -> None:
    assert open_weights("zenodo:123") is None
    assert check_file("zenodo:123") is None


def test_paths_are_tried_from_the_working_directory_then_from_the_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, recipes = tmp_path / "here", tmp_path / "recipes"
    write(recipes / "both.safetensors", x=torch.zeros(1))
    write(here / "both.safetensors", x=torch.ones(1))
    write(recipes / "only.safetensors", x=torch.full((1,), 2.0))
    monkeypatch.chdir(here)
    assert locate("both.safetensors", recipes) == Path("both.safetensors")
    assert locate("only.safetensors", recipes) == recipes / "only.safetensors"
    found = open_weights("file:only.safetensors", recipes)
    assert found is not None
    assert found["x"].item() == 2
    with pytest.raises(WeightsError) as caught:
        open_weights("file:absent.safetensors", recipes)
    assert str(here / "absent.safetensors") in caught.value.found
    assert str(recipes / "absent.safetensors") in caught.value.found


def test_check_says_what_is_wrong_without_opening(tmp_path: Path) -> None:
    good = write(tmp_path / "good.safetensors", x=torch.zeros(1))
    (tmp_path / "empty.pth").touch()
    assert check_file(f"file:{good}") is None
    assert check_file("file:good.safetensors", tmp_path) is None
    assert check_file("timm:anything") is None
    assert "empty" in str(check_file("file:empty.pth", tmp_path))
    assert "looked in" in str(check_file("file:absent.pth", tmp_path))
    assert "no such file" in str(check_file(f"file:{tmp_path}"))
    assert "write `file:absent.pth`" in str(check_file("absent.pth", tmp_path))
    assert "MODEL/TAG" in str(check_file("openclip:ViT-B-16"))
    assert "no run directory" in str(check_file("run:absent"))


def test_check_needs_no_torch() -> None:
    code = (
        "import sys; from metaformer.weights.uri import check_file\n"
        "check_file('file:absent'); check_file('run:absent'); check_file('timm:x')\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("pointer", ["folder", "link", "text"])
def test_a_run_gives_its_best_checkpoint_and_what_was_frozen(tmp_path: Path, pointer: str) -> None:
    run = tmp_path / "run"
    write(run / "frozen.safetensors", a=torch.zeros(1), b=torch.zeros(1))
    for step in (10, 20):
        write(run / f"checkpoints/step_{step:08d}/model.safetensors", b=torch.full((1,), float(step)))
    best = run / "checkpoints/best"
    if pointer == "folder":
        write(best / "model.safetensors", b=torch.full((1,), 10.0))
    elif pointer == "link":
        best.symlink_to("step_00000010")
    else:
        best.write_text("step_00000010\n")
    tensors = open_weights(f"run:{run}")
    assert tensors is not None
    assert {key: value.item() for key, value in tensors.items()} == {"a": 0, "b": 10}


def test_a_run_without_pointers_gives_its_last_checkpoint_and_a_folder_gives_itself(tmp_path: Path) -> None:
    run = tmp_path / "run"
    frozen = write(run / "frozen.safetensors", a=torch.zeros(1))
    files = [write(run / f"checkpoints/step_{step:08d}/model.safetensors", b=torch.zeros(1)) for step in (10, 20)]
    assert run_files(str(run), None) == (files[1], frozen)
    assert run_files(str(files[0].parent), None) == (files[0], frozen)


def test_a_run_without_weights_says_so(tmp_path: Path) -> None:
    (tmp_path / "run/checkpoints").mkdir(parents=True)
    with pytest.raises(WeightsError, match="no checkpoint with a"):
        open_weights(f"run:{tmp_path / 'run'}")


def test_a_part_is_selected_and_stripped(tmp_path: Path) -> None:
    path = write(tmp_path / "x.safetensors", **{"a.b.x": torch.zeros(1), "a.c.x": torch.ones(1), "ab.x": torch.ones(1)})
    assert set(open_weights(f"file:{path}#a") or {}) == {"b.x", "c.x"}
    assert set(open_weights(f"file:{path}#a.b") or {}) == {"x"}
    with pytest.raises(WeightsError, match=r"there is a\.b, a\.c"):
        open_weights(f"file:{path}#a.d")
