"""A run saved by any engine, ZeRO stage and number of ranks goes on under any other, its optimizer as it was."""

from __future__ import annotations

import json
import pickle
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from metaformer.engine.screen import inert_classes, screened
from metaformer.engine.universal import to_universal
from metaformer.errors import CheckpointError
from tests.faulty import launch
from tests.selected import selected, thorough

pytestmark = pytest.mark.timeout(600)  # the first test waits for three launches
ENGINES = ["torch", "zero0", "zero1", "zero2", "zero3"]
MATRIX = [f"{source}@2>{target}" for source in ENGINES for target in ENGINES]
SGD = ["zero1-sgd@2>zero3-sgd", "zero3-sgd@2>torch-sgd", "zero3-sgd@2>zero1-sgd"]
FEWER = ["torch@2>zero2", "zero1@2>zero1", "zero2@2>zero2", "zero3@2>zero3", "zero3@2>torch", "zero2@2>zero3"]
MORE = ["torch@1>zero2", "zero1@1>zero1", "zero2@1>zero2", "zero3@1>zero3", "zero3@1>torch", "zero3@1>zero0"]
THEIRS = ["zero1@2", "zero2@2", "zero3@2"]
USUAL = {
    # Every engine and stage once on either side.
    "pair": ["torch@2>zero3", "zero0@2>torch", "zero1@2>zero0", "zero2@2>zero1", "zero3@2>zero2", SGD[2]],
    "fewer": ["zero3@2>torch", "zero2@2>zero3"],
    "more": ["zero1@1>zero1", "zero3@1>zero0"],
    "source": ["zero2@2"],
}
"""Parameter -> what `make test` runs of it."""


@pytest.fixture(scope="module")
def ran(tmp_path_factory, request):
    """(folder, what one process found, what each of two found)."""
    # The usual ones in any case: other tests read the files that they make.
    pairs, fewer, more, theirs = (sorted({*usual, *selected(request, name)}) for name, usual in USUAL.items())
    root = tmp_path_factory.mktemp("universal")
    launches = [
        (2, {"save": [*ENGINES, "zero1-sgd", "zero3-sgd"]}),
        (1, {"save": ["torch", "zero1", "zero2", "zero3"], "load": fewer}),
        (2, {"load": [*pairs, *more], "wrong": ["torch", "zero2", "zero3"], "theirs": theirs}),
    ]
    said = launch([sys.executable, "-m", "tests.ranks.universal_ranks", str(root), json.dumps(launches)], 500)
    assert said == "", "it is quiet"
    one, *two = (json.loads((root / f"results-{name}.json").read_text()) for name in ("1-0", "2-0", "2-1"))
    return root, one, two


def compare(root, found, pair, rel):
    losses = json.loads((root / pair.partition(">")[0] / "losses.json").read_text())
    assert found["load"][pair]["differing"] == []
    # The first loss tells of the weights, the second of the moments.
    assert found["load"][pair]["losses"] == pytest.approx(losses[-2:], rel=rel)


@pytest.mark.ranks
@pytest.mark.parametrize("pair", thorough([*MATRIX, *SGD], USUAL["pair"]))
def test_any_engine_and_stage_goes_on_as_any_other(ran, pair):
    root, _, two = ran
    for found in two:
        compare(root, found, pair, rel=1e-6)


@pytest.mark.ranks
@pytest.mark.parametrize("fewer", thorough(FEWER, USUAL["fewer"]))
def test_one_rank_goes_on_where_two_were(ran, fewer):
    root, one, _ = ran
    compare(root, one, fewer, rel=1e-4)


@pytest.mark.ranks
@pytest.mark.parametrize("more", thorough(MORE, USUAL["more"]))
def test_two_ranks_go_on_where_one_was(ran, more):
    root, _, two = ran
    for found in two:
        compare(root, found, more, rel=1e-4)


@pytest.mark.ranks
@pytest.mark.parametrize("source", thorough(THEIRS, USUAL["source"]))
def test_files_are_those_of_deepspeeds_own_converter(ran, source):
    ours, theirs = ran[0] / f"universal-2-{source}" / "zero", ran[0] / "theirs" / source / "zero"
    files = sorted(path.relative_to(ours) for path in ours.rglob("*.pt"))
    assert {path.name for path in files} == {"fp32.pt", "exp_avg.pt", "exp_avg_sq.pt", "step.pt"}
    for file in files:
        if file.name == "step.pt" and source == "zero3@2":
            continue  # theirs keeps it elsewhere
        mine, other = torch.load(ours / file, weights_only=True), torch.load(theirs / file, weights_only=True)
        mine, other = (value["param"] if isinstance(value, dict) else value for value in (mine, other))
        assert torch.equal(mine.flatten(), other.flatten()), file


@pytest.mark.ranks
@pytest.mark.parametrize("engine", ["torch", "zero2", "zero3"])
def test_what_differs_is_refused_on_all_ranks(ran, engine):
    for rank, found in enumerate(ran[2]):
        said = found[f"wrong {engine}"]
        assert "model.twin.weight: its exp_avg_sq is not what was saved" in said["corrupted"]
        assert "model.norm.weight: its exp_avg is not what was saved" in said["swapped"]
        assert "exp_avg.pt" in said["missing"]
        uneven = "its step is not what was saved" if engine == "torch" else "different numbers of steps"
        assert uneven in said["uneven"]
        assert said["whole"] == "nothing"
        # Where each rank holds all, only the one that is wrong can see it; the others hear of it.
        alone = "is not what was saved" if engine != "torch" or rank else "rank 1"
        assert alone in said["corrupted on rank 1"]
        assert alone in said["changed in the optimizer"]


