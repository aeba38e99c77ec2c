"""S9. Checking and training a recipe that needs nothing from elsewhere asks for nothing from elsewhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
RECORDED = """
import json, socket, sys

calls = []

def recording(name, original):
    def call(*arguments, **options):
        calls.append(f"{{name}} {{arguments[-3:]}}")
        raise OSError("no network in this test")
    return call

for name in ("connect", "connect_ex", "sendto", "bind"):
    setattr(socket.socket, name, recording(name, getattr(socket.socket, name)))
for name in ("getaddrinfo", "gethostbyname", "gethostbyname_ex", "create_connection"):
    setattr(socket, name, recording(name, getattr(socket, name)))

from metaformer import cli

codes = []
for arguments in json.loads({commands!r}):
    sys.argv = ["metaformer", *arguments]
    try:
        cli.main()
    except SystemExit as end:
        codes.append(end.code)
print("calls:", calls)
raise SystemExit(any(codes))
"""
TINY = [
    "steps=2", "batch_size=16", "controls=[]", "schedule.warmup=1", "engine={use: torch, clip: 1.0}", "eval_every=2",
    "encoders.shared={use: transformer, dim: 32, depth: 1, num_heads: 2}",
]  # fmt: skip


def test_checking_and_training_ask_nothing_of_a_network(tmp_path):
    recipe = str(ROOT / "recipes/digits_frozen.yaml")
    sets = [word for one in [*TINY, f"output={tmp_path}"] for word in ("--set", one)]
    commands = [["recipe", "check", recipe], ["train", recipe, *sets]]
    # Without the variable that forbids it: nothing may even try.
    env = {key: value for key, value in os.environ.items() if key != "HF_HUB_OFFLINE"}
    code = RECORDED.format(commands=json.dumps(commands))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "calls: []"
    assert list(tmp_path.glob("digits_frozen/*/result.json"))


def test_a_call_would_be_seen():
    code = RECORDED.format(commands="[]").split("from metaformer import")[0]
    code += "\ntry:\n    socket.create_connection(('localhost', 9))\nexcept OSError:\n    print(len(calls))\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"
