"""The step benchmark runs, and its contenders compute the same: no time is judged here."""

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
