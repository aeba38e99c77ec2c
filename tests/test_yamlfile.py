"""YAML: every value with its line, faults named, and written so that it reads back equal; attacks/ has the hostile."""

from __future__ import annotations

import math
import random

import pytest

from metaformer.errors import RecipeError
from metaformer.yamlfile import parse_scalar, parse_value, read_yaml, write_yaml


def read(tmp_path, text):
    path = tmp_path / "recipe.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_yaml(path)


def refusal(tmp_path, text):
    with pytest.raises(RecipeError) as caught:
        read(tmp_path, text)
    (problem,) = caught.value.problems
    return problem


def test_every_value_has_its_line(tmp_path):
    text = "a: 1\nb:\n  c: {d: 2,\n    e: 3}\n  f:\n    - 4\n    - g: 5\n"
    lines = read(tmp_path, text).lines
    expected = {("a",): 1, ("b",): 2, ("b", "c"): 3, ("b", "c", "d"): 3, ("b", "c", "e"): 4, ("b", "f"): 5}
    expected |= {("b", "f", 0): 6, ("b", "f", 1): 7, ("b", "f", 1, "g"): 7}
    assert {key: line for key, line in lines.items() if key} == expected


FAULTS = {
    "number as key": ("a: 1\n1: 2\n", "not text", 2),
    "truth as key": ("true: 2\n", "not text", 1),
    "list as key": ("? [a]\n: 2\n", "plain name", 1),
    "control characters": ("a: \x01\n", "not YAML", None),
    "not text": (b"a: 1\nb: \xff\n", "not UTF-8", 2),
    "tab": ("a:\n\tb: 1\n", "not YAML", 2),
    "half a list": ("a: [1, 2\nb: 3\n", "not YAML", 2),
    "empty": ("# nothing\n", "is empty", None),
    "only a list": ("[1]\n", "not a mapping", None),
}


@pytest.mark.parametrize("name", FAULTS)
def test_what_is_no_recipe_is_refused(tmp_path, name):
    text, found, line = FAULTS[name]
    problem = refusal(tmp_path, text)
    assert found in problem.found
    assert line is None or problem.line == line
    assert len(str(problem)) < 400


def test_an_alias_stands_for_a_copy(tmp_path):
    data = read(tmp_path, "a: &a {b: [1]}\nc: *a\n").data
    assert data["c"] == data["a"] == {"b": [1]}
    data["c"]["b"].append(2)
    assert data["a"] == {"b": [1]}


def test_a_set_value_follows_the_same_rules():
    assert parse_value("[1e-3, no]") == [0.001, "no"]
    assert parse_value("timm:vit_base.laion2b") == "timm:vit_base.laion2b"
    assert parse_value("") is None
    for text in ("!!python/name:os.system x", "[" * 100, "*.weight", "a\n---\nb"):
        with pytest.raises(RecipeError, match="--set"):
            parse_value(text)


def test_what_is_written_reads_back_equal(tmp_path):
    rng = random.Random(0)
    words = ["no", "null", "1e-3", "true", "~", "12:30", "0x1", "<<", "-", "1.", ".inf", "", "a b", "timm:x", "*.w"]
    letters = "a1 :#-'\"\\\n\t[]{}&*!|>%@`é\u2028\x00\x1b\x7f\x85\ufeff\U0001f600.~"

    def text():
        return rng.choice(words) if rng.random() < 0.3 else "".join(rng.choices(letters, k=rng.randrange(6)))

    def value(depth=0):
        kind = rng.randrange(8)
        if kind == 0 and depth < 4:
            return {text(): value(depth + 1) for _ in range(3)}
        if kind == 1 and depth < 4:
            return [value(depth + 1) for _ in range(3)]
        return rng.choice([None, True, False, 1, -5, 1e-8, 0.1, 1e300, -math.inf, text(), text() * 40])

    for _ in range(300):
        data = {"a": value(), text(): value()}
        assert read(tmp_path, write_yaml(data)).data == data


def test_plain_text_is_what_no_other_type_claims():
    assert all(isinstance(parse_scalar(word), str) for word in ("abc", "1a", "1:2", "--1", "e5", "..1"))
