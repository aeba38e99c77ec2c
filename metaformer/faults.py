"""pydantic's errors as plain sentences: what was expected, what stands there, what to write instead."""

from __future__ import annotations

import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails, to_json

from metaformer.errors import Problem
from metaformer.spelling import nearest, suggest
from metaformer.yamlfile import Key, parse_scalar

Model = TypeVar("Model", bound=BaseModel)
Foreign = Callable[[Key, str], str | None]
"""(path, unknown key) → what to do about it, for names that users bring from other tools."""

_EXPECTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "string_type": "text",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "list_type": "a list",
    "tuple_type": "a list",
    "set_type": "a list",
    "frozen_set_type": "a list",
    "dict_type": "a mapping",
    "mapping_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "dataclass_type": "a mapping",
    "path_type": "a path",
    "none_required": "nothing (null)",
}
NAME_PATTERN = r"^[A-Za-z_][A-Za-z0-9_]*$"
_NAME_RULE = "use letters, digits and underscores, and no digit first"
_BOUNDS = {
    "greater_than": ("gt", "greater than"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "less than"),
    "less_than_equal": ("le", "at most"),
    "multiple_of": ("multiple_of", "a multiple of"),
}


def validated(model: type[Model], data: Mapping[str, Any]) -> Model:
    """`data` as `model`, by JSON's rules and strictly: lists serve as tuples, text as paths, whole numbers as
    floats, and nothing else is converted: neither `"12"` to 12 nor `yes` to true."""
    return model.model_validate_json(to_json(data, inf_nan_mode="constants"), strict=True)


def explain(
    error: ValidationError, model: type[BaseModel], data: Any, foreign: Foreign = lambda path, key: None
) -> list[tuple[Key, Problem]]:
    """Each fault with the path it stands at inside `data`, in the order of pydantic's checks."""
    found = [_locate(detail, data) for detail in error.errors(include_url=False)]
    answer: list[tuple[Key, Problem]] = []
    for fault in _without_other_branches(found):
        text, do = _sentence(fault, model, foreign)
        answer.append((fault.at, Problem(dotted(fault.at), text, do)))
    return answer


def dotted(at: Iterable[str | int]) -> str:
    """A path as users write it: `tasks.digits.metrics.0`."""
    return ".".join(str(part) for part in at)


def shape_at(model: type[BaseModel], path: Sequence[str | int]) -> list[type[BaseModel]]:
    """The models that may stand at `path` inside `model`; none where anything may, or nothing."""
    return [choice for choice in _at(model, path) if _is_model(choice)]


def takes_keys(model: type[BaseModel], path: Sequence[str | int]) -> bool:
    """Whether a mapping may stand at `path` inside `model`."""
    return any(_is_model(choice) or get_origin(choice) is dict for choice in _at(model, path))


def known_keys(model: type[BaseModel], path: Sequence[str | int]) -> list[str]:
    """Keys of the fixed parts that may stand at `path`."""
    return [field.alias or name for m in shape_at(model, path) for name, field in m.model_fields.items()]


@dataclass(frozen=True)
class _Fault:
    """One pydantic error: the path into the data without pydantic's marks of union branches."""

    at: Key
    union: Key | None
    """Where the first union stands on the way, if any."""
    detail: ErrorDetails
    alternatives: tuple[str, ...] = ()

    @property
    def shallow(self) -> bool:
        """The whole branch of the union does not fit, rather than something inside it."""
        return self.union == self.at and self.detail["type"] in {*_EXPECTED, "literal_error", "enum"}


def _locate(detail: ErrorDetails, data: Any) -> _Fault:
    at: list[str | int] = []
    union: Key | None = None
    here, loc = data, detail["loc"]
    for index, part in enumerate(loc):
        last = index == len(loc) - 1
        if _holds(here, part):
            here = here[part]
        elif not (last and detail["type"] in ("missing", "extra_forbidden")):
            if part != "[key]" and union is None:
                union = tuple(at)
            continue
        at.append(part)
    return _Fault(tuple(at), union, detail)


def _holds(here: Any, part: str | int) -> bool:
    if isinstance(here, Mapping):
        return part in here
    return isinstance(here, list | tuple) and isinstance(part, int) and part < len(here)


def _without_other_branches(faults: list[_Fault]) -> list[_Fault]:
    """pydantic reports every branch of a union; keep the branch the writer meant, or join them in one."""
    kept: list[_Fault] = []
    for fault in faults:
        if fault.union is None or not fault.shallow:
            kept.append(fault)
            continue
        siblings = [other for other in faults if other.union == fault.union]
        if all(other.shallow for other in siblings) and siblings[0] is fault:
            words = tuple(dict.fromkeys(_expected(other.detail) for other in siblings))
            kept.append(_Fault(fault.at, fault.union, fault.detail, words))
    return kept


def _expected(detail: ErrorDetails) -> str:
    kind, context = detail["type"], detail.get("ctx", {})
    if kind in ("literal_error", "enum"):
        return f"one of {context['expected']}"
    return _EXPECTED[kind]


