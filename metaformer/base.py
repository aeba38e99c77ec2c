"""The abstract classes behind every component kind: what a plugin implements and what the core promises it.

Constructor rule, for every kind: positional arguments are *wired* by the core, by name, from the list in the
class's docstring (ask only for those you need); keyword-only arguments are the recipe's knobs, and their
annotations and defaults are the recipe's schema. `**kwargs` is not allowed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from metaformer.types import Answer, Batch, Raw, Readout, Sample, Target, TokenBatch

if TYPE_CHECKING:
    from metaformer.model import MetaFormer


class Preprocess(ABC):
    """Turns one raw value into tensors, in a data worker; small and picklable, never an `nn.Module`.

    The core seeds python's, numpy's and torch's global generators from (seed, epoch, sample) around each call
    and restores them afterwards: use any of them freely, results do not depend on workers or ranks.
    """

    reads_files: ClassVar[bool] = False
    """True: text values of a sample are file names, and arrive here as `Path`s resolved against the data set."""

    @abstractmethod
    def __call__(self, value: Any, train: bool) -> Raw:
        """One value of a sample to tensors without batch axis. `train` switches augmentation on.

        Raise `DataError` for a value that cannot be used; the recipe's policy decides what happens then."""

    @abstractmethod
    def blank(self) -> Raw:
        """The smallest valid sample (one token is ideal): stands for a missing value and is never read."""

    def example(self) -> Raw:
        """A sample of the largest size the knobs allow, for counting tokens and FLOPs. Default: `blank`."""
        return self.blank()

    def collate(self, samples: Sequence[Raw]) -> Raw:
        """Samples to a batch. Default: zero-pad every tensor at its end to the longest along each axis, stack.

        Under this default a boolean `mask` that is true for real items comes out right."""
        return {key: pad_stack([sample[key] for sample in samples]) for key in samples[0]}


def pad_stack(tensors: Sequence[Tensor], value: float = 0.0) -> Tensor:
    """Stack tensors of one rank along a new first axis, padded at the end of every axis to the longest."""
    shape = [max(sizes) for sizes in zip(*(t.shape for t in tensors), strict=True)]
    if all(list(t.shape) == shape for t in tensors):
        return torch.stack(list(tensors))
    out = tensors[0].new_full((len(tensors), *shape), value)
    for row, tensor in zip(out, tensors, strict=True):
        row[tuple(slice(size) for size in tensor.shape)] = tensor
    return out


Whole = Callable[[Sequence[Tensor]], AbstractContextManager[None]]
"""Parameters → a context inside which they are whole on this rank."""


