"""`MetaFormer`: the verbs of the straight line, tokenize, encode, bridge, read; `forward` is their composition."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from metaformer.base import Bridge, Encoder, Head, Objective, Tokenizer
from metaformer.layers.join import join
from metaformer.sequence import TypeVectors
from metaformer.trainable import set_mode
from metaformer.types import Batch, Prediction, TokenBatch
from metaformer.views import inherited

if TYPE_CHECKING:
    from metaformer.teacher import Teacher


@dataclass(frozen=True)
class Route:
    """A pass: which streams go through which encoder, joined into one sequence where there are several."""

    reads: tuple[str, ...]
    encoder: str | None
    """None: past every encoder."""
    expert: str = ""
    """What an encoder with experts is asked for."""


class MetaFormer(nn.Module):
    """Tokenizers, encoders, bridges and heads, and how streams flow between them.

    Parameter names begin with `tokenizers.STREAM`, `passes.STREAM`, `encoders.NAME`, `bridges.STREAM`, `heads.NAME`,
    `objectives.TASK.INDEX`: what `trainable:` globs match.
    """

    teacher: Teacher | None

    def __init__(
        self,
        tokenizers: Mapping[str, Tokenizer],
        encoders: Mapping[str, Encoder],
        routes: Mapping[str, Route],
        bridges: Mapping[str, Bridge],
        bridge_reads: Mapping[str, Mapping[str, str]],
        heads: Mapping[str, Head],
        streams: Mapping[str, str] | None = None,
        passes: Mapping[str, TypeVectors] | None = None,
    ) -> None:
        """`streams`: further streams, and the stream whose tokenizer reads them as well. `passes`: the vectors that a
        pass adds to its streams' tokens, by its name."""
        super().__init__()
        self.tokenizers = nn.ModuleDict(dict(tokenizers))
        self.passes = nn.ModuleDict(dict(passes or {}))
        self.encoders = nn.ModuleDict(dict(encoders))
        self.bridges = nn.ModuleDict(dict(bridges))
        self.heads = nn.ModuleDict(dict(heads))
        self.objectives = nn.ModuleDict()
        self.teacher = None
        self.routes = dict(routes)
        self.bridge_reads = {name: dict(reads) for name, reads in bridge_reads.items()}
        self.streams = {**{name: name for name in tokenizers}, **(streams or {})}
        """Every stream, and the name of the tokenizer that reads it."""

    def tokenizer(self, stream: str) -> Tokenizer:
        """What reads a stream."""
        return cast(Tokenizer, self.tokenizers[self.streams[stream]])

    def add_objectives(self, task: str, objectives: Sequence[Objective]) -> None:
        """Objectives may have parameters (a temperature, a projection): they belong to the model."""
        self.objectives[task] = nn.ModuleList(objectives)

    def train(self, mode: bool = True) -> MetaFormer:
        """As usual, except that frozen parts stay in eval mode."""
        if mode:
            # `set_mode` calls train(False) on us only; children are plain modules.
            self.training = True
            for child in self.children():
                set_mode(child, True)
            return self
        return super().train(False)

    # The verbs.

    def tokenize(self, batch: Batch, stream: str) -> TokenBatch:
        """Raw tensors of a stream → its tokens; rows of samples that lack it are masked out."""
        tokens: TokenBatch = self.tokenizer(stream)(batch.streams[stream])
        return tokens._replace(mask=tokens.mask & batch.present[stream][:, None])

    def encode(self, tokens: Sequence[TokenBatch], encoder: str | None) -> TokenBatch:
        """Tokens of one stream, or of several as one sequence, through an encoder."""
        joined = join(tokens)
        return joined if encoder is None else cast(TokenBatch, self.encoders[encoder](joined))

    def bridge(self, name: str, streams: Mapping[str, TokenBatch]) -> TokenBatch:
        """Streams by role → the bridge's new stream."""
        return cast(TokenBatch, self.bridges[name](dict(streams)))

    def read(self, head: str, tokens: TokenBatch) -> Prediction:
        """A stream → what a head says about it."""
        return Prediction(self.heads[head](tokens), tokens.present)

    # Their composition. Each result is kept in the batch's memo, so objectives of one task share passes.

    def stream(self, batch: Batch, name: str) -> TokenBatch:
        """A stream after its pass or bridge, computed once per batch."""
        key = ("stream", name)
        if key not in batch.memo:
            found = inherited(batch, name, self.sources(name), self.stream)
            batch.memo[key] = self._pass(batch, name) if found is None else found
        return cast(TokenBatch, batch.memo[key])

    def _pass(self, batch: Batch, name: str) -> TokenBatch:
        if name in self.bridge_reads:
            return self.bridge(name, {role: self.stream(batch, s) for role, s in self.bridge_reads[name].items()})
        route = self.routes[name]
        tokens = [self.tokens(batch, stream) for stream in route.reads]
        if name in self.passes:
            tokens = self.passes[name](tokens)
        if route.expert:
            tokens = [t._replace(expert=route.expert) for t in tokens]
        return self.encode(tokens, route.encoder)

    def tokens(self, batch: Batch, stream: str) -> TokenBatch:
        """A stream's tokens before any encoder, computed once per batch."""
        key = ("tokens", stream)
        if key not in batch.memo:
            found = inherited(batch, stream, {stream}, self.tokens)
            batch.memo[key] = self.tokenize(batch, stream) if found is None else found
        return cast(TokenBatch, batch.memo[key])

    def predict(self, batch: Batch, head: str) -> Prediction:
        """What a head says about a batch, computed once per batch."""
        key = ("head", head)
        if key not in batch.memo:
            reads = cast(Head, self.heads[head]).reads
            batch.memo[key] = self.read(head, self.stream(batch, reads))
        return cast(Prediction, batch.memo[key])

    def place(self, batch: Batch, name: str, stream: str) -> slice:
        """Where in a stream that comes out of passes and bridges the tokens of one that goes into them are. A bridge
        keeps the places of what it reads first."""
        if name in self.bridge_reads:
            return self.place(batch, next(iter(self.bridge_reads[name].values())), stream)
        start = 0
        for read in self.routes[name].reads:
            length = self.tokens(batch, read).x.shape[1]
            if read == stream:
                return slice(start, start + length)
            start += length
        raise KeyError(f"{stream} is not read by {name}")

    def present(self, batch: Batch, name: str) -> Bool[Tensor, B]:
        """Samples that have anything of what a stream or head needs; known without a pass."""
        return torch.stack([batch.present[stream] for stream in sorted(self.sources(name))]).any(dim=0)

    def forward(self, batch: Batch) -> dict[str, Prediction]:
        """Predictions of every head whose streams the batch carries: the inference path."""
        return {
            name: self.predict(batch, name)
            for name, head in self.heads.items()
            if self.sources(cast(Head, head).reads) <= batch.streams.keys()
        }

    def sources(self, name: str) -> set[str]:
        """Tokenized streams that a stream or head needs."""
        if name in self.heads and name not in self.routes and name not in self.bridge_reads:
            return self.sources(cast(Head, self.heads[name]).reads)
        if name in self.bridge_reads:
            return set().union(*(self.sources(read) for read in self.bridge_reads[name].values()))
        # A stream without a pass of its own goes into joint ones only.
        return set(self.routes[name].reads) if name in self.routes else {name}


