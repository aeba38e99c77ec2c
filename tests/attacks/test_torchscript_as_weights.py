"""S2. A TorchScript archive, which is a program, given as weights."""

from __future__ import annotations

import subprocess
import sys

from metaformer.weights.files import read_tensors

PROGRAM = "import sys, torch; torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), sys.argv[1])"


def test_it_is_refused(tmp_path, refuse):
    # In a process of its own: torch's compiler does not care for what other tests have done to its modules.
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM, str(tmp_path / "evil.pt")]
    subprocess.run(command, check=True, capture_output=True)
    refuse(lambda: read_tensors(tmp_path / "evil.pt"), "not written by torch|more than tensors")
