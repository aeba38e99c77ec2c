"""Studies: which runs there are, that each is made once, what the table says, and that an interrupted one goes on."""

from __future__ import annotations

import json
import re
import statistics
from pathlib import Path

import pytest

from metaformer import loop
from metaformer.errors import CheckpointError, DivergedError, RecipeError, StoppedError
from metaformer.ladder import plan
from metaformer.recipe_file import read_recipe
from metaformer.run import open_run
from metaformer.study import study_command
from tests.faulty import SMALL, arguments, curve, plugin, run_ranks, train_here

QUICK = ["steps=4", "eval_batch=16", "encoders.shared.depth=3"]
ROWS = ["none", "random", "norm", "bitfit", "last-1", "last-2", "lora", "tuned"]


@pytest.fixture(autouse=True)
def known(monkeypatch):
    with plugin(monkeypatch):
        yield


def study(output: Path, *sets: str, seeds: int = 2) -> dict:
    study_command(SMALL, [*QUICK, f"output={output}", *sets], seeds)
    return read(output)


def read(output: Path) -> dict:
    return json.loads((output / "small/study/study.json").read_text())


def names(output: Path) -> list[str]:
    """The run directories that there are."""
    return sorted(str(p.parent.relative_to(output / "small/study")) for p in output.glob("small/study/*/*/result.json"))


def rows(*sets: str) -> dict[str, int]:
    return {v.name: v.trained for v in plan(read_recipe(SMALL, sets).recipe).variants}


# Which rows.


def test_rows_are_the_controls_and_the_ladder_in_order_of_what_is_trained():
    trained = rows(*QUICK)
    assert list(trained) == ROWS
    assert trained["none"] == trained["random"] < trained["norm"] < trained["last-1"] < trained["last-2"]
    assert trained["last-2"] < trained["tuned"]
    assert trained["random"] < trained["lora"] < trained["tuned"]


def test_given_weights_are_a_row_of_their_own():
    assert list(rows(*QUICK, "encoders.shared.weights=run:somewhere")) == ["none", "random", "given", *ROWS[2:]]


def test_a_row_that_would_be_another_one_again_is_left_out():
    # All of an encoder with a single block is its last one; without linear layers there are no low-rank updates.
    assert list(rows("encoders.shared.depth=1")) == ["none", "random", "norm", "bitfit", "last-1", "lora"]
    assert list(rows("encoders.shared={use: identity, dim: 16}")) == ["none", "random"]
    left_out = plan(read_recipe(SMALL, ("encoders.shared={use: identity, dim: 16}",)).recipe).absent
    assert left_out["norm"] == "it trains what `random` trains"
    assert "names no linear layer" in left_out["lora"]


def test_learning_rate_groups_that_are_idle_in_a_row_are_left_out_of_it():
    sets = ("optimizer.groups=[{match: encoders.*, lr_scale: 0.1}, {match: heads.*, lr_scale: 2.0}]",)
    groups = {v.name: len(v.recipe.optimizer.groups) for v in plan(read_recipe(SMALL, sets).recipe).variants}
    assert groups["random"] == 1
    assert groups["norm"] == 2


@pytest.mark.parametrize(
    ("sets", "path"),
    [
        (("control=random",), "control"),
        (("tasks.signs.data.valid=null",), "tasks"),
        (("encoders={}", "passes={vector: {encoder: null}}"), "encoders"),
        (("optimizer.lrr=1",), "optimizer.lrr"),
    ],
)
def test_what_cannot_be_studied_is_refused_before_anything_runs(tmp_path, sets, path):
    with pytest.raises(RecipeError) as caught:
        study(tmp_path, *sets)
    assert path in [problem.path for problem in caught.value.problems]
    assert not list(tmp_path.iterdir())


# One study, looked at from all sides.


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    output = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch, plugin(patch):
        study(output)
    return output


