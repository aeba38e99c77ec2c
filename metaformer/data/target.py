"""A sample's target values as tensors: class names become indices, what is missing says so."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metaformer.errors import DataError
from metaformer.types import IGNORE, UNKNOWN, Target


def missing(target: Target) -> Tensor:
    """The tensor of a missing target, without batch axis."""
    if target.kind == "class":
        return torch.tensor(IGNORE)
    if target.kind == "identity":
        return torch.tensor(UNKNOWN)
    if target.kind == "classes":
        return torch.full((1,), IGNORE)
    return torch.full((target.size,), math.nan)


def encode_target(name: str, target: Target, value: Any, classes: Sequence[str] | None) -> Tensor:
    """`value` of the sample key `name`; see `metaformer.types.Target` for the forms. Raises DataError."""
    if value is None or (isinstance(value, float) and math.isnan(value)) or (isinstance(value, str) and not value):
        return missing(target)
    if target.kind == "class":
        return torch.tensor(_index(name, target, value, classes))
    if target.kind == "identity":
        return torch.tensor(_identity(name, value))
    if target.kind == "classes":
        return torch.tensor([_index(name, target, v, classes) for v in _sequence(name, value)])
    if target.kind == "multilabel":
        return _multilabel(name, target, value, classes)
    if target.kind == "scores":
        out = _values(name, target, value)
        wrong = out[(out < 0) | (out > 1)]
        if len(wrong):
            raise DataError(f"target {name!r} needs numbers from 0 to 1", f"{wrong[0].item():g}")
        return out
    return _values(name, target, value)


def stack_targets(target: Target, values: Sequence[Tensor]) -> Tensor:
    """Encoded targets of a batch; token classes are padded with IGNORE."""
    if target.kind != "classes":
        return torch.stack(list(values))
    out = torch.full((len(values), max(len(v) for v in values)), IGNORE)
    for row, value in zip(out, values, strict=True):
        row[: len(value)] = value
    return out


def _identity(name: str, value: Any) -> int:
    """A whole number as it is; a number of 63 bits out of a text, the same in every process."""
    if isinstance(value, str):
        return int.from_bytes(hashlib.sha256(value.encode()).digest()[:8], "little") >> 1
    if isinstance(value, (int, np.integer)) and not isinstance(value, bool) and value >= 0:
        return int(value)
    raise DataError(f"target {name!r} needs a text or a whole number that says what the sample is", repr(value))


def _index(name: str, target: Target, value: Any, classes: Sequence[str] | None) -> int:
    if isinstance(value, str):
        if classes is None:
            raise DataError(
                f"target {name!r} needs a class",
                f"the text {value!r}, and the data set names no classes",
                "give the data set `classes:`, or use indices",
            )
        if value not in classes:
            known = ", ".join(map(repr, classes[:8])) + (" ..." if len(classes) > 8 else "")
            raise DataError(f"target {name!r} needs one of the classes {known}", repr(value))
        return list(classes).index(value)
    if isinstance(value, (bool, np.bool_)):
        value = int(value)
    if not isinstance(value, (int, np.integer)) and not (isinstance(value, float) and value.is_integer()):
        raise DataError(f"target {name!r} needs a class name or index", f"{value!r}")
    index = int(value)
    if not (0 <= index < target.size or index == IGNORE):
        raise DataError(
            f"target {name!r} has classes 0 to {target.size - 1}", str(index), "raise `num_classes` of the head"
        )
    return index


def _multilabel(name: str, target: Target, value: Any, classes: Sequence[str] | None) -> Tensor:
    """Class names (a list, or one text with `;` between them), or one 0/1/missing per class."""
    if isinstance(value, str):
        value = [part.strip() for part in value.split(";") if part.strip()]
    entries = _sequence(name, value)
    if all(isinstance(entry, str) for entry in entries):
        out = torch.zeros(target.size)
        for entry in entries:
            out[_index(name, target, entry, classes)] = 1.0
        return out
    out = _values(name, target, entries)
    wrong = out[~out.isnan() & (out != 0) & (out != 1)]
    if len(wrong):
        raise DataError(f"target {name!r} needs 0, 1 or missing for each class", f"{wrong[0].item():g}")
    return out


def _values(name: str, target: Target, value: Any) -> Tensor:
    entries = [value] if isinstance(value, (str, int, float, np.number)) else _sequence(name, value)
    if len(entries) != target.size:
        raise DataError(f"target {name!r} needs {target.size} numbers", f"{len(entries)}")
    out = torch.tensor([_number(name, entry) for entry in entries], dtype=torch.float32)
    if torch.isinf(out).any():
        raise DataError(f"target {name!r} needs finite numbers", repr(value))
    return out


def _number(name: str, value: Any) -> float:
    if value is None:
        return math.nan
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise DataError(f"target {name!r} needs a number", repr(value)) from error


def _sequence(name: str, value: Any) -> list[Any]:
    if isinstance(value, (Tensor, np.ndarray)):
        return list(value.tolist())
    if isinstance(value, (list, tuple)):
        return list(value)
    raise DataError(f"target {name!r} needs a list", f"{type(value).__name__}: {value!r}")