@pytest.mark.ranks
def test_a_rank_without_file_is_refused(ran, tmp_path):
    shutil.copytree(ran[0] / "zero2@2", tmp_path / "saved")
    (tmp_path / "saved" / "engine" / "engine" / "zero_pp_rank_1_mp_rank_00_optim_states.pt").unlink()
    with pytest.raises(CheckpointError, match="files of 1 ranks, saved by 2"):
        to_universal(tmp_path / "saved" / "engine", tmp_path / "out")
    assert not (tmp_path / "out" / "universal.json").exists()


@pytest.fixture
def plain(tmp_path):
    """What the torch engine saves of two parameters; a change of their names."""

    def make(first="a"):
        parameters = [torch.nn.Parameter(torch.arange(3.0)), torch.nn.Parameter(torch.ones(()))]
        optimizer = torch.optim.AdamW([{"params": parameters, "names": [first, "b"]}], fused=True)
        for p in parameters:
            p.grad = torch.ones_like(p)
        optimizer.step()
        save_file(
            dict(zip([first, "b"], [p.detach() for p in parameters], strict=True)), tmp_path / "model.safetensors"
        )
        (tmp_path / "engine").mkdir()
        torch.save(optimizer.state_dict(), tmp_path / "engine" / "optimizer.pt")
        return parameters, optimizer

    return make


def test_layout(plain, tmp_path):
    (a, b), optimizer = plain()
    to_universal(tmp_path / "engine", tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out" / "zero").iterdir()) == ["model.a", "model.b"]
    for name, p in {"model.a": a, "model.b": b}.items():
        folder = tmp_path / "out" / "zero" / name
        assert torch.equal(torch.load(folder / "fp32.pt")["param"], p)
        assert torch.equal(torch.load(folder / "exp_avg.pt")["param"], optimizer.state[p]["exp_avg"])
        assert torch.equal(torch.load(folder / "step.pt"), torch.tensor(1.0))


@pytest.mark.parametrize("name", ["../../a", "/a", "a/b"])
def test_a_parameter_is_no_path(plain, tmp_path, name):
    plain(name)
    with pytest.raises(CheckpointError, match="a parameter or state called"):
        to_universal(tmp_path / "engine", tmp_path / "out")


def test_a_folder_without_state_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="no optimizer state"):
        to_universal(tmp_path, tmp_path / "out")


@pytest.mark.parametrize(
    ("setting", "says"),
    [({"offload_optimizer": {"device": "nvme"}}, "NVMe drives"), ({"round_robin_gradients": True}, "wrong places")],
)
def test_settings_that_files_cannot_be_converted_with(tmp_path, setting, says):
    folder = tmp_path / "saved" / "engine"
    folder.mkdir(parents=True)
    config = {"zero_optimization": {"stage": 2, **setting}}
    torch.save({"dp_world_size": 1, "ds_config": config}, folder / "mp_rank_00_model_states.pt")
    torch.save({"optimizer_state_dict": {"zero_stage": 2}}, folder / "zero_pp_rank_0_mp_rank_00_optim_states.pt")
    with pytest.raises(CheckpointError, match=says):
        to_universal(tmp_path / "saved", tmp_path / "out")


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


def trapped(folder, mark):
    """Files of one rank at stage 1, the optimizer's with a trap in it."""
    (folder / "engine").mkdir(parents=True)
    torch.save({"module": {}, "dp_world_size": 1}, folder / "engine" / "mp_rank_00_model_states.pt")
    path = folder / "engine" / "zero_pp_rank_0_mp_rank_00_optim_states.pt"
    torch.save({"optimizer_state_dict": {"zero_stage": 1, "loss_scaler": Trap(mark)}}, path)
    return path


def test_code_is_refused_and_not_run(tmp_path):
    mark = tmp_path / "sprung"
    path = trapped(tmp_path / "saved", mark)
    torch.load(path, weights_only=False)
    assert mark.exists(), "the trap is one"
    mark.unlink()
    with pytest.raises(CheckpointError, match="was not run"):
        to_universal(tmp_path / "saved", tmp_path / "out")
    assert not mark.exists()
    screened(path, trust=True)
    assert mark.exists()


def test_a_trap_as_argument_of_an_inert_class_is_refused(tmp_path):
    mark = tmp_path / "sprung"
    for kind in inert_classes():
        torch.save({"a": Called(kind, Trap(mark))}, tmp_path / "x.pt")
        with pytest.raises(CheckpointError, match="was not run"):
            screened(tmp_path / "x.pt")
    assert not mark.exists()


class Called:
    """The result of a call when it is unpickled."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def test_inert_classes_take_anything_without_doing_anything(tmp_path):
    stage, address, scaler, dynamic = inert_classes()
    for kind, arguments in {address: (7, "start"), scaler: ([1],), dynamic: (2.0**16, 1000, 1.0, 2, False)}.items():
        torch.save(Called(kind, *arguments), tmp_path / "x.pt")
        assert type(screened(tmp_path / "x.pt")) is kind
    torch.save(Called(stage, 2), tmp_path / "x.pt")
    assert screened(tmp_path / "x.pt") == 2
    torch.save(Called(stage, "made", {"up": "os.system"}), tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match="damaged"):
        screened(tmp_path / "x.pt")
    for kind in (stage, address, scaler, dynamic):
        assert not {"__setstate__", "__del__"} & set(dir(kind))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", pickle.dumps({"a": 1})[:-3]])
def test_a_damaged_file_is_refused(tmp_path, content):
    (tmp_path / "x.pt").write_bytes(content)
    with pytest.raises(CheckpointError, match="damaged"):
        screened(tmp_path / "x.pt")