def test_every_distinct_run_is_made_once_with_every_seed(whole):
    assert names(whole) == sorted(f"{row}/seed-{seed}" for row in ROWS for seed in (0, 1))
    runs = {name: open_run(whole / "small/study" / name).recipe for name in names(whole)}
    assert all(recipe.seed == int(name[-1]) for name, recipe in runs.items())
    assert {recipe.control for recipe in runs.values()} == {"none", "random", None}
    assert runs["lora/seed-0"].trainable == "lora"
    assert all(recipe.controls == () for recipe in runs.values())


def test_the_table_is_means_and_sample_deviations_over_the_seeds(whole):
    record = read(whole)
    assert [row["variant"] for row in record["variants"]] == ROWS
    for row in record["variants"]:
        folders = [whole / f"small/study/{row['variant']}/seed-{seed}" for seed in (0, 1)]
        results = [json.loads((folder / "result.json").read_text())["this run"] for folder in folders]
        assert {result["trained"] for result in results} == {row["trained"]}
        assert row["seconds"] == pytest.approx(sum(result["seconds"] for result in results) / 2, abs=0.01)
        for metric, found in row["metrics"].items():
            values = [result["metrics"][metric] for result in results]
            assert found["mean"] == pytest.approx(statistics.fmean(values))
            assert found["deviation"] == pytest.approx(statistics.stdev(values))


def test_seeds_are_different_runs_and_a_variant_is_the_run_that_train_makes(whole, tmp_path):
    first, second = (whole / f"small/study/tuned/seed-{seed}" for seed in (0, 1))
    assert curve(first) != curve(second)
    assert curve(train_here(tmp_path, *QUICK, "trainable=tuned", "seed=1")) == curve(second)


def test_the_page_says_what_was_done_where(whole):
    page = (whole / "small/study/study.md").read_text()
    command = f"metaformer study {SMALL} --set steps=4 --set eval_batch=16 --set encoders.shared.depth=3"
    assert f"`{command} --set output={whole} --seeds 2`" in page
    lock = json.loads((whole / "small/study/tuned/seed-0/lock.json").read_text())
    assert f"torch {lock['packages']['torch']}, metaformer {lock['packages']['metaformer']}; " in page
    assert re.search(r", \d{4}-\d\d-\d\d \d\d:\d\d UTC; ", page)
    assert f"{lock['hardware']['cpus']} CPUs, 1 thread per rank, no accelerator, 1 rank." in page
    table = [line for line in page.splitlines() if line.startswith("|")]
    assert table[0] == "| variant | what it is | signs/loss | signs/accuracy | trained parameters | seconds |"
    tuned = read(whole)["variants"][-1]
    mean, deviation = tuned["metrics"]["signs/accuracy"].values()
    assert table[-1].startswith("| tuned | everything | ")
    assert f" | {mean:.4f} ± {deviation:.4f} | {tuned['trained']:,} | " in table[-1]
    assert "there is no row given: the recipe gives its encoders no weights" in page


def test_a_finished_study_is_not_made_again_but_may_get_more_seeds(whole, capsys):
    before = {p: p.stat().st_mtime_ns for p in whole.glob("small/study/*/*/status.json")}
    assert study(whole)["variants"] == read(whole)["variants"]
    out = capsys.readouterr().out
    assert "study, run" not in out
    assert "mean ± standard deviation over seeds 0, 1" in out
    assert {p: p.stat().st_mtime_ns for p in before} == before
    alone = study(whole, seeds=1)
    assert alone["variants"][0]["metrics"]["signs/loss"]["deviation"] is None
    assert {p: p.stat().st_mtime_ns for p in before} == before


def test_a_changed_recipe_is_refused_and_what_changes_no_number_is_not(whole):
    with pytest.raises(CheckpointError, match=r"optimizer\.lr: 0\.01 -> 0\.5.*\n.*--set name=NAME"):
        study(whole, "optimizer.lr=0.5")
    study(whole, "log_every=1")


