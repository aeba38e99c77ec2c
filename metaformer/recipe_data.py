"""Finding one's way in the plain data of a recipe, which may have any fault.

Works on what the file says rather than on a `Recipe`, so that one wrong value hides no other fault.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from metaformer.yamlfile import Key

Data = Mapping[str, Any]


def components(data: Data) -> Iterator[tuple[str, Key, Data]]:
    """Every component entry of a recipe: kind, path, entry. Metrics written as a word come as entries too."""
    for kind in ("tokenizer", "encoder", "bridge", "head"):
        for name, entry in mapping(data, f"{kind}s").items():
            yield kind, (f"{kind}s", name), entry
    for task in mapping(data, "tasks"):
        here: Key = ("tasks", task)
        for which, entry in mapping(data, *here, "data").items():
            if which in ("train", "valid") and entry is not None:
                yield "dataset", (*here, "data", which), entry
        objective = mapping(data, *here).get("objective")
        if isinstance(objective, list):
            yield from (("objective", (*here, "objective", i), entry) for i, entry in enumerate(objective))
        elif objective is not None:
            yield "objective", (*here, "objective"), objective
        for i, metric in enumerate(list_of(mapping(data, *here).get("metrics"))):
            yield "metric", (*here, "metrics", i), metric_data(metric) if isinstance(metric, str) else metric


def objectives(data: Data, task: str | int) -> list[str]:
    """Names of a task's objectives."""
    entries = [entry for kind, path, entry in components(data) if kind == "objective" and path[1] == task]
    return [str(entry["use"]).rpartition(":")[2] for entry in entries if isinstance(entry, Mapping) and "use" in entry]


def metric_data(word: str) -> dict[str, Any]:
    """A metric written as a word: `accuracy@5` is `{use: accuracy, top_k: 5}`."""
    match = re.fullmatch(r"(.+)@(\d{1,9})", word)
    return {"use": match[1], "top_k": int(match[2])} if match else {"use": word}


def metric_name(item: Any) -> str:
    """What a metric is called in results: as written where it is a word."""
    if not isinstance(item, Mapping):
        return str(item)
    name = str(item.get("use")).rpartition(":")[2]
    name += f"@{item['top_k']}" if "top_k" in item else ""
    return f"{name}/{item['head']}" if item.get("head") else name


def mapping(data: Data, *path: str | int) -> Mapping[str, Any]:
    """The mapping at a path; empty where there is none or something else."""
    here: Any = data
    for part in path:
        here = here.get(part) if isinstance(here, Mapping) else None
    return here if isinstance(here, Mapping) else {}


def list_of(value: Any) -> list[Any]:
    """The value where it is a list, else an empty one."""
    return value if isinstance(value, list) else []
