"""What test_universal.py runs in ranks: train, save and load with any engine, ZeRO stage and number of ranks.

    python -m tests.ranks.universal_ranks FOLDER LAUNCHES

LAUNCHES is a list of [number of ranks, what they are told]; each is made by new processes, one after the other.
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, distributed, nn

from metaformer.engine import Place, batching, find_place, start_engine
from metaformer.engine.universal import check_universal, load_universal, to_universal
from metaformer.errors import MetaformerError
from metaformer.recipe import Recipe
from tests.ranks.forked import in_ranks

BEFORE, AFTER, ROWS = 3, 2, 8
"""Steps before the checkpoint and after it, and samples in each."""


class Model(nn.Module):
    """Odd sizes, a frozen layer, a buffer, two learning rates, and a parameter that never has a gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.tokenizer = nn.Linear(5, 7)
        self.encoder = nn.Linear(7, 7)
        self.encoder.requires_grad_(False)
        self.twin = nn.Linear(7, 7)
        self.norm = nn.LayerNorm(7)
        self.register_buffer("offset", torch.full((7,), 0.1))
        self.head = nn.Linear(7, 3)
        self.idle = nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.encoder(self.tokenizer(x)) + self.offset)
        return self.head(self.norm(torch.tanh(self.twin(x))))


