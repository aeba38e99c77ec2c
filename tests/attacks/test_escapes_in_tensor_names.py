r"""S8. Weights whose tensors, or the facts beside them, are named to steer a terminal, shown by `weights inspect`."""

from __future__ import annotations

import json

import torch
from safetensors.torch import save_file

from metaformer.weights.commands import inspect_command
from metaformer.weights.source import FACTS_KEY

WORDS = "\x1b]0;owned\x07\x1b[2J\r\u202e"


def test_they_are_inert(tmp_path, capsys):
    path = tmp_path / "x.safetensors"
    facts = {"num_heads": 2, "activation": WORDS}
    save_file({WORDS: torch.ones(2), f"a.{WORDS}": torch.ones(2)}, path, {FACTS_KEY: json.dumps(facts)})
    inspect_command(f"file:{path}")
    shown = capsys.readouterr().out
    assert r"\x1b]0;owned\x07\x1b[2J\x0d\u202e" in shown
    assert not {"\x1b", "\x07", "\r", "\u202e"} & set(shown)
