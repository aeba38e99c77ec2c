"""Checks a recipe beyond its shape: installed components, stream names, clashing settings, knobs.

Works on the plain data of the file rather than on a `Recipe`, so that one wrong value hides no other fault.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path, PurePath
from typing import Any

from metaformer.discovery import canonical
from metaformer.errors import PluginError, Problem
from metaformer.faults import dotted
from metaformer.recipe_data import Data, components, list_of, mapping, metric_name, objectives
from metaformer.registry import Registry
from metaformer.schema import SHAPES, knob_problems, taken_knobs
from metaformer.spelling import suggest
from metaformer.yamlfile import Key

DEEPSPEED_KEYS: Mapping[str, str] = {
    "train_batch_size": "batch_size",
    "train_micro_batch_size_per_gpu": "engine.micro_batch",
    "gradient_accumulation_steps": "engine.accumulate",
    "managed_gradient_accumulation": "engine.accumulate",
    "elasticity": "batch_size",
    "optimizer": "optimizer",
    "zero_allow_untested_optimizer": "optimizer",
    "zero_force_ds_cpu_optimizer": "optimizer",
    "scheduler": "schedule",
    "gradient_clipping": "engine.clip",
    "bf16": "engine.precision",
    "bfloat16": "engine.precision",
    "fp16": "engine.precision",
    "amp": "engine.precision",
    "torch_autocast": "engine.precision",
    "data_types": "engine.precision",
    "zero_optimization.stage": "engine.zero",
    "zero_optimization.cpu_offload": "engine.offload.optimizer",
    "zero_optimization.cpu_offload_param": "engine.offload.parameters",
    "zero_optimization.cpu_offload_use_pin_memory": "engine.offload.pin_memory",
    "zero_optimization.offload_optimizer.device": "engine.offload.optimizer",
    "zero_optimization.offload_optimizer.nvme_path": "engine.offload.path",
    "zero_optimization.offload_optimizer.pin_memory": "engine.offload.pin_memory",
    "zero_optimization.offload_param.device": "engine.offload.parameters",
    "zero_optimization.offload_param.nvme_path": "engine.offload.path",
    "zero_optimization.offload_param.pin_memory": "engine.offload.pin_memory",
    "activation_checkpointing": "engine.activation_checkpointing",
    "compile": "engine.compile",
    "checkpoint": "save_every",
    "datastates_ckpt": "save_async",
    "nebula": "save_async",
    "steps_per_print": "log_every",
}
"""DeepSpeed settings that the recipe has words of its own for, by dotted path."""
DEEPSPEED_IDLE: Mapping[str, str] = {
    "wall_clock_breakdown": "DeepSpeed would print it, and its printing is switched off",
    "memory_breakdown": "DeepSpeed would print it, and its printing is switched off",
    "dump_state": "DeepSpeed would print it, and its printing is switched off",
    "tensorboard": "every run writes its own `tensorboard/` and `metrics.jsonl`",
    "csv_monitor": "every run writes its own `metrics.jsonl`",
    "autotuning": "it starts other programs, by DeepSpeed's launcher",
    "sequence_parallel_size": "samples are not cut across ranks",
}
"""DeepSpeed settings that would do nothing, or something else than they say, and why."""


def structure_problems(data: Data, registry: Registry, partial: bool = False) -> list[Problem]:
    """What can be said without importing a component. `partial`: what is not installed is no fault."""
    installed = [] if partial else [*_requirements(data, registry), *_uses(data, registry)]
    return [
        *installed,
        *_streams(data),
        *_encoders(data),
        *_heads(data),
        *_engine(data),
        *_observe(data),
        *_batch(data),
        *_data(data),
        *_best(data),
        *_controls(data),
    ]


def component_problems(data: Data, registry: Registry) -> list[Problem]:
    """What the components say to their knobs. Imports those that the recipe uses."""
    found: list[Problem] = []
    for kind, path, entry in components(data):
        if not isinstance(entry, Mapping) or not isinstance(entry.get("use"), str):
            continue
        knobs = {key: value for key, value in entry.items() if key not in SHAPES[kind].model_fields}
        try:
            registry.find(kind, entry["use"])
        except PluginError:
            continue  # the structure check has said so
        try:
            cls = registry.load(kind, entry["use"])
            found += knob_problems(cls, knobs, dotted(path))
            for knob in taken_knobs(kind, cls):
                fault = f"its knob '{knob}' has a name that entries of this kind use themselves"
                found.append(Problem(dotted(path), fault, "ask the authors of the plugin to rename it"))
        except PluginError as error:
            found.append(Problem(f"{dotted(path)}.use", f"{error.asked}: {error.found}", error.do))
    return found


def _requirements(data: Data, registry: Registry) -> Iterator[Problem]:
    absent = {canonical(other.distribution): (state, other) for state, others in
              (("blocked", registry.disabled), ("broken", registry.broken)) for other in others}  # fmt: skip
    for i, name in enumerate(list_of(data.get("requires"))):
        path = f"requires.{i}"
        if not isinstance(name, str):
            continue
        if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?", name):
            do = "write the name of a distribution alone; versions are recorded in each run's lock"
            yield Problem(path, f"'{name}' is not the name of a distribution", do)
        elif canonical(name) in absent:
            state, other = absent[canonical(name)]
            yield Problem(path, f"{other.distribution} {other.version} is {state}: {other.reason}", other.do)
        elif not _installed(name):
            yield Problem(path, f"the distribution '{name}' is not installed", f"pip install {name}")


def _installed(name: str) -> bool:
    try:
        metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def _uses(data: Data, registry: Registry) -> Iterator[Problem]:
    wanted = [name for name in list_of(data.get("requires")) if isinstance(name, str)]
    missing = [name for name in wanted if re.fullmatch(r"[\w.-]+", name) and not _installed(name)]
    for kind, path, entry in components(data):
        name = entry.get("use") if isinstance(entry, Mapping) else None
        if not isinstance(name, str):
            continue
        word = path[-2:-1] == ("metrics",) and isinstance(mapping(data, *path[:-2])["metrics"][path[-1]], str)
        try:
            registry.find(kind, name)
        except PluginError as error:
            known = any(entry.component.name == name for entry in registry.components(kind))
            do = error.do
            # The recipe says itself where the component comes from: better than any guess.
            if missing and not known and "did you mean" not in do:
                do = f"pip install {' '.join(missing)} (named under `requires`)"
            yield Problem(dotted(path if word else (*path, "use")), error.found, do)


def _streams(data: Data) -> Iterator[Problem]:
    tokenizers, passes = dict(mapping(data, "tokenizers")), mapping(data, "passes")
    for name, like in mapping(data, "streams").items():
        if name in tokenizers:
            yield Problem(f"streams.{name}", f"there already is a stream '{name}'", "give the new stream its own name")
        else:
            yield from _stream(("streams", name), like, mapping(data, "tokenizers"))
    tokenizers |= mapping(data, "streams")
    for name, entry in passes.items():
        reads = entry.get("reads") if isinstance(entry, Mapping) else None
        if reads is None and name not in tokenizers:
            do = f"give it `reads:`, or the name of a tokenizer; {suggest(name, tokenizers)}"
            yield Problem(f"passes.{name}", f"no tokenizer makes a stream '{name}'", do)
        for i, stream in enumerate(list_of(reads)):
            yield from _stream(("passes", name, "reads", i), stream, tokenizers)
    known = dict.fromkeys([*tokenizers, *passes])
    bridges = mapping(data, "bridges")
    for name, entry in bridges.items():
        roles = mapping(entry if isinstance(entry, Mapping) else {}, "reads")
        for role, stream in roles.items():
            if isinstance(stream, str) and stream in bridges and stream not in known:
                found = f"the stream '{stream}' is made by this bridge itself or by one further down"
                yield Problem(f"bridges.{name}.reads.{role}", found, "bridges run in order: move that one up")
            else:
                yield from _stream(("bridges", name, "reads", role), stream, known)
        if name in known:
            yield Problem(f"bridges.{name}", f"there already is a stream '{name}'", "give the new stream its own name")
        known[name] = None
    for name, entry in mapping(data, "heads").items():
        if isinstance(entry, Mapping):
            yield from _stream(("heads", name, "reads"), entry.get("reads"), known)


def _stream(path: Key, stream: Any, known: Mapping[str, Any]) -> Iterator[Problem]:
    if isinstance(stream, str) and stream not in known:
        yield Problem(dotted(path), f"there is no stream '{stream}'", suggest(stream, known))


def _encoders(data: Data) -> Iterator[Problem]:
    encoders, passes = mapping(data, "encoders"), mapping(data, "passes")
    named: set[str] = set()
    for name, entry in passes.items():
        if not isinstance(entry, Mapping):
            continue
        reads = entry.get("reads")
        named.update([name] if reads is None else [s for s in list_of(reads) if isinstance(s, str)])
        encoder = entry.get("encoder", "shared")
        if isinstance(encoder, str) and encoder not in encoders:
            at = f"passes.{name}.encoder" if "encoder" in entry else f"passes.{name}"
            yield Problem(at, f"there is no encoder '{encoder}'", suggest(encoder, encoders, "add it under `encoders`"))
    streams = [*mapping(data, "tokenizers"), *mapping(data, "streams")]
    alone = [stream for stream in streams if stream not in named]
    if alone and "shared" not in encoders:
        told = ", ".join(f"'{stream}'" for stream in alone)
        do = f"add `encoders: {{shared: ...}}`, or `passes: {{{alone[0]}: {{encoder: NAME or null}}}}`"
        yield Problem("encoders", f"there is no encoder 'shared', which {told} would pass through by default", do)


def _heads(data: Data) -> Iterator[Problem]:
    heads = mapping(data, "heads")
    for kind, path, entry in components(data):
        head = entry.get("head") if isinstance(entry, Mapping) else None
        # What objectives judge by themselves goes by their own name, where it has no head's.
        own = objectives(data, path[1]) if kind == "metric" else ()
        if kind in ("objective", "metric") and isinstance(head, str) and head not in (*heads, *own):
            yield Problem(dotted((*path, "head")), f"there is no head '{head}'", suggest(head, heads))


def _engine(data: Data) -> Iterator[Problem]:
    engine = mapping(data, "engine")
    yield from _deepspeed(data)
    if engine.get("use") != "torch":
        yield from _offload(engine)
        if engine.get("compile") is True and engine.get("zero") == 3:
            found = "compiled blocks need whole parameters, and ZeRO 3 cuts them into pieces"
            yield Problem("engine.compile", found, "remove it, or write `zero: 2`")
        return
    offload = any(mapping(engine, "offload").values())
    for key, value in (("config", engine.get("config")), ("zero", engine.get("zero")), ("offload", offload)):
        if value:
            found = "the torch engine has no such setting: it is DeepSpeed's"
            yield Problem(f"engine.{key}", found, "remove it, or write `use: deepspeed`")


def _deepspeed(data: Data) -> Iterator[Problem]:
    """Settings of `engine.config` that have another place. Which there are at all DeepSpeed is asked itself, later."""
    config = mapping(data, "engine", "config")
    for key, word in DEEPSPEED_KEYS.items():
        *parents, last = key.split(".")
        inner = mapping(config, *parents)
        if last not in inner or (word == "engine.precision" and mapping(inner, last).get("enabled") is False):
            continue
        yield Problem(f"engine.config.{key}", "the recipe sets this itself", f"use `{word}` instead")
    for key, reason in DEEPSPEED_IDLE.items():
        if key in config:
            yield Problem(f"engine.config.{key}", f"it has no use here: {reason}", "remove it")
    if not isinstance(config.get("zero_optimization", {}), Mapping):
        do = "write its settings; the stage alone is `engine.zero`"
        yield Problem("engine.config.zero_optimization", "expected a mapping", do)
    for part, word in (("offload_optimizer", "optimizer"), ("offload_param", "parameters")):
        further = mapping(config, "zero_optimization").get(part)
        if further and not mapping(data, "engine", "offload").get(word):
            found = "it goes with offloading, which the recipe does not ask for"
            yield Problem(f"engine.config.zero_optimization.{part}", found, f"write `engine.offload.{word}` as well")


def _offload(engine: Data) -> Iterator[Problem]:
    offload, zero = mapping(engine, "offload"), engine.get("zero", 0)
    optimizer, parameters = offload.get("optimizer"), offload.get("parameters")
    if zero not in (0, 1, 2, 3):
        return  # said elsewhere
    if optimizer and zero == 0:
        found = "without ZeRO the optimizer's state stays where the weights are"
        yield Problem("engine.offload.optimizer", found, "write `engine.zero: 1` or higher, or remove it")
    elif optimizer == "nvme" and zero != 3:
        found = f"ZeRO {zero} keeps it in the host's memory, and only ZeRO 3 on a disk"
        yield Problem("engine.offload.optimizer", found, "write `cpu`, or `engine.zero: 3`")
    if parameters and zero != 3:
        found = f"ZeRO {zero} leaves all parameters on every device: only ZeRO 3 takes them away"
        yield Problem("engine.offload.parameters", found, "write `engine.zero: 3`, or remove it")
    disk = "nvme" in (optimizer, parameters)
    if disk and not offload.get("path"):
        found = "'nvme' needs a folder on a fast local disk"
        yield Problem("engine.offload.path" if "path" in offload else "engine.offload", found, "add `path: FOLDER`")
    if offload.get("path") and not disk:
        found = "it is the folder of what is offloaded to 'nvme', and nothing is"
        yield Problem("engine.offload.path", found, "write `optimizer: nvme` or `parameters: nvme`, or remove it")


def _observe(data: Data) -> Iterator[Problem]:
    if mapping(data, "observe").get("every") and mapping(data, "engine").get("zero") == 3:
        found = "a task's own gradient needs whole parameters, and ZeRO 3 cuts them into pieces"
        yield Problem("observe.every", found, "remove it, or write `engine.zero: 2`")


def _batch(data: Data) -> Iterator[Problem]:
    batch, engine = data.get("batch_size"), mapping(data, "engine")
    factors = {key: engine[key] for key in ("micro_batch", "accumulate") if isinstance(engine.get(key), int)}
    product = 1
    for factor in factors.values():
        product *= factor
    if isinstance(batch, int) and factors and product > 0 and batch % product:
        words = " x ".join(f"engine.{key}" for key in factors)
        found = f"{batch} is not a multiple of {words} = {product}"
        yield Problem("batch_size", found, f"write {max(batch // product, 1) * product}, or change {words}")


def _data(data: Data) -> Iterator[Problem]:
    entries = {task: mapping(data, "tasks", task).get("data") for task in mapping(data, "tasks")}
    given = {task: entry for task, entry in entries.items() if isinstance(entry, Mapping)}
    idle = [task for task, entry in given.items() if not entry.get("train") and not entry.get("valid")]
    for task in idle:
        yield Problem(f"tasks.{task}.data", "neither `train` nor `valid` data", "give it one of them, or both")
    if given and given.keys() == entries.keys() and not idle and not any(e.get("train") for e in given.values()):
        yield Problem("tasks", "no task has data to train on", "give one of them `data.train`")


def _best(data: Data) -> Iterator[Problem]:
    metric = mapping(data, "best").get("metric")
    if not isinstance(metric, str):
        return
    task, slash, name = metric.partition("/")
    tasks = mapping(data, "tasks")
    names = {
        key: [*(metric_name(m) for m in list_of(mapping(data, "tasks", key).get("metrics"))), "loss"] for key in tasks
    }
    if not slash or task not in tasks or name not in names[task]:
        choice = [f"{key}/{inner}" for key, inners in names.items() for inner in inners]
        do = suggest(metric, choice, "add metrics to the task")
        yield Problem("best.metric", f"there is no metric '{metric}'", do)
    elif mapping(data, "tasks", task, "data").get("valid") is None:
        do = f"add `tasks.{task}.data.valid`, or choose a metric of another task"
        yield Problem("best.metric", f"task '{task}' has no valid data to measure it on", do)


def _controls(data: Data) -> Iterator[Problem]:
    control, controls = data.get("control"), list_of(data.get("controls"))
    if (control or controls) and not mapping(data, "encoders"):
        at = "control" if control else "controls"
        yield Problem(at, "controls replace the encoder, and there is none", f"remove `{at}`, or add an encoder")
    if control and controls:
        found = "this run is a control itself (`control`): it takes no controls"
        yield Problem("controls", found, "remove one of the two")
    twice = sorted({str(c) for c in controls if controls.count(c) > 1})
    if twice:
        yield Problem("controls", f"'{twice[0]}' is named twice", "name it once")


def output_problems(data: Data) -> list[Problem]:
    """A recipe, and the folder it lies in, may come from a stranger: where it writes outside this folder, also
    through a link, the user has to say so."""
    return _outside("output", data.get("output", "runs"), str(data.get("name")))


def offload_problems(data: Data) -> list[Problem]:
    """The same of the folder that DeepSpeed writes to."""
    return _outside("engine.offload.path", mapping(data, "engine", "offload").get("path"), "zero_stage_3")


def _outside(path: str, folder: Any, below: str) -> list[Problem]:
    if not isinstance(folder, str):
        return []
    do = f"say so on the command line: --set {path}={folder}"
    if ".." in PurePath(folder).parts or PurePath(folder).is_absolute():
        return [Problem(path, f"'{folder}' is outside the working directory", do)]
    here = Path.cwd().resolve()
    try:
        leads = (here / folder / below).resolve()
    except (OSError, RuntimeError, ValueError) as error:  # a link to itself, a null character
        return [Problem(path, f"{folder!r} is no folder: {error}", "name another folder")]
    if leads.is_relative_to(here):
        return []
    return [Problem(path, f"'{folder}' leads outside the working directory, by a link to {leads}", do)]
