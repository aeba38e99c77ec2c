"""S4. YAML whose plain words mean other things elsewhere: `no`, `on`, `1e-3`, `12:30`, `012` are what is documented."""

from __future__ import annotations

import math

import pytest

from metaformer.yamlfile import read_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001), ("1.0e-3", 0.001), (".5", 0.5), ("1.", 1.0), ("-7", -7), ("+5", 5), ("012", 12),
        ("0x10", 16), ("0o17", 15), ("true", True), ("False", False), ("null", None), ("~", None), ("", None),
        ("-.inf", -math.inf), ("no", "no"), ("on", "on"), ("y", "y"), ("12:30", "12:30"),
        ("2020-01-01", "2020-01-01"), ("1_000", "1_000"), ("1e", "1e"), ("0x", "0x"), ("nan", "nan"),
    ],
)  # fmt: skip
def test_plain_scalars_are_typed_by_the_core_schema(tmp_path, text, value):
    path = tmp_path / "recipe.yaml"
    path.write_text(f"a: {text}\n")
    found = read_yaml(path).data["a"]
    assert (found, type(found)) == (value, type(value))
    path.write_text(f'a: "{text}"\n')
    assert read_yaml(path).data["a"] == text
