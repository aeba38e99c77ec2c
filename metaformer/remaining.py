"""What is left of a trained run where some of its plugins are not installed any more: the other modalities go on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from metaformer.errors import PluginError
from metaformer.recipe import Entry, Task
from metaformer.recipe_file import metric_entry
from metaformer.registry import registry
from metaformer.run import Run
from metaformer.trainable import words


def remaining(run: Run) -> tuple[Run, tuple[str, ...]]:
    """The run with a recipe of what the installed plugins can still make, and the module names of what is gone.

    The same run, and nothing, where all is there. A joint pass goes on with the streams that are left, as it does for
    samples that lack one. Raises PluginError where no stream is left."""
    recipe = run.recipe
    streams = {name for name, entry in recipe.tokenizers.items() if not _there("tokenizer", entry)}
    gone = streams | {
        *(name for name, entry in recipe.bridges.items() if not _there("bridge", entry)),
        *(name for name, entry in recipe.heads.items() if not _there("head", entry)),
    }
    streams |= {name for name, like in recipe.streams.items() if like in streams}
    gone |= streams
    passes, reads = {}, {}
    for name, route in recipe.passes.items():
        reads[name] = tuple(stream for stream in route.reads or (name,) if stream not in streams)
        passes[name] = route.model_copy(update={"reads": reads[name]})
    gone |= {name for name, left in reads.items() if not left}
    while True:  # bridges may read bridges, and stand in any order
        more = {name for name, entry in recipe.bridges.items() if gone & set(entry.reads.values())}
        more |= {name for name, entry in recipe.heads.items() if entry.reads in gone}
        if more <= gone:
            break
        gone |= more
    tasks = {name for name, task in recipe.tasks.items() if not _possible(task, gone)}
    if not gone and not tasks:
        return run, ()
    if streams >= recipe.tokenizers.keys():
        missing = ", ".join(sorted({entry.use for entry in recipe.tokenizers.values()}))
        raise PluginError(f"use {run.path}", f"no installed plugin offers its tokenizers ({missing})", "install them")

    def left(entries: Mapping[str, Any], without: set[str]) -> dict[str, Any]:
        return {name: entry for name, entry in entries.items() if name not in without}

    changes = {
        "tokenizers": left(recipe.tokenizers, gone),
        "streams": left(recipe.streams, gone),
        "passes": left(passes, gone),
        "bridges": left(recipe.bridges, gone),
        "heads": left(recipe.heads, gone),
        "tasks": left(recipe.tasks, tasks),
        # Nothing will be trained, and globs of what is gone would match nothing.
        "trainable": "lora" if "lora" in words(recipe.trainable) else "frozen",
        "requires": (),
    }
    parts = [
        *(f"tokenizers.{name}" for name in sorted(streams & recipe.tokenizers.keys())),
        *(f"passes.{name}" for name in sorted(gone & recipe.passes.keys()) if recipe.passes[name].types),
        *(f"bridges.{name}" for name in sorted(gone & recipe.bridges.keys())),
        *(f"heads.{name}" for name in sorted(gone & recipe.heads.keys())),
        *(f"objectives.{name}" for name in sorted(tasks)),
    ]
    reduced = Run(run.path, run.file.replaced(recipe.model_copy(update=changes)), run.base)
    return reduced, tuple(parts)


def _there(kind: str, entry: Entry) -> bool:
    try:
        registry().find(kind, entry.use)
    except PluginError:
        return False
    return True


def _possible(task: Task, gone: set[str]) -> bool:
    data = [entry for entry in (task.data.train, task.data.valid) if entry is not None]
    return (
        all(_there("dataset", entry) for entry in data)
        and all(_there("objective", entry) and not gone & _names(entry.knobs) for entry in task.objectives)
        and all(_there("metric", metric_entry(metric)) for metric in task.metrics)
    )


def _names(value: Any) -> set[str]:
    """Every text in the knobs of an objective: names of heads and streams are among them."""
    if isinstance(value, str):
        return {value}
    if isinstance(value, Mapping):
        return set().union(*map(_names, value.values()))
    if isinstance(value, list | tuple):
        return set().union(*map(_names, value))
    return set()
