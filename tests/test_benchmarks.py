"""The step benchmark runs, and its contenders compute the same: no time is judged here. Kills, and a short soak."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def test_contenders_have_equal_losses(tmp_path):
    pytest.importorskip("timm")
    record = tmp_path / "times.json"
    words = "--depth 1 --batch 2 --steps 1 --threads 1 --precision fp32 --contenders tuned timm prefix limit --json"
    command = [sys.executable, str(ROOT / "benchmarks/train_step.py"), *words.split(), str(record)]
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}, check=False)
    assert done.returncode == 0, done.stderr
    (run,) = json.loads(record.read_text())
    rows = run["rows"]
    assert set(rows) == {
        "tuned", "tuned, bare loop", "timm", "prefix", "limit tuned", "limit middle", "limit prefix"
    }  # fmt: skip
    assert rows["tuned"]["loss"][:3] == pytest.approx(rows["timm"]["loss"][:3], rel=1e-5)
    assert rows["prefix"]["loss"][0] == pytest.approx(rows["timm"]["loss"][0], rel=1e-5)
    assert rows["tuned"]["loss"][2] < rows["tuned"]["loss"][0]
    assert "engine and loop / bare loop" in done.stdout


def run(*words: str) -> str:
    """The last line of a benchmark that has to end well."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout.splitlines()[-1]


@pytest.mark.ranks
# With seed 2, the first kill comes early in a save.
@pytest.mark.parametrize(("kills", "seed"), [(1, 2), pytest.param(5, 0, marks=pytest.mark.thorough)])
def test_nothing_is_lost_to_kills(kills, seed):
    said = run("benchmarks/kill9.py", "--points", str(kills), "--inside", "1", "--seed", str(seed))
    assert said.startswith(f"{kills} kills (seed {seed})")
    assert "0 unusable checkpoints" in said
    assert "curve and weights bitwise equal to the undisturbed run" in said


def test_open_files_threads_and_shared_memory_stay_as_they_are():
    # Memory needs more steps to show: `python benchmarks/soak.py`.
    said = run("benchmarks/soak.py", "--steps", "200", "--any-slope")
    assert "left in /dev/shm: nothing" in said