class Step(nn.Module):
    """The place of `metaformer.model.Step`: what engines wrap."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        return {"loss": (self.model(batch[0]) - batch[1]).square().mean()}


def recipe(name: str) -> Recipe:
    """`zero2` or `torch`, with `adamw` or `-sgd`."""
    engine, _, optimizer = name.partition("-")
    adamw = {"use": "adamw", "lr": 0.01, "weight_decay": 0.1, "groups": [{"match": "tokenizer.*", "lr_scale": 0.5}]}
    return Recipe.model_validate(
        {
            "name": "tiny",
            "tokenizers": {"x": {"use": "x"}},
            "heads": {"x": {"use": "x", "reads": "x"}},
            "tasks": {"x": {"data": {"train": {"use": "x"}}, "objective": {"use": "x"}}},
            "steps": BEFORE + AFTER,
            "batch_size": ROWS,
            "optimizer": {**adamw, "use": optimizer or "adamw"},
            "engine": {"use": "torch"} if engine == "torch" else {"use": "deepspeed", "zero": int(engine[-1])},
        }
    )


def make(name: str, place: Place, weights: dict[str, Tensor] | None = None) -> Any:
    """An engine around a model, as it was drawn or with these weights."""
    torch.manual_seed(0 if weights is None else 1)
    model = Model()
    if weights is not None:
        model.load_state_dict(weights)
    return start_engine(Step(model), recipe(name), place, batching(recipe(name), place.world))


def train(engine: Any, place: Place, steps: range) -> list[float]:
    """The losses of some steps over all ranks, whose samples do not depend on the number of ranks."""
    losses = []
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        x, y = torch.randn(ROWS, 5, generator=generator), torch.randn(ROWS, 3, generator=generator)
        loss = engine.forward((x.chunk(place.world)[place.rank], y.chunk(place.world)[place.rank]))["loss"]
        engine.backward(loss)
        engine.step(0.01)
        losses += [value / place.world for value in place.total([loss.item()])]
    return losses


def inside(engine: Any) -> dict[str, dict[str, Tensor]]:
    """What the optimizer holds of each parameter, read without the code under test; frozen parameters too."""
    whole = isinstance(engine.optimizer, torch.optim.Optimizer)
    if not whole:
        from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

        link(engine.optimizer)
    moments = ("momentum_buffer",) if "momentum" in engine.optimizer.param_groups[0] else ("exp_avg", "exp_avg_sq")
    steps = [
        s["step"] for s in (engine.optimizer if whole else engine.optimizer.optimizer).state.values() if "step" in s
    ]
    out: dict[str, dict[str, Tensor]] = {"": {"step": torch.stack(steps)}} if steps else {}
    for name, p in engine.step_module.named_parameters():
        if not p.requires_grad:
            with engine.whole([p]):
                out[name] = {"fp32": p.detach().clone()}
        elif whole:
            state = engine.optimizer.state.get(p, {})
            out[name] = {"fp32": p.detach().clone(), **{key: state[key].clone() for key in moments if key in state}}
        else:
            out[name] = {"fp32": safe_get_full_fp32_param(p).clone()}
            out[name] |= {key: safe_get_full_optimizer_state(p, key).clone() for key in moments}
    return out


def link(optimizer: Any) -> None:
    """In stages 1 and 2, DeepSpeed 0.19.8 looks where the state of all groups is after the step of the first, when
    there is no state of the others yet, and never again: reading it fails."""
    from deepspeed.runtime.zero.stage_1_and_2 import DeepSpeedZeroOptimizer
    from deepspeed.utils import lazy_init_hp_params_optimizer_state

    if isinstance(optimizer, DeepSpeedZeroOptimizer):
        for flat, parameters in zip(optimizer.single_partition_of_fp32_groups, optimizer.bit16_groups, strict=True):
            lazy_init_hp_params_optimizer_state(parameters, flat, optimizer.optimizer.state)


def save(root: Path, place: Place, names: list[str]) -> None:
    """Train and save with each engine; then what it holds, and how it goes on."""
    for name in names:
        engine, folder = make(name, place), root / f"{name}@{place.world}"
        losses = train(engine, place, range(BEFORE))
        (folder / "engine").mkdir(parents=True, exist_ok=True)

        def write(file: str, state: Any, folder: Path = folder) -> None:
            (folder / "engine" / file).parent.mkdir(parents=True, exist_ok=True)
            torch.save(state, folder / "engine" / file)

        engine.save(folder / "engine", write)
        truth = inside(engine)
        if place.leads:
            weights = {key.removeprefix("model."): value["fp32"] for key, value in truth.items() if key}
            save_file({**weights, "offset": engine.model.offset}, folder / "model.safetensors")
            torch.save(truth, folder / "truth.pt")
        losses += train(engine, place, range(BEFORE, BEFORE + AFTER))
        if place.leads:
            (folder / "losses.json").write_text(json.dumps(losses))


def load(root: Path, place: Place, pairs: list[str]) -> dict[str, Any]:
    """Go on with one engine from what another has saved; what differs, and the losses."""
    results = {}
    for pair in pairs:
        source, _, target = pair.partition(">")
        folder, universal = root / source, root / f"universal-{place.world}-{source}"
        if place.leads and not universal.exists():
            to_universal(folder / "engine", universal)
        place.together()
        engine = make(target, place, load_file(folder / "model.safetensors"))
        load_universal(engine, universal)
        results[pair] = {"differing": differing(torch.load(folder / "truth.pt"), inside(engine))}
        results[pair]["losses"] = train(engine, place, range(BEFORE, BEFORE + AFTER))
    return results


def differing(truth: dict[str, dict[str, Tensor]], now: dict[str, dict[str, Tensor]]) -> list[str]:
    """Names of what is not bitwise equal. What a parameter without gradient keeps may be zero or absent."""
    out = [] if steps_of(truth) == steps_of(now) else ["step"]
    for name in (truth.keys() | now.keys()) - {""}:
        for key in truth[name].keys() | now[name].keys():
            before, after = truth[name].get(key), now[name].get(key)
            if name == "model.idle" and (before is None or after is None):
                kept = after if before is None else before
                out += [f"{name}/{key}"] if kept.any() else []
            elif before is None or after is None or not torch.equal(before, after):
                out.append(f"{name}/{key}")
    return out


def steps_of(state: dict[str, dict[str, Tensor]]) -> set[float]:
    """Numbers of steps that the optimizer has counted, for whatever it counts them."""
    return {*state.get("", {}).get("step", torch.zeros(0)).tolist()}


def wrong(root: Path, place: Place, name: str) -> dict[str, str]:
    """What is said about a universal folder that is not what it was, and about a load that went wrong."""
    source = root / f"{name}@{place.world}"
    universal = root / f"universal-{place.world}-{source.name}"
    engine = make(name, place, load_file(source / "model.safetensors"))

    def refused(call: Callable[[], None]) -> str:
        try:
            call()
        except MetaformerError as error:
            return str(error)
        return "nothing"

    def altered(change: Callable[[Path], None], rank: int | None = None) -> str:
        copy = root / f"altered-{place.rank}"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(universal, copy)
        if rank in (None, place.rank):
            change(copy / "zero")
        return refused(lambda: load_universal(engine, copy))

    out = {
        "corrupted": altered(corrupt),
        "corrupted on rank 1": altered(corrupt, rank=1),
        "swapped": altered(swap),
        "missing": altered(lambda zero: (zero / "model.twin.weight" / "exp_avg.pt").unlink()),
        "uneven": altered(lambda zero: torch.save(torch.tensor(5.0), zero / "model.twin.weight" / "step.pt")),
        "whole": refused(lambda: load_universal(engine, universal)),
    }
    inner = engine.optimizer if isinstance(engine.optimizer, torch.optim.Optimizer) else engine.optimizer.optimizer
    if place.rank == place.world - 1:
        next(iter(inner.state.values()))["exp_avg"].view(-1)[0] += 1e-7
    out["changed in the optimizer"] = refused(lambda: check_universal(engine, universal))
    return out


def corrupt(zero: Path) -> None:
    path = zero / "model.twin.weight" / "exp_avg_sq.pt"
    content = torch.load(path)
    content["param"].view(-1)[-1] += 1e-7
    torch.save(content, path)


def swap(zero: Path) -> None:
    one, other = zero / "model.norm.weight" / "exp_avg.pt", zero / "model.norm.bias" / "exp_avg.pt"
    one.rename(zero / "aside")
    other.rename(one)
    (zero / "aside").rename(other)


def theirs(root: Path, place: Place, names: list[str]) -> None:
    """The same checkpoints by DeepSpeed's own converter."""
    if place.leads:
        from deepspeed.checkpoint import ds_to_universal

        for name in names:
            out = root / "theirs" / name
            options = {"input_folder": str(root / name / "engine" / "engine"), "output_folder": str(out)}
            workers = {"num_extract_workers": 1, "num_merge_workers": 1}
            rest = {"keep_temp_folder": False, "strict": True, "inject_missing_state": False}
            with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
                ds_to_universal.main(argparse.Namespace(**options, **workers, **rest))


def tasks(root: Path, place: Place, told: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    if "save" in told:
        save(root, place, told["save"])
    if "load" in told:
        yield "load", load(root, place, told["load"])
    for name in told.get("wrong", []):
        yield f"wrong {name}", wrong(root, place, name)
    if "theirs" in told:
        theirs(root, place, told["theirs"])


def work(root: Path, number: int, told: dict[str, Any]) -> None:
    """As one rank; what is found goes to a file."""
    place = find_place(threads=1, timeout=120)
    results = dict(tasks(root, place, told))
    if place.world > 1:
        distributed.barrier()
    (root / f"results-{number}-{place.rank}.json").write_text(json.dumps(results))


def main() -> None:
    root, launches = Path(sys.argv[1]), json.loads(sys.argv[2])
    for number, (world, told) in enumerate(launches):
        in_ranks(world, partial(work, root, number, told))


if __name__ == "__main__":
    main()