def _sentence(fault: _Fault, model: type[BaseModel], foreign: Foreign) -> tuple[str, str]:
    """(what is wrong, what to do)."""
    detail = fault.detail
    kind, context, value = detail["type"], detail.get("ctx", {}), detail["input"]
    key = str(fault.at[-1]) if fault.at else ""
    if kind == "extra_forbidden":
        return _unknown_key(fault, model, foreign)
    if kind == "missing":
        return _missing(fault, value)
    if detail["loc"][-1:] == ("[key]",):
        return f"'{key}' cannot be a name", _NAME_RULE
    if kind in ("literal_error", "enum") and not fault.alternatives:
        words = [word.strip().strip("'") for word in context["expected"].replace(" or ", ", ").split(",")]
        close = nearest(value, words) if isinstance(value, str) else None
        do = f"did you mean '{close}'?" if close else f"write one of {context['expected']}"
        return f"{show(value)} is not among {context['expected']}", do
    if kind in _EXPECTED or fault.alternatives:
        expected = " or ".join(fault.alternatives) or _EXPECTED[kind]
        return f"expected {expected}, got {show(value)}", _instead(expected, value)
    if kind in _BOUNDS:
        name, words_ = _BOUNDS[kind]
        return f"must be {words_} {context[name]:g}, got {show(value)}", ""
    if kind == "string_pattern_mismatch":
        if context["pattern"] == NAME_PATTERN:
            return f"{show(value)} cannot be a name", _NAME_RULE
        return f"{show(value)} is not of the form {context['pattern']}", "write it in that form"
    if kind == "too_short":
        return f"needs at least {context['min_length']}, has {context['actual_length']}", ""
    if kind == "too_long":
        return f"takes at most {context['max_length']}, has {context['actual_length']}", ""
    if kind in ("value_error", "assertion_error"):
        return str(context.get("error", detail["msg"])), ""
    return f"{detail['msg'][:1].lower()}{detail['msg'][1:]}, got {show(value)}", ""


def _unknown_key(fault: _Fault, model: type[BaseModel], foreign: Foreign) -> tuple[str, str]:
    key, parent = str(fault.at[-1]), fault.at[:-1]
    known = [name for name in known_keys(model, parent) if name != key]
    where = f"in {dotted(parent)}" if parent else "at the top of the recipe" if "steps" in known else "here"
    return f"there is no key '{key}' {where}", foreign(parent, key) or suggest(key, known, none="it takes none")


def _missing(fault: _Fault, parent: Any) -> tuple[str, str]:
    key = fault.at[-1] if fault.at else ""
    if isinstance(key, int):
        return "the list is too short", f"it lacks the value at position {key + 1}"
    if key == "use" and isinstance(parent, Mapping):
        for other in ("type", "name", "class", "_target_", "kind"):
            if isinstance(parent.get(other), str):
                return (
                    "'use' is missing",
                    f"did you mean `use: {parent[other]}` instead of `{other}: {parent[other]}`?",
                )
        return "'use' is missing", "every component starts with `use: NAME`"
    return f"'{key}' is missing", f"add `{key}:`"


def _instead(expected: str, value: Any) -> str:
    if isinstance(value, str):
        low = value.strip().lower()
        if "true or false" in expected and low in ("yes", "no", "on", "off", "y", "n"):
            return f"YAML 1.2 has two words for it: write {'true' if low in ('yes', 'on', 'y') else 'false'}"
        bare = low.replace("_", "").replace(",", "")
        if "number" in expected and isinstance(parse_scalar(bare), int | float):
            return f"write {bare}" + (" without quotes" if bare == low else "")
    if isinstance(value, float) and "whole number" in expected and value.is_integer():
        return f"write {int(value)}"
    if "a list" in expected and not isinstance(value, Mapping):
        return f"write [{value}]"
    return f"write {expected}"


def show(value: Any) -> str:
    """A value of a recipe in a message, short."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    text = str(value)
    cut = text if len(text) <= 60 else f"{text[:57]}..."
    return f"the text '{cut}'" if isinstance(value, str) else cut


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def choices(annotation: Any) -> list[Any]:
    """An annotation without `Annotated`, unions taken apart."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return choices(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return [choice for inner in get_args(annotation) for choice in choices(inner)]
    return [annotation]


def _at(model: type[BaseModel], path: Sequence[str | int]) -> list[Any]:
    """The types of what may stand at `path` inside `model`."""
    here: list[Any] = [model]
    for part in path:
        here = [inner for annotation in here for inner in _inside(annotation, part)]
    return [choice for annotation in here for choice in choices(annotation)]


def _inside(annotation: Any, part: str | int) -> list[Any]:
    found: list[Any] = []
    for choice in choices(annotation):
        origin, arguments = get_origin(choice), get_args(choice)
        if _is_model(choice):
            fields = {field.alias or name: field for name, field in choice.model_fields.items()}
            if part in fields:
                found.append(fields[str(part)].annotation)
        elif isinstance(part, int) and arguments and origin in (list, tuple):
            fixed = origin is tuple and arguments[-1] is not Ellipsis
            found += [arguments[part]] if fixed and part < len(arguments) else [arguments[0]]
        elif isinstance(part, str) and origin in (dict, Mapping) and len(arguments) == 2:
            found.append(arguments[1])
    return found
