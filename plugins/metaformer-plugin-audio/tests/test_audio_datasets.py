"""Data sets in their published folders, the bundled one, and the recipes on small data of the same layout."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from metaformer_plugin_audio import game_sounds
from metaformer_plugin_audio.conformance import CLIPS, WORDS, esc50, speech_commands
from metaformer_plugin_audio.datasets import Esc50, SpeechCommands
from metaformer_plugin_audio.game_sounds import BLOCKS, GameSounds

from metaformer.errors import DataError
from metaformer.train import train_command

RECIPES = Path(__file__).parents[3] / "recipes" / "meta_transformer"
NEEDS_PYGAME = pytest.mark.skipif(
    importlib.util.find_spec("pygame") is None, reason="pip install 'metaformer-plugin-audio[samples]'"
)


@pytest.fixture
def commands(tmp_path):
    return speech_commands(tmp_path / "speech")["root"]


def test_speech_commands_reads_the_official_split(commands):
    parts = {split: SpeechCommands(root=commands, split=split) for split in ("train", "valid", "test")}
    assert [len(part) for part in parts.values()] == [21, 6, 3]
    ids = [part.sample_id(i) for part in parts.values() for i in range(len(part))]
    assert len(set(ids)) == 30
    assert all(part.classes == {"label": list(WORDS)} for part in parts.values())
    sample = parts["valid"][2]
    assert sample == {"audio": commands / "bed" / "01a_nohash_0.wav", "label": "bed"}
    before = parts["train"].fingerprint()
    (commands / "bed" / "05a_nohash_0.wav").write_bytes(b"other")
    assert SpeechCommands(root=commands, split="train").fingerprint() != before


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("bed/none.wav", "no such clip"),
        ("../bed/01a_nohash_0.wav", "name of a clip"),
        ("x/01a_nohash_0.wav", "such clip"),
    ],
)
def test_a_list_that_names_what_is_not_there(commands, line, found):
    (commands / "testing_list.txt").write_text(f"{line}\n")
    with pytest.raises(DataError, match=found):
        SpeechCommands(root=commands, split="train")


def test_speech_commands_says_what_is_missing(commands, tmp_path):
    with pytest.raises(DataError, match=r"no such folder[^$]*speech_commands_v0\.02"):
        SpeechCommands(root=tmp_path / "nowhere", split="train")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no folder of a word"):
        SpeechCommands(root=tmp_path / "empty", split="train")
    (commands / "validation_list.txt").unlink()
    with pytest.raises(DataError, match="no file validation_list"):
        SpeechCommands(root=commands, split="train")


def test_esc50_holds_a_fold_out(tmp_path):
    root = esc50(tmp_path / "esc")["root"]
    train, valid = Esc50(root=root, split="train", fold=2), Esc50(root=root, split="valid", fold=2)
    assert (len(train), len(valid)) == (8, 4)
    assert {valid.sample_id(i) for i in range(4)} == {f"audio/2-{n}-A-{k}.wav" for n in (7, 8) for k in (0, 10)}
    assert train.classes == {"label": ["dog", "rain"]}  # in the order of their numbers
    assert {valid[i]["audio"].name: valid[i]["label"] for i in range(2)} == {
        "2-7-A-0.wav": "dog",
        "2-7-A-10.wav": "rain",
    }


@pytest.mark.parametrize(
    "table",
    [
        "",
        "filename,fold\na.wav,1\n",
        CLIPS.replace("1-7", "../1-7"),
        CLIPS.replace(",rain", ",dog", 1),
        "filename,fold,target,category\na.wav,x,1,c\n",
    ],
    ids=["empty", "columns", "path", "names", "fold"],
)
def test_esc50_refuses_tables_that_are_none(tmp_path, table):
    with pytest.raises(DataError):
        Esc50(**esc50(tmp_path / "esc", table), split="train")


@NEEDS_PYGAME
@pytest.mark.parametrize(("task", "seconds"), [("clip", 0.06), ("direction", 0.5)])
def test_no_sample_of_game_sounds_is_in_both_parts(task, seconds):
    parts = {split: GameSounds(split=split, task=task, seconds=seconds) for split in ("train", "valid")}
    for place, name in enumerate(parts["train"].names):
        used = {}
        for split, part in parts.items():
            used[split] = {at for start in part.starts[place] for at in range(start, start + part.length)}
            shares = [
                (first * len(part.sounds[place]), last * len(part.sounds[place])) for first, last in BLOCKS[split]
            ]
            assert all(any(a - 1 <= at <= b + 1 for a, b in shares) for at in used[split]), name
        assert not used["train"] & used["valid"]
    train = parts["train"]
    labels = [train[i]["label"] for i in range(len(train))]
    assert {labels.count(label) for label in train.classes["label"]} == {len(train) // len(train.classes["label"])}


@NEEDS_PYGAME
def test_game_sounds_knows_its_clips_and_plays_backwards():
    clips = GameSounds(split="train", windows=3)
    assert [clips.sample_id(i) for i in (0, 4)] == ["boom:0", "car_door:1"]
    assert clips[4]["label"] == game_sounds.CLIPS[1]
    assert clips[0]["audio"]["samples"].shape == (round(0.06 * 11025),)
    ways = GameSounds(split="valid", task="direction", seconds=0.5)
    forth, back = ways[6], ways[7]
    assert (forth["label"], back["label"]) == ("forwards", "backwards")
    assert np.array_equal(forth["audio"]["samples"][::-1], back["audio"]["samples"])
    assert clips.fingerprint() != GameSounds(split="valid", windows=3).fingerprint()
    with pytest.raises(DataError, match="lower `seconds`"):
        GameSounds(split="valid", seconds=0.3)


def test_without_pygame_game_sounds_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(DataError, match=r"pip install 'metaformer-plugin-audio\[samples\]'"):
        GameSounds(split="train")


@pytest.mark.parametrize("name", ["audio_frozen", "audio_tuned"])
def test_the_papers_recipes_train_on_a_small_folder_of_the_same_layout(name, commands, tmp_path):
    sets = [
        *(f"tasks.words.data.{part}.root={commands}" for part in ("train", "valid")),
        "encoders.shared.weights=null",
        "encoders.shared.dim=32",
        "encoders.shared.depth=1",
        "encoders.shared.num_heads=2",
        "heads.label.num_classes=3",
        "engine={use: torch}",
        "loader.workers=0",
        "schedule.warmup=1",
        "batch_size=4",
        "steps=2",
        f"output={tmp_path / 'runs'}",
    ]
    train_command([RECIPES / f"{name}.yaml"], sets)
    (result,) = (tmp_path / "runs").rglob("result.json")
    metrics = json.loads(result.read_text())["this run"]["metrics"]
    assert 0 <= metrics["words/accuracy"] <= 1
