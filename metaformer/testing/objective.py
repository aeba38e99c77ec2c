"""Conformance of objectives: losses are means over what counts, and every batch runs the same modules."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from metaformer.base import Encoder, Head, Objective, Preprocess, Tokenizer, masked_mean, pad_stack
from metaformer.data.target import missing, stack_targets
from metaformer.model import MetaFormer, Route
from metaformer.testing import module as modules
from metaformer.testing.check import Check, Use, checks_of, component, require, require_close, same
from metaformer.types import IGNORE, Batch, Raw, Target, TokenBatch

DIM = 16
CONTENTS = 3
"""Numbers that the kit's tokens say they are made of."""
WORDS = 7
"""Size of the vocabulary that their ids are of; the first id hides a word."""
LENGTHS = (5, 3, 2, 4)
"""Tokens of the samples of a batch."""

Make = Callable[[Mapping[str, Head], Mapping[str, int]], Objective]
"""From the heads by name and the widths by stream to an objective."""


def objective_checks(
    make: Make | Use, heads: Mapping[str, Callable[[int], Head] | Use], *, streams: Sequence[str] = ("left",)
) -> Iterator[Check]:
    """Named checks of an objective: of `(name, knobs)` as a recipe has them, or of a function of heads and widths.

    `heads` are what its knobs name, each as `(name, knobs)` or a function of the width; they read the first of
    `streams` unless they set `reads`; `joint` is all streams as one sequence. Batches of random tokens and random
    targets are made of what it declares; the tokens have ids, positions and contents, and go through an encoder in
    which they see one another.
    """
    factory: Make = (
        make if callable(make) else lambda built, widths: component("objective", make, _wired(built, widths))
    )
    return checks_of(_Kit(factory, dict(heads), tuple(streams)), "objective", make)


