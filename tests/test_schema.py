"""Signatures as schemas: what a component's knobs accept, refuse and say; what is wired; the JSON schema."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import jsonschema
import pytest
from pydantic import Field

from metaformer.errors import PluginError, RecipeError
from metaformer.faults import NAME_PATTERN
from metaformer.hookspecs import KINDS
from metaformer.recipe import Name
from metaformer.registry import registry
from metaformer.schema import SHAPES, construct, json_schema, knob_problems, knobs_model, path_knobs, wired_names
from metaformer.yamlfile import read_yaml


class Part:
    """Has a knob of every kind."""

    def __init__(
        self,
        dim: OnlyForCheckers,
        *,
        depth: Annotated[int, Field(gt=0)],
        rate: float = 0.1,
        path: Path | None = None,
        size: tuple[int, int] = (1, 2),
        mode: Literal["mean", "class"] = "mean",
        copy: bool = False,
        patch: int | tuple[int, int] = 4,
        scales: dict[str, float] = {},  # noqa: B006 - what the test is about
    ):
        self.given = {name: value for name, value in locals().items() if name != "self"}


def test_knobs_arrive_with_their_types():
    knobs = {"depth": 2, "rate": 1, "path": "a/b", "size": [3, 4], "copy": True, "patch": [1, 2], "scales": {"x": 1}}
    given = construct(Part, knobs, {"dim": 8, "task": "unused"}).given
    assert given["dim"] == 8
    assert given["rate"] == 1.0
    assert isinstance(given["rate"], float)
    assert given["path"] == Path("a/b")
    assert (given["size"], given["patch"], given["copy"]) == ((3, 4), (1, 2), True)
    assert given["mode"] == "mean"


def test_defaults_are_not_shared_between_instances():
    first = construct(Part, {"depth": 1}, {"dim": 8}).given["scales"]
    first["x"] = 1.0
    assert construct(Part, {"depth": 1}, {"dim": 8}).given["scales"] == {}


@pytest.mark.parametrize(
    ("knobs", "path", "found", "do"),
    [
        ({"depth": "12"}, "depth", "expected a whole number, got the text '12'", "without quotes"),
        ({"depth": 1, "rate": "1e-3"}, "rate", "expected a number, got the text '1e-3'", "write 1e-3 without quotes"),
        ({"depth": 1.5}, "depth", "expected a whole number, got 1.5", "write a whole number"),
        ({"depth": 2.0}, "depth", "expected a whole number, got 2.0", "write 2"),
        ({"depth": True}, "depth", "expected a whole number, got true", ""),
        ({"depth": 0}, "depth", "must be greater than 0, got 0", ""),
        ({}, "depth", "'depth' is missing", "add `depth:`"),
        ({"depth": 1, "copy": "no"}, "copy", "expected true or false, got the text 'no'", "write false"),
        ({"depth": 1, "mode": "meen"}, "mode", "not among 'mean' or 'class'", "did you mean 'mean'?"),
        ({"depth": 1, "size": [1]}, "size.1", "too short", "position 2"),
        ({"depth": 1, "size": [1, 2, 3]}, "size", "at most 2, has 3", ""),
        ({"depth": 1, "patch": "x"}, "patch", "expected a whole number or a list, got the text 'x'", ""),
        ({"depth": 1, "patch": [1, "x"]}, "patch.1", "expected a whole number, got the text 'x'", ""),
        ({"depth": 1, "scales": {"a": "b"}}, "scales.a", "expected a number", ""),
        ({"depth": 1, "deph": 2}, "deph", "there is no key 'deph'", "did you mean 'depth'?"),
        ({"depth": 1, "dim": 2}, "dim", "there is no key 'dim'", "known: "),
    ],
)
def test_one_wrong_knob_is_one_plain_sentence(knobs, path, found, do):
    (problem,) = knob_problems(Part, knobs, "heads.x")
    assert problem.path == f"heads.x.{path}"
    assert found in problem.found
    assert do in problem.do


def test_all_wrong_knobs_are_reported_and_raised():
    with pytest.raises(RecipeError) as caught:
        construct(Part, {"depth": "1", "rate": "x", "zzz": 1}, {"dim": 1}, path="encoders.shared")
    assert [p.path for p in caught.value.problems] == [f"encoders.shared.{k}" for k in ("depth", "rate", "zzz")]


def test_a_constructor_may_refuse_a_combination():
    class Picky:
        def __init__(self, *, a: int, b: int):
            if a % b:
                raise ValueError(f"{a} is not divisible by {b}")

    with pytest.raises(RecipeError, match=r"heads\.x: Picky: 5 is not divisible by 3"):
        construct(Picky, {"a": 5, "b": 3}, {}, path="heads.x")


class Starless:
    def __init__(self, dim: int, size: int = 3):
        pass


class Untyped:
    def __init__(self, *, size=3):
        pass


class Unresolved:
    def __init__(self, *, size: Nowhere):
        pass


class Open:
    def __init__(self, **rest: int):
        pass


class Many:
    def __init__(self, *rest: int):
        pass


class Unwritable:
    def __init__(self, *, good: int = 1, module: type(pytest)):
        pass


class Hidden:
    def __init__(self, *, _size: int = 1):
        pass


@pytest.mark.parametrize(
    ("cls", "found"),
    [
        (Starless, "'size' is nothing the core supplies"),
        (Untyped, "'size' has no type"),
        (Unresolved, "'size' cannot be read"),
        (Open, r"\*\*rest"),
        (Many, r"\*rest"),
        (Unwritable, "the knob 'module'"),
        (Hidden, "underscore"),
    ],
)
def test_a_constructor_outside_the_rule_names_its_class(cls, found):
    with pytest.raises(PluginError, match=rf"(?s){cls.__name__}.*{found}.*star"):
        construct(cls, {}, {"dim": 1})


def test_a_class_without_constructor_has_no_knobs():
    class Bare:
        pass

    assert knobs_model(Bare).model_fields == {}
    assert wired_names(Bare) == ()
    assert isinstance(construct(Bare, {}, {"dim": 1}), Bare)


def test_wired_and_path_knobs_are_read_from_the_signature():
    assert wired_names(Part) == ("dim",)
    assert path_knobs(Part) == ("path",)


def test_every_kind_has_a_shape_and_the_name_rule_is_the_recipes():
    assert set(SHAPES) == set(KINDS)
    assert Name.__metadata__[0].metadata[0].pattern == NAME_PATTERN


@pytest.fixture(scope="module")
def schema():
    return json_schema(registry())


def test_the_json_schema_accepts_what_metaformer_accepts(schema):
    validator = jsonschema.Draft202012Validator(schema)
    validator.check_schema(schema)
    installed = {plugin.distribution for plugin in registry().plugins}
    files = [read_yaml(file) for file in sorted((Path(__file__).parent.parent / "recipes").rglob("*.yaml"))]
    usable = [file.data for file in files if installed.issuperset(file.data.get("requires", []))]
    assert usable
    for data in usable:
        assert [error.message for error in validator.iter_errors(data)] == [], data["name"]


@pytest.mark.parametrize("name", ["01_typo_in_key", "02_typo_in_component", "03_wrong_type", "11_several_at_once"])
def test_the_json_schema_refuses_what_metaformer_refuses(schema, name):
    data = read_yaml(Path(__file__).parent / "broken_recipes" / f"{name}.yaml").data
    assert list(jsonschema.Draft202012Validator(schema).iter_errors(data))


def test_the_json_schema_describes_components_and_settings(schema):
    (transformer,) = (b for b in schema["$defs"]["encoder"]["oneOf"] if b.get("title") == "transformer")
    assert transformer["properties"]["use"] == {"enum": ["transformer", "metaformer:transformer"]}
    assert {"use", "dim", "depth", "num_heads", "weights", "allow_missing"} <= set(transformer["properties"])
    assert transformer["description"]
    assert "epoch" not in schema["properties"]["steps"]
    assert schema["properties"]["keep_last"]["default"] == 2
    assert schema["properties"]["control"]["description"].startswith("Replace the encoder")
