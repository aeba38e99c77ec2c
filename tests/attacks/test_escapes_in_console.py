r"""S8. A run whose names of classes, samples, metrics and the run itself steer terminals or mean something to rich.

There is no HTML report yet; when there is, its page belongs here.
"""

from __future__ import annotations

import pytest

from metaformer.report.console import Console

WORDS = "\x1b]0;owned\x07\x1b[2J\r\b\u202e[red]cat[/red][/]"
SHOWN = r"\x1b]0;owned\x07\x1b[2J\x0d\x08\u202e[red]cat[/red][/]"


@pytest.fixture(params=[False, True], ids=["log", "terminal"])
def console(request, monkeypatch):
    for name in ("NO_COLOR", "TERM", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    if request.param:
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "200")
    return Console()


def said(capsys) -> str:
    shown = capsys.readouterr().out
    for hostile in ("\x1b]0", "\x1b[2J", "\x07", "\b", "\u202e"):
        assert hostile not in shown
    return shown


def test_lines_are_inert(console, capsys):
    console.say(f"class {WORDS}\nsecond")
    shown = said(capsys)
    assert SHOWN in shown
    assert "second" in shown.splitlines()[1]
    console.evaluated(3, {f"task/{WORDS}": 0.5})
    assert SHOWN in said(capsys)


def test_tables_are_inert(console, capsys):
    console.table(WORDS, ["metric", WORDS], [[WORDS, "1"], ["a\nb", "2"]])
    shown = said(capsys)
    assert shown.count(SHOWN) == 3
    assert r"a\x0ab" in shown


def test_the_bar_is_inert(console, capsys):
    console.begin(WORDS, 0, 3)
    record = {"step": 1, "loss": 1.0, "lr": 0.1, "grad_norm": None, "samples_per_s": 1.0, "data_wait": 0.0}
    console.step(record, 3, True, 1.0)
    console.end()
    said(capsys)