@dataclass(frozen=True)
class _Kit(modules.ModuleKit):
    make: Make
    heads: Mapping[str, Callable[[int], Head] | Use]
    streams: tuple[str, ...]

    def _world(self) -> tuple[MetaFormer, Objective]:
        """A small model, and the objective inside it."""
        heads = {name: self._head(use) for name, use in self.heads.items()}
        tokenizers = {name: _Vectors() for name in self.streams}
        routes = {name: Route((name,), "kit") for name in self.streams}
        if len(self.streams) > 1:
            routes["joint"] = Route(self.streams, "kit")
        model = MetaFormer(tokenizers, {"kit": _Mean()}, routes, {}, {}, heads)
        objective = self.make(heads, dict.fromkeys(self.streams, DIM))
        model.add_objectives("kit", [objective])
        return model.eval(), objective

    def _make(self) -> MetaFormer:
        return self._world()[0]

    def _ask(self, module: nn.Module) -> Callable[[], Any]:
        assert isinstance(module, MetaFormer)
        objective = cast(Objective, cast(nn.ModuleList, module.objectives["kit"])[0])
        return lambda: list(objective(module, self._batch(objective)).values())

    def _head(self, use: Callable[[int], Head] | Use) -> Head:
        head: Head = use(DIM) if callable(use) else component("head", use, {"dim": DIM, **_vocabularies(self.streams)})
        head.reads = head.reads or self.streams[0]
        return head

    def _batch(self, objective: Objective) -> Batch:
        """Samples of several lengths, one of which lacks its targets."""
        draw = torch.Generator().manual_seed(7)
        targets = {key: _random_targets(target, draw) for key, target in objective.targets.items()}
        streams = {name: _random_stream(draw) for name in self.streams}
        present = {name: torch.ones(len(LENGTHS), dtype=torch.bool) for name in self.streams}
        return Batch("kit", streams, present, targets, [str(i) for i in range(len(LENGTHS))])

    def _blank(self, objective: Objective) -> Batch:
        """What other ranks' tasks run on: one sample that lacks everything."""
        mask = torch.ones(1, 1, dtype=torch.bool)
        raw = {"values": torch.zeros(1, 1, DIM), "ids": torch.zeros(1, 1, dtype=torch.int64), "mask": mask}
        targets = {key: stack_targets(target, [missing(target)]) for key, target in objective.targets.items()}
        absent = {name: torch.zeros(1, dtype=torch.bool) for name in self.streams}
        return Batch("kit", {name: dict(raw) for name in self.streams}, absent, targets, [""])

    def declarations(self) -> None:
        """It says which heads and streams it reads, and which targets it needs in which form."""
        model, objective = self._world()
        unknown = sorted({*objective.uses} - {*model.heads, *self.streams})
        require(bool(objective.uses), "`uses` is empty: name the heads and streams that it reads")
        require(not unknown, f"`uses` names {', '.join(unknown)}, which are neither heads nor streams")
        wrong = [key for key, target in objective.targets.items() if not isinstance(target, Target)]
        require(not wrong, f"`targets` of {', '.join(wrong)} are no metaformer.types.Target")

    def losses(self) -> None:
        """Named scalars, finite."""
        model, objective = self._world()
        losses = objective(model, self._batch(objective))
        require(isinstance(losses, dict) and bool(losses), f"it returns {type(losses).__name__}, not named losses")
        for name, loss in losses.items():
            require(loss.ndim == 0, f"the loss {name!r} has shape {list(loss.shape)}, not that of a number")
            require(bool(torch.isfinite(loss)), f"the loss {name!r} of a good batch is {float(loss.detach())}")

    def blank_batch(self) -> None:
        """A batch in which nothing counts gives a finite zero that is still connected to the parameters."""
        model, objective = self._world()
        for name, loss in objective(model, self._blank(objective)).items():
            value = float(loss.detach())
            require(value == 0, f"the loss {name!r} of a batch in which nothing counts is {value}, not 0")
            connected = "is cut off from the parameters: ranks that wait for their gradients would hang"
            require(loss.requires_grad, f"the loss {name!r} of a batch in which nothing counts {connected}")
        loss = _total(objective(model, self._blank(objective)))
        modules.require_finite_gradients(model, loss, "a batch in which nothing counts")

    def same_modules(self) -> None:
        """A blank batch runs the same modules in the same order as a full one."""
        model, objective = self._world()
        calls: list[str] = []
        for name, module in model.named_modules():
            module.register_forward_hook(lambda *_, name=name: calls.append(name))
        objective(model, self._batch(objective))
        full = list(calls)
        calls.clear()
        objective(model, self._blank(objective))
        lacking = sorted(set(full) ^ set(calls))
        difference = f" ({', '.join(lacking)})" if lacking else ""
        require(full == calls, f"a blank batch runs other modules than a full one{difference}: ranks would hang")

    def absent_rows(self) -> None:
        """Samples without stream and targets change no loss: each is a mean over what counts."""
        model, objective = self._world()
        batch = self._batch(objective)
        expected = objective(model, batch)
        found = objective(model, _with_blanks(batch, self._blank(objective)))
        for name, loss in expected.items():
            require_close(found[name], loss, f"the loss {name!r} changes with samples that lack everything")

    def batch_order(self) -> None:
        """The order of the samples does not matter."""
        model, objective = self._world()
        batch = self._batch(objective)
        expected, found = objective(model, batch), objective(model, _reversed(batch))
        for name, loss in expected.items():
            require_close(found[name], loss, f"the loss {name!r} depends on the order of the samples")

    def gradient_reach(self) -> None:
        """Its own parameters learn, and so do the heads and streams that it says it uses."""
        model, objective = self._world()
        model.train()
        for name in model.heads:
            model.heads[name].requires_grad_(name in objective.uses)
        used = set().union(*(model.sources(name) for name in objective.uses))
        for name in model.tokenizers:
            model.tokenizers[name].requires_grad_(name in used)
        loss = _total(objective(model, self._batch(objective)))
        modules.require_reach(model, loss, "it does not use what `uses` says, or has parameters for nothing")

    def heads_stay_outside(self) -> None:
        """The heads belong to the model: an objective that keeps them registers them twice."""
        model, objective = self._world()
        mine = {id(p) for p in objective.parameters()}
        twice = [name for name, p in model.heads.named_parameters() if id(p) in mine]
        require(not twice, f"it keeps heads as its own modules, which registers twice: {', '.join(twice)}")

    def input_unchanged(self) -> None:
        """Objectives of one task read the same batch: it stays as it is."""
        model, objective = self._world()
        batch, before = self._batch(objective), self._batch(objective)
        objective(model, batch)
        read = [*batch.targets, *(f"stream {name}" for name in batch.streams)]
        kept = [same(batch.targets[key], before.targets[key]) for key in batch.targets]
        kept += [same(batch.streams[name], before.streams[name]) for name in batch.streams]
        touched = ", ".join(name for name, whole in zip(read, kept, strict=True) if not whole)
        require(all(kept), f"it writes into the batch that it reads: {touched}")

    def bf16_autocast(self) -> None:
        """Under bf16 autocast losses are finite."""
        model, objective = self._world()
        with torch.autocast("cpu", torch.bfloat16):
            loss = _total(objective(model, self._batch(objective)))
        require(bool(torch.isfinite(loss)), f"the loss under bf16 autocast is {float(loss.detach())}")


