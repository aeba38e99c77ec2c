r"""S8. Errors and their notes that repeat a stranger's words: `\x1b` is printed as those four characters."""

from __future__ import annotations

import sys

import pytest

from metaformer import cli
from metaformer.commands.output import print_error
from metaformer.errors import DataError
from metaformer.plaintext import printable

WORDS = {
    "title of the window": ("\x1b]0;owned\x07", r"\x1b]0;owned\x07"),
    "clear the screen": ("\x1b[2J", r"\x1b[2J"),
    "in one byte": ("\x9b2J", r"\x9b2J"),
    "carriage return": ("ok\rbad", r"ok\x0dbad"),
    "backspace": ("bad\b\b\bok", r"bad\x08\x08\x08ok"),
    "right to left": ("\u202egnp.exe\u202c", r"\u202egnp.exe\u202c"),
    "isolate": ("\u2066x\u2069", r"\u2066x\u2069"),
    "line of another kind": ("a\u2028b\x0bc\x85d", r"a\u2028b\x0bc\x85d"),
    "invisible": ("a\u200bb\ufeffc\U000e0041", r"a\u200bb\ufeffc\U000e0041"),
    "not text": ("a\udc9bb", r"a\udc9bb"),
    "null": ("a\0b", r"a\x00b"),
    "markup": ("[red]x[/red] [link=https://x]y[/link]", "[red]x[/red] [link=https://x]y[/link]"),
    "honest": ("é 猫 ü [1] 😀", "é 猫 ü [1] 😀"),
}


@pytest.mark.parametrize("name", WORDS)
def test_they_are_inert(name, capsys, monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    words, shown = WORDS[name]
    print_error(str(DataError(f"sample {words}", f"class {words}", "mend it")))
    assert capsys.readouterr().err == f"sample {shown}\n  found: class {shown}\n  do:    mend it\n"


def test_from_the_command_line(capsys, monkeypatch):
    monkeypatch.delenv("RANK", raising=False)

    def command(*_):
        error = DataError("\x1b[2Jrow", "\u202e", "x")
        error.add_note("raised by \x1b[31mplugin")
        raise error

    monkeypatch.setattr("metaformer.commands.plugins.plugins_command", command)
    monkeypatch.setattr(sys, "argv", ["metaformer", "plugins"])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == DataError.exit_code
    err = capsys.readouterr().err
    assert err.startswith(r"\x1b[2Jrow")
    assert r"raised by \x1b[31mplugin" in err
    assert "\x1b" not in err


def test_a_faulty_recipe(capsys, monkeypatch, tmp_path):
    monkeypatch.delenv("RANK", raising=False)
    path = tmp_path / "recipe\x1b[2J.yaml"
    path.write_text('name: tiny\n"\\e[2Jsteps": 3\n')
    monkeypatch.setattr(sys, "argv", ["metaformer", "recipe", "check", str(path)])
    with pytest.raises(SystemExit):
        cli.main()
    shown = capsys.readouterr()
    assert r"\x1b[2Jsteps" in shown.err
    assert "\x1b" not in shown.err + shown.out


def test_line_breaks_stay_where_they_are_ours():
    assert printable("a\nb\r\x07é") == "a\nb\\x0d\\x07é"
    assert printable("a\nb", lines=False) == r"a\x0ab"
