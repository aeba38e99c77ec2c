"""S2, S9. A folder given as a Hugging Face data set that brings a loading script."""

from __future__ import annotations

import subprocess
import sys

import pytest

from metaformer.data.huggingface import HuggingFaceDataset


def test_it_is_refused_and_never_run(tmp_path, trap, refuse):
    pytest.importorskip("datasets")
    folder = tmp_path / "words"
    folder.mkdir()
    script = folder / "words.py"
    script.write_text(f"from pathlib import Path\nPath({str(trap.mark)!r}).touch()\n")
    trap.would_spring(lambda: subprocess.run([sys.executable, script], check=True))
    refuse(lambda: HuggingFaceDataset(path=str(folder), split="train", cache=tmp_path / "cache"), "words")
    refuse(lambda: HuggingFaceDataset(path=str(script), split="train", cache=tmp_path / "cache"), "a file")
    assert not trap.sprung
