"""The signature is the schema: recipes' knobs are checked against the constructors of the components.

Positional arguments are wired by the core, keyword-only ones are the recipe's knobs. The JSON schema of
everything installed is made from the same signatures, for editors.
"""

from __future__ import annotations

import ast
import functools
import inspect
import types
from collections.abc import Hashable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, PydanticUserError, ValidationError, create_model
from pydantic.errors import PydanticSchemaGenerationError

from metaformer import recipe
from metaformer.errors import PluginError, Problem, RecipeError
from metaformer.faults import choices, explain, validated
from metaformer.recipe import BridgeEntry, Entry, HeadEntry, MetricEntry, ObjectiveEntry, Recipe, WeightedEntry
from metaformer.spelling import suggest

if TYPE_CHECKING:
    from metaformer.registry import Registered, Registry

SHAPES: Mapping[str, type[Entry]] = {
    "tokenizer": WeightedEntry,
    "encoder": WeightedEntry,
    "bridge": BridgeEntry,
    "head": HeadEntry,
    "objective": ObjectiveEntry,
    "metric": MetricEntry,
    "dataset": Entry,
}
"""Component kind → the shape of its entries in a recipe, apart from the knobs."""

_TAKEN = frozenset(dir(BaseModel))
_RULE = "before the star: what the core wires; after the star: the recipe's knobs, annotated"