class Weighted(nn.Module, ABC):
    """A component that may have weights: a tokenizer, an encoder, a bridge or a head."""

    def translate(self, source: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """A published model's tensors → those of this component by their own names. Raises WeightsError. Default:
        the source has our names already (and encoders whose blocks are named like ours take any known layout)."""
        return source


class Tokenizer(Weighted):
    """Raw tensors of one modality → TokenBatch of width `dim`. Owns its positions and its `preprocess`.

    Wired: `dim` (int, width of the encoder that reads the tokens).
    """

    preprocess: Preprocess
    """Set in the constructor."""
    fits: ClassVar[bool] = False
    """True: `fit` is called once, before training, with the values of the training set."""
    modality: str = ""
    """Registered name; set by the core after construction."""
    num_contents: int = 0
    """Numbers behind each token after the prefix, which masked prediction may ask for; 0 where there are none."""
    num_ids: int = 0
    """Size of the vocabulary that `TokenBatch.ids` are of; 0 where there is none. Its raw tensors then have `ids` and,
    where words have several, `words`: which word a token belongs to, -1 for special tokens."""
    mask_id: int | None = None
    """The id that stands for a hidden token."""

    @abstractmethod
    def forward(self, raw: Raw) -> TokenBatch:
        """`raw` as made by `preprocess.collate`, on the model's device. Masked tokens may hold anything finite."""

    def contents(self, raw: Raw) -> Float[Tensor, "B P E"]:
        """What the tokens after the prefix were made of: E = `num_contents` numbers each, about a unit large, which
        depend on no parameter. What is behind masked tokens may be anything finite."""
        raise NotImplementedError(f"{type(self).__name__} has num_contents 0")

    def word_vectors(self) -> nn.Parameter | None:
        """The vectors of the vocabulary's ids [V D], where there are any."""
        return None

    def fit(self, values: Iterable[Any]) -> None:
        """Learn statistics (into buffers) from raw training values, in data order. Same result on every rank.
        Buffers in float64 stay so, whatever precision the model is cast to."""

    def describe(self) -> str:
        """One line for `metaformer inspect`."""
        return type(self).__name__

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Tokenizer:
        # `model.bfloat16()` rounds buffers too: statistics that are rounded before they are subtracted would wipe out a
        # column such as a year. Those in double follow to another device, not to another precision.
        exact = {name: b for name, b in self.named_buffers(recurse=False) if b.dtype == torch.float64}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, buffer in exact.items():
            moved = self._buffers[name]
            if moved is not None and moved.dtype != buffer.dtype:
                self._buffers[name] = buffer.to(moved.device)
        return self


class Encoder(Weighted):
    """TokenBatch → TokenBatch of the same shape. Declares its width as `dim`; keeps its layers in `blocks`.

    Wired: nothing.
    """

    dim: int
    blocks: nn.ModuleList
    """The layers in order; presets such as `last-2` count them. May be empty."""

    @abstractmethod
    def forward(self, tokens: TokenBatch) -> TokenBatch:
        """Masked tokens must not influence the others."""


class Bridge(Weighted):
    """Named streams → one new stream of width `dim`. Knows tokenizers only through TokenBatch.

    Wired: `widths` (Mapping[str, int], role → width of the stream in that role).
    """

    dim: int

    @abstractmethod
    def forward(self, streams: Mapping[str, TokenBatch]) -> TokenBatch:
        """`streams` maps the roles of the recipe's `reads:` to streams."""


class Head(Weighted):
    """One stream → a prediction.

    Wired: `dim` (int, width of the stream it reads), `vocabularies` (Mapping[str, int], stream → its tokenizer's
    `num_ids`).
    """

    predicts: ClassVar[Literal["class", "classes", "values", "embedding"]]
    """`class`: logits [B C]; `classes`: logits per token or place [B N C]; `values`: [B C]; `embedding`: [B C], of
    unit length."""
    size: int
    """C."""
    reads: str = ""
    """Name of the stream it reads; set by the core after construction."""
    unit: float = 1.0
    """For `values`: their typical size in units of the target; losses divide by it."""
    ties: str | None = None
    """Stream whose tokenizer's word vectors are a parameter of this head as well; set in the constructor."""

    @abstractmethod
    def forward(self, tokens: TokenBatch) -> Tensor:
        """Rows without any real token give finite numbers; objectives and metrics leave them out."""

    def tie(self, vectors: nn.Parameter) -> None:
        """Take over the word vectors [V D] of the tokenizer of `ties`."""
        raise NotImplementedError(f"{type(self).__name__} ties nothing")


class Objective(nn.Module, ABC):
    """Calls the model and returns named losses; decides which passes happen.

    Wired: `task` (str), `heads` (Mapping[str, Head]), `widths` (Mapping[str, int], stream → width), `contents`
    (Mapping[str, int], stream → its tokenizer's `num_contents`), `vocabularies` (Mapping[str, int], stream → its
    tokenizer's `num_ids`).
    Do not keep `heads` itself: it would register the heads a second time.
    """

    targets: Mapping[str, Target]
    """Sample keys it needs beside the streams, and their form. Set in the constructor."""
    uses: tuple[str, ...]
    """Names of the heads and streams it reads: decides what a sample must bring. Set in the constructor."""
    pairs: tuple[tuple[str, str], ...] = ()
    """Heads whose embeddings of one sample belong together: what retrieval metrics judge."""
    identity: str | None = None
    """The target of kind `identity`, if any, by which samples are known to be the same thing."""
    judged: Mapping[str, Readout] = {}
    """What it predicts and judges by itself, by a name that metrics call `head:`. In evaluation it leaves
    `batch.memo["judged", NAME] = (predictions, targets)`, of what counts only."""
    momentum: float | None = None
    """Asks for `model.teacher` with this momentum. Set in the constructor."""
    weight: float = 1.0
    """The recipe's factor of its losses; set by the core after construction."""
    class_names: Mapping[str, Sequence[str]] = {}
    """Target → how its classes are called, where the task's data say it; set by the core with the data."""

    @abstractmethod
    def forward(self, model: MetaFormer, batch: Batch) -> dict[str, Tensor]:
        """Named scalar losses, each a mean over what counts in this batch. A batch in which nothing counts
        gives a zero that is still connected to the parameters: ranks must run the same modules."""

    def answer(self, model: MetaFormer, batch: Batch) -> Answer | None:
        """What `metaformer predict` shows of an objective that classifies by itself, by its name in `judged`; None if
        the batch lacks a stream it needs. There are no targets. Default: nothing."""
        return None

    def count(self, model: MetaFormer, batch: Batch) -> Mapping[str, float]:
        """Loss name → how many things `forward` will take the mean over, from targets and presence, without a pass.

        The core weighs the losses of a step's micro-batches by these numbers. Default: nothing, and all weigh alike."""
        return {}

    def updated(self, model: MetaFormer, whole: Whole) -> None:
        """Called on all ranks after every update, without autograd: where a teacher follows the weights, or a queue
        moves on. State that has to survive a resume is kept in buffers. Weights may be sharded over ranks: read them
        inside `with whole([parameter, ...]):`. Default: nothing."""


class Metric(ABC):
    """Predictions and targets of one task → a number. Distributed ranks are joined in `compute`.

    Wired: `head` (Head, or a Readout: `predicts`, `size`, `unit`), `target` (Target; None where it judges pairs).
    """

    higher_is_better: ClassVar[bool]
    of_pairs: ClassVar[bool] = False
    """True: it compares the embeddings of two heads (see `Objective.pairs`), the second as `target`."""

    @abstractmethod
    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Rows that count, as the head and the objective's target give them (class indices without IGNORE). A metric of
        pairs takes a third, `identity: Tensor | None = None`: which of them are the same thing, where it is known."""

    @abstractmethod
    def compute(self) -> float:
        """The number over everything seen since construction, on all ranks."""


class Dataset(ABC):
    """Samples by index. Must be cheap to pickle to workers and independent of any global random state.

    Wired: `open_data` (an entry such as `{"use": "digits", "split": "train"}` → that data set, for data sets made of
    others). Knobs annotated `Path` are looked up from the working directory, then from the recipe's.
    """

    root: Path | None = None
    """Folder that relative file names inside samples are resolved against."""
    classes: Mapping[str, Sequence[str]] = {}
    """Target name → class names in index order, where the data set knows them."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: int) -> Sample:
        """The raw record; raise `DataError` naming the file where it cannot be read. Keys absent or None are
        missing values. A class target may be a class name or an index."""

    def sample_id(self, index: int) -> str:
        """A stable name of the sample, for logs and predictions."""
        return str(index)

    def fingerprint(self) -> str:
        """Changes when the data change; kept in the run's lock. Default: the type and the length."""
        return f"{type(self).__name__}:{len(self)}"


def masked_mean(x: Float[Tensor, "B T D"], mask: Bool[Tensor, "B T"]) -> Float[Tensor, "B D"]:
    """Mean over real tokens; rows without any give 0."""
    weight = mask.to(x.dtype).unsqueeze(-1)
    return (x * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1)
