r"""S8. A recipe whose values steer a terminal, or read differently than they are, shown by `recipe show`."""

from __future__ import annotations

from metaformer.commands.recipe import check_command, show_command
from metaformer.recipe_file import read_recipe, resolved
from metaformer.yamlfile import read_yaml

HOSTILE = "a\x1b[2J\x07\u202eb\u2066c\u200f\r\u2028\x9b"


def test_they_are_inert_and_stay_what_they_are(recipe, tmp_path, capsys):
    escaped = HOSTILE.encode("unicode_escape").decode()
    path = recipe(f'output: "{escaped}"\n')
    assert read_recipe(path).recipe.output == HOSTILE
    show_command(path, [])
    shown = capsys.readouterr().out
    assert not set(HOSTILE) - set("abc[2J") & set(shown)
    (tmp_path / "resolved.yaml").write_text(resolved(read_recipe(path)))
    assert read_yaml(tmp_path / "resolved.yaml").data["output"] == HOSTILE


def test_the_name_of_the_file(recipe, capsys):
    path = recipe(file="\x1b[2J\u202e.yaml")
    assert check_command([path], []) == 0
    shown = capsys.readouterr().out
    assert r"\x1b[2J\u202e.yaml: ok" in shown
    assert "\x1b" not in shown
