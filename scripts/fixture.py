"""Keep a small run of this version, for `tests/test_resume.py` to load with every later one.

    python scripts/fixture.py 0.1.0

Trains `tests/faults/small.yaml` into tests/fixtures/trained/VERSION and writes down what it predicts. Once a version
has been released, its run is never made anew.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
VECTOR = [0.5, -1.0, 2.0]
KEPT = ("packages", "git", "hardware", "weights", "plugins")
"""Parts of the lock that say something about the machine, and nothing about the format."""


def main() -> None:
    target = ROOT / "tests/fixtures/trained" / sys.argv[1]
    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT / "tests/faults"))
    from metaformer.predict import load
    from metaformer.train import train_command

    made = Path("runs/fixture")
    shutil.rmtree(made, ignore_errors=True)
    train_command([Path("tests/faults/small.yaml")], [f"output={made}", "save_every=6", "trainable=frozen"])
    (run,) = (made / "small").iterdir()
    shutil.rmtree(run / "tensorboard")
    lock = json.loads((run / "lock.json").read_text())
    (run / "lock.json").write_text(json.dumps({k: v for k, v in lock.items() if k not in KEPT}, indent=1) + "\n")
    found = load(run, "latest").predict(vector=VECTOR)["sign"]
    expected = {"vector": VECTOR, "probabilities": found["probabilities"]}
    (run / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")
    target.mkdir(parents=True)
    shutil.move(run, target / "run")


if __name__ == "__main__":
    main()