def test_a_study_is_not_taken_for_a_run(whole, capsys):
    train_here(whole, "steps=1", resume="auto")
    assert "unfinished" not in capsys.readouterr().out


# Interruptions and failures.


def stop_at(monkeypatch, call: int) -> None:
    """As if a signal came during the step that is made as number `call` of all runs."""
    original, calls = loop.train_step, []

    def stopping(session, window):
        calls.append(session)
        if len(calls) == call:
            session.stop.request("SIGTERM")
        return original(session, window)

    monkeypatch.setattr(loop, "train_step", stopping)


def test_an_interrupted_study_goes_on_where_it_was(tmp_path, whole, monkeypatch, capsys):
    stop_at(monkeypatch, 4 + 4 + 2)  # inside the third run
    with pytest.raises(StoppedError, match=r"go on with: metaformer study .*small\.yaml .*--seeds 1") as caught:
        study(tmp_path, seeds=1)
    assert caught.value.exit_code == 75
    monkeypatch.undo()
    half = read(tmp_path)
    assert [len(row["runs"]) for row in half["variants"]] == [1, 1, *[0] * 6]
    assert half["remarks"][0] == "6 of 8 runs are still to be made"
    page = (tmp_path / "small/study/study.md").read_text()
    assert re.search(r"^\| tuned \| everything \| - \| - \| [\d,]+ \| - \|$", page, re.MULTILINE)
    capsys.readouterr()
    with pytest.MonkeyPatch.context() as patch, plugin(patch):
        study(tmp_path, seeds=1)
    out = capsys.readouterr().out
    assert "study, run 3 of 8: norm, seed 0" in out
    assert "going on from step_00000002" in out
    for row in ROWS:
        ours, theirs = (folder / f"small/study/{row}/seed-0" for folder in (tmp_path, whole))
        assert curve(ours) == curve(theirs)


NOTHING_TO_TRAIN = "encoders.shared={use: identity, dim: 16}"
"""Two rows only: without an encoder, and with this one."""


def test_a_run_that_diverges_is_in_the_table_and_the_others_are_made(tmp_path, capsys):
    data = "tasks.signs.data.train={use: vectors, size: 24, nan: [5]}"
    sets = (data, NOTHING_TO_TRAIN, "steps=1")
    # By their first step, seeds 0 and 2 have met the sample, and seed 1 has not.
    with pytest.raises(DivergedError, match="4 of 6 failed") as caught:
        study(tmp_path, *sets, seeds=3)
    assert caught.value.exit_code == 5
    none, random = read(tmp_path)["variants"]
    for row in (none, random):
        assert [run["state"] for run in row["runs"]] == ["diverged", "finished", "diverged"]
        assert row["metrics"]["signs/loss"]["deviation"] is None
    page = (tmp_path / "small/study/study.md").read_text()
    assert "none: 2 of 3 runs failed, the numbers are those of the others (seed 0 diverged: step 1: the loss" in page
    capsys.readouterr()
    # What has diverged would do so again.
    with pytest.raises(DivergedError, match="2 of 2 failed"):
        study(tmp_path, *sets, seeds=1)
    out = capsys.readouterr().out
    assert "study, run" not in out
    assert [run["reason"] for row in read(tmp_path)["variants"] for run in row["runs"]] == [
        "step 1: the loss and its gradient must be finite"
    ] * 2
    assert "| none | no encoder: tokens go straight to the heads |" in (tmp_path / "small/study/study.md").read_text()


@pytest.mark.ranks
@pytest.mark.thorough
def test_two_ranks_make_a_study_together(tmp_path):
    words = ["study", *arguments(tmp_path, NOTHING_TO_TRAIN, "steps=2", "batch_size=8")[1:], "--seeds", "1"]
    first, second = run_ranks(words)
    assert "study, run 2 of 2: random, seed 0" in first
    assert "small: held-out results after the last step, seed 0" in first
    assert "study" not in second
    assert read(tmp_path)["hardware"].endswith("no accelerator, 2 ranks")
