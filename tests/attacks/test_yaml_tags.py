"""S4. YAML that asks for an object, or for any type other than plain data."""

from __future__ import annotations

import pytest

from metaformer.errors import RecipeError
from metaformer.yamlfile import read_yaml

ATTACKS = {
    "object tag": ("a: 1\nb: !!python/object/apply:os.system [echo]\n", "tag", 2),
    "object tag in full": ("a: !<tag:yaml.org,2002:python/object/apply:os.system> [echo]\n", "tag", 1),
    "plain tag": ("a: !!str 1\n", "tag", 1),
    "own tag": ("a: !x 1\n", "tag", 1),
    "tag on a key": ("!!str a: 1\n", "key", 1),
    "tag on the whole": ("!!python/object:os.stat_result\na: 1\n", "tag", None),
    "directive": ("%YAML 1.1\n---\na: no\n", "directives", 2),
    "directive for a tag": ("%TAG !e! tag:yaml.org,2002:python/\n---\na: !e!name:os.system x\n", "directives", 2),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_it_is_refused_at_once(refuse_yaml, name):
    refuse_yaml(*ATTACKS[name])


def test_no_payload_is_run(tmp_path, refuse, trap):
    text = f"a: !!python/object/apply:os.mknod [{trap.mark}]\n"
    yaml = pytest.importorskip("yaml")
    trap.would_spring(lambda: yaml.unsafe_load(text))
    (tmp_path / "recipe.yaml").write_text(text)
    refuse(lambda: read_yaml(tmp_path / "recipe.yaml"), "tag", RecipeError)
    assert not trap.sprung