def wired_names(cls: type) -> tuple[str, ...]:
    """Names of the positional constructor arguments, which the core supplies."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return tuple(p.name for p in _parameters(cls) if p.kind in kinds)


def knobs_model(cls: type) -> type[BaseModel]:
    """A pydantic model of the keyword-only constructor arguments; unknown keys are errors."""
    return _knobs_model(cls)


@functools.cache
def _knobs_model(cls: Hashable) -> type[BaseModel]:
    assert isinstance(cls, type)
    parameters = [p for p in _parameters(cls) if p.kind is inspect.Parameter.KEYWORD_ONLY]
    hints = _hints(cls, parameters)
    fields: dict[str, Any] = {}
    for parameter in parameters:
        name = parameter.name
        if name.startswith("_"):
            raise _unfit(cls, f"the knob '{name}' starts with an underscore")
        default = ... if parameter.default is parameter.empty else parameter.default
        # Some names belong to pydantic's models (`copy`, `schema`): such a knob goes by an alias.
        field = f"{name}_" if name in _TAKEN else name
        fields[field] = (hints[name], Field(default, alias=name if name in _TAKEN else None))
    try:
        return _model(cls, fields)
    except (PydanticUserError, PydanticSchemaGenerationError):
        for field, definition in fields.items():
            try:
                _model(cls, {field: definition})
            except (PydanticUserError, PydanticSchemaGenerationError) as error:
                fault = f"the knob '{field}' has the type {definition[0]}, which no recipe can write"
                raise _unfit(cls, fault) from error
        raise


def knob_problems(cls: type, knobs: Mapping[str, Any], path: str = "") -> list[Problem]:
    """What is wrong with the knobs of a component whose entry stands at `path` in a recipe."""
    model = knobs_model(cls)
    try:
        validated(model, knobs)
    except ValidationError as error:
        faults = explain(error, model, knobs)
        return [Problem(f"{path}.{p.path}".strip("."), p.found, p.do) for _, p in faults]
    return []


def construct(cls: type[Any], knobs: Mapping[str, Any], wired: Mapping[str, Any], path: str = "") -> Any:
    """An instance of `cls`: knobs validated, and of `wired` only what its constructor asks for.

    `path`: where the entry stands in the recipe, for errors. Knobs that are refused, also by a ValueError of
    the constructor itself, are a `RecipeError`; a constructor that asks for more is a `PluginError`."""
    names = wired_names(cls)
    for name in names:
        if name not in wired:
            found = f"its positional argument '{name}' is nothing the core supplies here; {suggest(name, wired)}"
            raise _unfit(cls, found)
    problems = knob_problems(cls, knobs, path)
    if problems:
        raise RecipeError(cls.__name__, problems)
    settings = validated(knobs_model(cls), knobs)
    given = {field.alias or name: getattr(settings, name) for name, field in knobs_model(cls).model_fields.items()}
    try:
        return cls(*(wired[name] for name in names), **given)
    except ValueError as error:
        raise RecipeError(cls.__name__, [Problem(path, f"{cls.__name__}: {error}", "change its knobs")]) from error


def path_knobs(cls: type) -> tuple[str, ...]:
    """Knobs whose type is a path, or may be one."""
    fields = knobs_model(cls).model_fields.items()
    return tuple(field.alias or name for name, field in fields if Path in choices(field.annotation))


def taken_knobs(kind: str, cls: type) -> list[str]:
    """Knobs that no recipe can set, because entries of this kind use the name for the wiring."""
    wiring = SHAPES[kind].model_fields
    return [field.alias or name for name, field in knobs_model(cls).model_fields.items() if name in wiring]


def _unfit(cls: type, found: str) -> PluginError:
    return PluginError(f"constructor of {cls.__module__}.{cls.__qualname__}", found, _RULE)


def _init(cls: type) -> Any:
    """The constructor as its author wrote it, or None where there is none between the class and torch."""
    for owner in cls.__mro__:
        if "__init__" in vars(owner):
            outside = owner is object or owner.__module__.partition(".")[0] == "torch"
            return None if outside else inspect.unwrap(vars(owner)["__init__"])
    return None


def _parameters(cls: type) -> Iterator[inspect.Parameter]:
    init = _init(cls)
    if init is None:
        return
    for parameter in list(inspect.signature(init).parameters.values())[1:]:
        if parameter.kind is parameter.VAR_KEYWORD:
            raise _unfit(cls, f"it takes **{parameter.name}, so that nobody can check the knobs")
        if parameter.kind is parameter.VAR_POSITIONAL:
            raise _unfit(cls, f"it takes *{parameter.name}")
        yield parameter


def _hints(cls: type, parameters: list[inspect.Parameter]) -> dict[str, Any]:
    """Types of the knobs. Wired arguments are left alone: their types may be importable for checkers only."""
    init = _init(cls)
    hints: dict[str, Any] = {}
    for parameter in parameters:
        if parameter.annotation is parameter.empty:
            raise _unfit(cls, f"the knob '{parameter.name}' has no type")
        one = types.SimpleNamespace(__annotations__={parameter.name: parameter.annotation})
        try:
            found = get_type_hints(one, globalns=init.__globals__, localns=dict(vars(cls)), include_extras=True)
        except Exception as error:
            raise _unfit(cls, f"the type of the knob '{parameter.name}' cannot be read ({error})") from error
        hints |= found
    return hints


def _model(cls: type, fields: Mapping[str, Any]) -> type[BaseModel]:
    config = ConfigDict(extra="forbid", protected_namespaces=())
    definitions = {name: (Annotated[hint, field], field.default) for name, (hint, field) in fields.items()}
    made: type[BaseModel] = create_model(f"{cls.__name__}Knobs", __config__=config, **definitions)  # type: ignore[call-overload]
    return made


def json_schema(registry: Registry) -> dict[str, Any]:
    """JSON schema of a whole recipe with every installed component. Imports them all, and so torch."""
    schema = Recipe.model_json_schema()
    definitions: dict[str, Any] = schema["$defs"]
    documented = _field_docs()
    for name, definition in [("Recipe", schema), *definitions.items()]:
        for field, docs in documented.get(name, {}).items():
            definition["properties"][field]["description"] = docs
    for kind, (owner, field) in _PLACES.items():
        branches = [_entry_schema(registry, entry, definitions) for entry in registry.components(kind)]
        known: dict[str, Any] = {"oneOf": branches} if branches else {"not": {}}
        definitions[kind] = {"description": f"A {kind}: `use:` and its knobs.", **known}
        fields = [field] if field != "data" else ["train", "valid"]
        properties = (schema if owner == "Recipe" else definitions[owner])["properties"]
        for name in fields:
            properties[name] = _retarget(properties[name], SHAPES[kind].__name__, kind)
    _name_metrics(definitions["Task"]["properties"]["metrics"], registry)
    for shape in {shape.__name__ for shape in SHAPES.values()}:
        definitions.pop(shape, None)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "metaformer recipe"}


_PLACES = {
    "tokenizer": ("Recipe", "tokenizers"),
    "encoder": ("Recipe", "encoders"),
    "bridge": ("Recipe", "bridges"),
    "head": ("Recipe", "heads"),
    "dataset": ("Data", "data"),
    "objective": ("Task", "objective"),
    "metric": ("Task", "metrics"),
}
"""Component kind → (part of a recipe, key) where its entries stand."""


def _entry_schema(registry: Registry, entry: Registered, definitions: dict[str, Any]) -> dict[str, Any]:
    """Schema of `{use: NAME, ...}` for one component; one that cannot be imported takes any knobs."""
    names = [entry.component.name, entry.pinned]
    if sum(other.component.name == names[0] for other in registry.components(entry.kind)) > 1:
        names = names[1:]
    wiring = SHAPES[entry.kind].model_json_schema()
    properties = {"use": {"enum": names} if len(names) > 1 else {"const": names[0]}}
    properties |= {name: value for name, value in wiring["properties"].items() if name != "use"}
    required = list(wiring["required"])
    summary = f"{entry.component.summary} ({entry.distribution} {entry.version})".strip()
    try:
        cls = registry.load(entry.kind, entry.pinned)
        knobs = knobs_model(cls).model_json_schema(ref_template=f"#/$defs/{entry.pinned}.{{model}}")
    except PluginError as error:
        description = f"{summary} Unusable: {error.found}"
        return {"type": "object", "description": description, "properties": properties, "required": required}
    definitions.update({f"{entry.pinned}.{name}": part for name, part in knobs.pop("$defs", {}).items()})
    docs = inspect.cleandoc(vars(cls).get("__doc__") or "").partition("\n\n")[0]
    return {
        "type": "object",
        "title": names[0],
        "description": "\n\n".join(filter(None, [summary, docs])),
        "properties": properties | knobs.get("properties", {}),
        "required": required + knobs.get("required", []),
        "additionalProperties": False,
    }


def _name_metrics(schema: dict[str, Any], registry: Registry) -> None:
    """Metrics may be plain names, with `@k`: offer the installed ones for completion."""
    names = sorted({name for r in registry.components("metric") for name in (r.component.name, r.pinned)})
    for branch in schema["items"]["anyOf"]:
        if branch.get("type") == "string":
            branch["anyOf"] = [{"enum": names}, {"pattern": "^[^@]+@[0-9]+$"}]


def _retarget(node: Any, old: str, new: str) -> Any:
    if isinstance(node, dict):
        if node.get("$ref") == f"#/$defs/{old}":
            return {**node, "$ref": f"#/$defs/{new}"}
        return {key: _retarget(value, old, new) for key, value in node.items()}
    return [_retarget(item, old, new) for item in node] if isinstance(node, list) else node


def _field_docs() -> dict[str, dict[str, str]]:
    """The strings under the fields of the recipe's classes, which python itself does not keep."""
    found: dict[str, dict[str, str]] = {}
    for part in ast.parse(inspect.getsource(recipe)).body:
        if isinstance(part, ast.ClassDef):
            pairs = zip(part.body, part.body[1:], strict=False)
            found[part.name] = {
                field.target.id: " ".join(below.value.value.split())
                for field, below in pairs
                if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
                if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
                if isinstance(below.value.value, str)
            }
    return found
