"""The values that travel along the straight line.

Axis letters, everywhere: `B` batch, `T` tokens, `D` width, `C` classes. Masks: true = present, may attend.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Sample = dict[str, Any]
"""One raw record: keys are stream names and target names; a missing key or None is a missing value."""

Raw = dict[str, Tensor]
"""Tensors of one stream, before tokenizing. Per sample without, per batch with a leading axis `B`."""


class Dense(NamedTuple):
    """How the places that a dense prediction is made for, such as the points of a cloud, are read from tokens."""

    source: Int[Tensor, "B N K"]
    """K tokens per place, counted after the prefix."""
    weight: Float[Tensor, "B N K"]
    """Their shares, which add up to 1."""
    mask: Bool[Tensor, "B N"]
    """Places that are real."""
    detail: Float[Tensor, "B N E"] | None = None
    """What the tokenizer knows of each place alone."""


class Part(NamedTuple):
    """One of the streams that a joint pass has put into one sequence."""

    modality: str
    length: int
    num_prefix: int = 0
    grid: tuple[int, ...] | None = None


class TokenBatch(NamedTuple):
    """Tokens of one stream. A named tuple, because DeepSpeed's ZeRO-3 hooks look for tensors inside tuples only."""

    x: Float[Tensor, "B T D"]
    mask: Bool[Tensor, "B T"]
    """True where the token is real. A sample that lacks the stream has a row of False."""
    modality: str
    """Name the tokenizer is registered under; joint passes join the names with `+`."""
    grid: tuple[int, ...] | None = None
    """Layout of the patch tokens (rows, columns; or frames, rows, columns) where there is one."""
    ids: Int[Tensor, "B T"] | None = None
    """Vocabulary ids of the tokens, for language objectives."""
    num_prefix: int = 0
    """How many leading tokens are not patches (a class token)."""
    positions: Float[Tensor, "T D"] | Float[Tensor, "B T D"] | None = None
    """What was added to `x` to say where a token is, if anything: the `shuffled` control and encoders that add
    positions before every block need it."""
    dense: Dense | None = None
    """Places between and beside the tokens, for heads that predict for each of them."""
    units: tuple[Float[Tensor, "B C"], Float[Tensor, "B C"]] | None = None
    """Mean and deviation that were taken out of each channel of a sample: forecasts are put back into them."""
    joined: tuple[Part, ...] = ()
    """The parts of a joint sequence, in order; empty where there is one stream only."""
    expert: str = ""
    """What a pass asks for by `expert:`: the expert that an encoder with experts takes in its top layers."""

    @property
    def parts(self) -> tuple[Part, ...]:
        """What the sequence is made of: its joined parts, or itself as the only one."""
        return self.joined or (Part(self.modality, self.x.shape[1], self.num_prefix, self.grid),)

    @property
    def present(self) -> Bool[Tensor, B]:
        """Rows that have at least one real token."""
        return self.mask.any(dim=1)

    def with_x(self, x: Float[Tensor, "B T D"]) -> TokenBatch:
        """The same tokens with other contents."""
        return self._replace(x=x)


class Target(NamedTuple):
    """What an objective needs from a sample under one key."""

    kind: Literal["class", "classes", "multilabel", "scores", "values", "identity"]
    """`class`: one index per sample [B]; `classes`: one per token or place [B N]; `multilabel`: 0/1 [B C]; `scores`:
    0 to 1 [B C]; `values`: numbers [B C]; `identity`: which samples are the same thing, a number made of any text or
    whole number [B]. Missing is -100 for indices, -1 for identities and NaN elsewhere."""
    size: int
    """Number of classes or of values; 1 for identities."""


class Readout(NamedTuple):
    """A prediction that an objective makes and judges by itself, such as the words it has hidden."""

    target: Target
    predicts: Literal["class", "classes", "values"]
    """As of a head; `classes` arrive as rows of their own."""

    @property
    def size(self) -> int:
        """Number of classes or of values."""
        return self.target.size

    @property
    def unit(self) -> float:
        """As of a head."""
        return 1.0


class Prediction(NamedTuple):
    """What a head says about a batch."""

    value: Tensor
    """As the head's `predicts` says."""
    present: Bool[Tensor, B]
    """Rows whose stream has any real token; the others mean nothing."""


class Answer(NamedTuple):
    """What an objective says about a batch by itself, without targets."""

    logits: Float[Tensor, "B C"]
    present: Bool[Tensor, B]
    """Rows that have what it needs; the others mean nothing."""
    names: Sequence[str]
    """Of the C classes, or of the first of them."""


IGNORE = -100
"""Class index of a missing target, as in `torch.nn.functional.cross_entropy`."""

UNKNOWN = -1
"""Identity of a sample that does not say what it is: it is like no other."""


@dataclass(frozen=True)
class BadSample:
    """A sample that could not be read, and why."""

    task: str
    id: str
    index: int
    epoch: int
    error: str
    """The DataError's text."""


@dataclass(frozen=True)
class View:
    """How a batch comes out of another one, whose passes it then shares: an objective that hides words, or puts a
    picture beside another one's caption, pays for what that changes and no more."""

    origin: Batch
    changed: frozenset[str] = frozenset()
    """Streams with other contents, which are in the batch's own `streams`."""
    rows: Mapping[str, Int[Tensor, N]] = field(default_factory=dict)
    """Stream → which rows of the origin's it takes. Streams with one and the same tensor move together."""
    everywhere: bool = False
    """The rows are counted over all ranks' batches, one after the other."""


@dataclass
class Batch:
    """Samples of one task, ready for the model."""

    task: str
    streams: dict[str, Raw]
    present: dict[str, Bool[Tensor, B]]
    """Per stream: which samples have it."""
    targets: dict[str, Tensor]
    ids: list[str]
    bad: list[BadSample] = field(default_factory=list)
    """Samples that could not be read; their rows are missing everything."""
    weights: dict[str, float] = field(default_factory=dict)
    """Loss name → what it weighs in its step, beside those of the other micro-batches; 1 where nothing is said."""
    memo: dict[Any, Any] = field(default_factory=dict, repr=False)
    """Results of passes already made over this very batch; several objectives of a task share them."""
    view: View | None = field(default=None, repr=False)
    """Where this batch is another one looked at differently."""

    def __len__(self) -> int:
        return len(self.ids)

    def to(self, device: torch.device) -> Batch:
        """A copy on `device`, with an empty memo."""

        def move(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return {key: value.to(device, non_blocking=True) for key, value in tensors.items()}

        return replace(
            self,
            streams={name: move(raw) for name, raw in self.streams.items()},
            present=move(self.present),
            targets=move(self.targets),
            memo={},
        )
