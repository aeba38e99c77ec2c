"""S4. YAML of a few lines that aliases unfold to a thousand million values, or to themselves."""

from __future__ import annotations

from itertools import pairwise

import pytest

from metaformer.yamlfile import read_yaml

LETTERS = "abcdefghij"
BOMB = "a: &a [1,1,1,1,1,1,1,1,1,1]\n" + "".join(
    f"{new}: &{new} [{','.join([f'*{old}'] * 10)}]\n" for old, new in pairwise(LETTERS)
)
WORDS = 'a: &a "' + "x" * 60_000 + '"\nb: [' + "*a," * 7_000 + "1]\n"
ATTACKS = {
    "alias bomb": (BOMB, "aliases expand", 5),
    "alias of itself": ("a: 1\nb: &b [*b]\n", "contains itself", 2),
    "unknown alias": ("a: *.weight\n", "stands for nothing", 1),
    "merge key": ("a: &a {b: 1}\nc:\n  <<: *a\n", "merge keys", 3),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_it_is_refused_at_once(refuse_yaml, name):
    refuse_yaml(*ATTACKS[name])


def test_a_long_text_named_often_is_one_text(tmp_path, memory):
    path = tmp_path / "recipe.yaml"
    path.write_text(WORDS)
    with memory(50):
        data = read_yaml(path).data
    assert len(data["b"]) == 7_001
