r"""S8. Lists of components and plugins whose words steer terminals, drawn for people and for logs."""

from __future__ import annotations

import sys

import pytest

from metaformer.commands.output import print_table

WORDS = "\x1b]0;owned\x07\x1b[2J\r\u202e[red]x[/red]"
SHOWN = r"\x1b]0;owned\x07\x1b[2J\x0d\u202e[red]x[/red]"


@pytest.mark.parametrize("terminal", [False, True])
def test_they_are_inert(capsys, monkeypatch, terminal):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal, raising=False)
    print_table("broken plugins", ("name", "reason"), [(WORDS, "fails"), ("plugin", f"a\n{WORDS}")])
    shown = capsys.readouterr().out
    assert shown.count(SHOWN) == 2
    assert r"a\x0a" in shown
    assert not {"\x07", "\r", "\u202e"} & set(shown)