class _NoPreprocess(Preprocess):
    """Batches are made directly."""

    def __call__(self, value: Tensor | str, train: bool) -> Raw:
        ids = torch.ones(len(value), dtype=torch.int64)
        if isinstance(value, str):  # a sentence about a class: a first token and one per letter
            letters = torch.tensor([0, *value.encode()])[: max(LENGTHS)]
            ids = 1 + letters % (WORDS - 1)
            value = (letters[:, None] / 128).expand(-1, DIM)
        return {"values": value, "ids": ids, "mask": torch.ones(len(value), dtype=torch.bool)}

    def blank(self) -> Raw:
        return self(torch.zeros(1, DIM), False)


class _Vectors(Tokenizer):
    """Vectors of width DIM, one token each."""

    places: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.preprocess, self.modality, self.num_contents = _NoPreprocess(), "kit", CONTENTS
        self.num_ids, self.mask_id = WORDS, 0
        self.linear = nn.Linear(DIM, DIM)
        places = 0.1 * torch.randn(max(LENGTHS), DIM, generator=torch.Generator().manual_seed(5))
        self.register_buffer("places", places, persistent=False)

    def forward(self, raw: Raw) -> TokenBatch:
        places = self.places[: raw["values"].shape[1]]
        return TokenBatch(
            self.linear(raw["values"]) + places, raw["mask"], self.modality, ids=raw["ids"], positions=places
        )

    def contents(self, raw: Raw) -> Float[Tensor, "B P E"]:
        return raw["values"][:, :, :CONTENTS]


class _Mean(Encoder):
    """Every token sees the mean of its sample's."""

    def __init__(self) -> None:
        super().__init__()
        self.dim, self.blocks = DIM, nn.ModuleList()

    def forward(self, tokens: TokenBatch) -> TokenBatch:
        return tokens.with_x(tokens.x + masked_mean(tokens.x, tokens.mask).unsqueeze(1))


def _random_stream(draw: torch.Generator) -> Raw:
    mask = torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]
    values = torch.randn(*mask.shape, DIM, generator=draw) * mask[:, :, None]
    return {"values": values, "ids": torch.randint(1, WORDS, mask.shape, generator=draw) * mask, "mask": mask}


def _random_targets(target: Target, draw: torch.Generator) -> Tensor:
    """Of LENGTHS samples; the last has none."""
    rows: list[Tensor] = []
    for length in LENGTHS[:-1]:
        if target.kind == "class":
            rows.append(torch.randint(target.size, (), generator=draw))
        elif target.kind == "classes":
            rows.append(torch.randint(target.size, (length,), generator=draw))
        elif target.kind == "multilabel":
            rows.append(torch.randint(2, (target.size,), generator=draw).float())
        else:
            rows.append(torch.randn(target.size, generator=draw))
    return stack_targets(target, [*rows, missing(target)])


def _with_blanks(batch: Batch, blank: Batch) -> Batch:
    """The batch with two samples more that lack everything."""
    streams = {
        name: {key: pad_stack([*tensor, *blank.streams[name][key].expand(2, *[-1] * (tensor.ndim - 1))])
               for key, tensor in raw.items()}
        for name, raw in batch.streams.items()
    }  # fmt: skip
    present = {name: torch.cat([there, there.new_zeros(2)]) for name, there in batch.present.items()}
    targets = {
        key: pad_stack([*tensor, *blank.targets[key].expand(2, *[-1] * (tensor.ndim - 1))], _filler(tensor))
        for key, tensor in batch.targets.items()
    }
    return replace(batch, streams=streams, present=present, targets=targets, ids=[*batch.ids, "", ""], memo={})


def _filler(targets: Tensor) -> float:
    return torch.nan if targets.is_floating_point() else float(IGNORE)


def _reversed(batch: Batch) -> Batch:
    streams = {name: {key: tensor.flip(0) for key, tensor in raw.items()} for name, raw in batch.streams.items()}
    present = {name: there.flip(0) for name, there in batch.present.items()}
    targets = {key: tensor.flip(0) for key, tensor in batch.targets.items()}
    return replace(batch, streams=streams, present=present, targets=targets, ids=batch.ids[::-1], memo={})


def _total(losses: Mapping[str, Tensor]) -> Tensor:
    return torch.stack([*losses.values()]).sum()


def _wired(heads: Mapping[str, Head], widths: Mapping[str, int]) -> dict[str, Any]:
    """What the core supplies."""
    contents = dict.fromkeys(widths, CONTENTS)
    return {"task": "kit", "heads": heads, "widths": widths, "contents": contents, **_vocabularies(widths)}


def _vocabularies(streams: Iterable[str]) -> dict[str, dict[str, int]]:
    return {"vocabularies": dict.fromkeys(streams, WORDS)}