class Step(nn.Module):
    """What an engine wraps: a batch → the weighted sum of its task's losses, and each by name.

    A loss is a mean over what counts in its micro-batch; `Batch.weights` make the step's gradient that of the mean over
    all that counts in the step, however it is cut into micro-batches and ranks.

    With several tasks, every rank runs every task's objectives, in recipe order, in every pass: its own on the
    batch, the others on one blank sample whose loss counts zero. So all ranks run the same modules in the same
    order, whatever data each of them has: ranks that skip a module crash or hang under ZeRO 1 to 3. It also gives
    every trained parameter a gradient (zero) in each step, so that one process and many update alike.
    """

    def __init__(self, model: MetaFormer, blanks: Mapping[str, Batch], autocast: torch.dtype | None = None) -> None:
        super().__init__()
        self.model = model
        self.blanks = dict(blanks)
        self.autocast = autocast

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Losses by name and their sum as `loss`; in eval mode also `predictions/HEAD` and `present/HEAD`, and, of what
        objectives judge by themselves, `judged/NAME` and `right/NAME`."""
        device = batch_device(batch)
        with torch.autocast(device.type, self.autocast, enabled=self.autocast is not None):
            return self._losses(batch, device)

    def _losses(self, batch: Batch, device: torch.device) -> dict[str, Tensor]:
        out: dict[str, Tensor] = {}
        total: Tensor | float = 0.0
        for task in self.model.objectives:
            mine = task == batch.task
            if not mine and (not self.model.training or task not in self.blanks):
                continue
            piece = batch if mine else self.blanks[task].to(device)
            piece.memo.clear()
            for name, loss, factor in losses(self.model, task, piece):
                total = total + loss * (factor * batch.weights.get(name, 1.0) if mine else 0.0)
                if mine:
                    out[f"{task}/{name}"] = loss.detach()
            if mine and not self.model.training:
                out |= _predictions(piece)
            piece.memo.clear()
        out["loss"] = cast(Tensor, total)
        return out


def losses(model: MetaFormer, task: str, batch: Batch) -> Iterator[tuple[str, Tensor, float]]:
    """Run a task's objectives: each loss with its name and the factor that the recipe gives its objective."""
    for module in cast(nn.ModuleList, model.objectives[task]):
        objective = cast(Objective, module)
        for name, loss in module(model, batch).items():
            yield name, loss, objective.weight


def _predictions(batch: Batch) -> dict[str, Tensor]:
    """What the heads said while the objectives ran, and what objectives judge by themselves."""
    out = {}
    for (kind, name), value in batch.memo.items():
        if kind == "head":
            out[f"predictions/{name}"] = value.value.detach().float()
            out[f"present/{name}"] = value.present
        elif kind == "judged":
            out[f"judged/{name}"], out[f"right/{name}"] = value[0].detach().float(), value[1]
    return out


def batch_device(batch: Batch) -> torch.device:
    """Where a batch's tensors are."""
    return next(iter(batch.present.values())).device
