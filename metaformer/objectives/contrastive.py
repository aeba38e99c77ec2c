"""Contrast: embeddings of one sample's streams belong together, those of different samples do not.

Source: InfoNCE as in CLIP (arXiv 2103.00020); plain temperature and label smoothing as in ALIGN (arXiv 2102.05918);
queue and soft targets of a momentum teacher as in MoCo (arXiv 1911.05722) and ALBEF (arXiv 2107.07651); pairwise
sigmoids as in SigLIP (arXiv 2303.15343); embeddings a piece at a time as in GradCache (arXiv 2101.06983).
Ours differs: samples known to be the same thing share a row's target; places of the queue that nothing was written to
yet are not compared with; a temperature at its bound can still come back.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, cast

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from metaformer.base import Head, Objective, Whole
from metaformer.errors import MetaformerError
from metaformer.objectives.ramp import Ramp
from metaformer.ranks import gather, largest, rank
from metaformer.types import UNKNOWN, Batch, Prediction, Target
from metaformer.views import chunks, equal_rows

if TYPE_CHECKING:
    from metaformer.model import MetaFormer

Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, lt=1)]
FAR = -1e4
"""Score of what is not compared with: finite, so that rows that count for nothing stay finite."""


class Keys(NamedTuple):
    """What rows are compared with."""

    one: Float[Tensor, "K E"]
    other: Float[Tensor, "K E"]
    real: Bool[Tensor, K]
    identity: Int[Tensor, K]


class Contrastive(Objective):
    """Two heads that predict embeddings; the negatives of a sample are the others of its micro-batch on all ranks.

    Samples that lack either stream do not count; a batch with one pair has nothing to tell apart and loss 0.

    temperature: what cosines are divided by, at first. `temperature_as: log` learns the logarithm of its inverse
    (CLIP), `plain` the number itself (ALIGN, ALBEF); `learn_temperature: false` keeps it. `min_temperature` and
    `max_temperature` bound it: CLIP's 1/100 and none, ALBEF's 0.001 and 0.5; null for none.
    gather: negatives from all ranks, with gradient; else those of the rank alone. Evaluation never gathers.
    loss: `softmax`, or `sigmoid` over all pairs, with a learned bias.
    label_smoothing: share of a row's target that all its keys get evenly.
    same: target of kind identity (any text or whole number of a sample): samples that share it are all positives.
    queue: how many earlier embeddings are compared with as well.
    teacher: momentum of a teacher, whose embeddings are then the keys, and from whom the share `alpha` of each target
    comes; `alpha_steps` is the number of updates over which that share grows from 0.
    chunk: embed so many samples at a time, without keeping anything in between: the memory of a small batch for the
    negatives of a large one, at one more forward pass. Nothing of it is shared with other objectives.
    """

    temperature: Tensor
    pointer: Int[Tensor, 1]
    queue_one: Float[Tensor, "Q E"]
    queue_other: Float[Tensor, "Q E"]
    queue_identity: Int[Tensor, Q]
    queue_real: Bool[Tensor, Q]

    def __init__(
        self,
        heads: Mapping[str, Head],
        *,
        between: tuple[str, str],
        temperature: Positive = 0.07,
        temperature_as: Literal["log", "plain"] = "log",
        learn_temperature: bool = True,
        min_temperature: Positive | None = 0.01,
        max_temperature: Positive | None = None,
        gather: bool = True,
        loss: Literal["softmax", "sigmoid"] = "softmax",
        label_smoothing: Share = 0.0,
        same: str | None = None,
        queue: Annotated[int, Field(ge=0)] = 0,
        teacher: Share | None = None,
        alpha: Annotated[float, Field(ge=0, le=1)] = 0.4,
        alpha_steps: Annotated[int, Field(ge=0)] = 0,
        chunk: Annotated[int, Field(gt=0)] | None = None,
    ) -> None:
        super().__init__()
        size = embedding_size(heads, between, "contrastive")
        self.between, self.uses, self.pairs = between, between, (between,)
        self.name = f"contrast_{between[0]}_{between[1]}"
        self.targets = {} if same is None else {same: Target("identity", 1)}
        self.identity, self.momentum = same, teacher
        if loss == "sigmoid" and (teacher is not None or label_smoothing or queue):
            do = "use loss: softmax, or leave teacher, queue and label_smoothing out"
            raise MetaformerError("contrast by sigmoid", "it has no targets to soften and no queue", do)
        if chunk is not None and teacher is not None:
            raise MetaformerError("contrast in chunks", "with a teacher", "leave one of the two out")
        self.gather, self.loss, self.label_smoothing, self.chunk = gather, loss, label_smoothing, chunk
        self.queue, self.alpha = queue, Ramp(alpha, alpha_steps)
        self.log = temperature_as == "log"
        if max_temperature is not None and min_temperature is not None and min_temperature > max_temperature:
            found = f"min_temperature {min_temperature} is above max_temperature {max_temperature}"
            raise MetaformerError("bounds of the temperature", found, "swap them")
        self.bounds = (min_temperature or 0.0, max_temperature or math.inf)
        # One axis: DeepSpeed cannot partition a parameter without any.
        start = torch.full((1,), math.log(1 / temperature) if self.log else temperature)
        if learn_temperature:
            self.temperature = nn.Parameter(start)
        else:
            self.register_buffer("temperature", start)
        self.bias = nn.Parameter(torch.full((1,), -10.0)) if loss == "sigmoid" else None
        if queue:
            for end in ("one", "other"):
                self.register_buffer(f"queue_{end}", torch.zeros(queue, size))
            self.register_buffer("queue_identity", torch.full((queue,), UNKNOWN))
            self.register_buffer("queue_real", torch.zeros(queue, dtype=torch.bool))
            self.register_buffer("pointer", torch.zeros(1, dtype=torch.int64))

    def forward(self, model: MetaFormer, batch: Batch) -> dict[str, Tensor]:
        self._embed(model, batch)
        one, other = (model.predict(batch, name) for name in self.between)
        rows = one.present & other.present
        if self.identity is None:
            identity = torch.full_like(rows, UNKNOWN, dtype=torch.int64)
        else:
            identity = batch.targets[self.identity]
        # Cosines in single precision, whatever the passes before were made in.
        with torch.autocast(rows.device.type, enabled=False):
            mine = Keys(one.value.float(), other.value.float(), rows, identity)
            return {self.name: self._loss(model, batch, mine)}

    def _loss(self, model: MetaFormer, batch: Batch, mine: Keys) -> Tensor:
        taught = self._taught(model, batch, mine)
        keys, first = self._keys(taught)
        scale = self.scale()
        count = mine.real.sum().clamp(min=1)
        belongs = self._belongs(mine, keys, first)
        if self.loss == "sigmoid":
            assert self.bias is not None
            logits = mine.one @ keys.other.T * scale + self.bias
            compared = mine.real[:, None] & keys.real[None, :]
            return -(F.logsigmoid(torch.where(belongs, logits, -logits)) * compared).sum() / count
        losses = []
        for asking, answering, teacher in (
            (mine.one, keys.other, taught.one),
            (mine.other, keys.one, taught.other),
        ):
            real = keys.real[None, :] | belongs
            scores = (asking @ answering.T * scale).masked_fill(~real, FAR)
            target = belongs / belongs.sum(dim=1, keepdim=True)
            if self.momentum is not None:
                with torch.no_grad():
                    soft = (teacher @ answering.T * scale).masked_fill(~real, FAR).softmax(dim=1)
                share = self.alpha.now()
                target = share * soft + (1 - share) * target
            if self.label_smoothing:
                target = (1 - self.label_smoothing) * target + self.label_smoothing * real / real.sum(1, keepdim=True)
            losses.append(-(target * scores.log_softmax(dim=1)).sum(dim=1))
        if self.queue and self.training:
            self._enqueue(keys, len(keys.one) - self.queue)
        return ((losses[0] + losses[1]) * mine.real).sum() / 2 / count

    def _taught(self, model: MetaFormer, batch: Batch, mine: Keys) -> Keys:
        """The teacher's embeddings where there is one."""
        if self.momentum is None:
            return mine
        assert model.teacher is not None
        one, other = (model.teacher.predict(batch, name).value.float() for name in self.between)
        return mine._replace(one=one, other=other)

    def _keys(self, mine: Keys) -> tuple[Keys, int]:
        """Everything rows are compared with, and where among it this rank's own begin."""
        first = 0
        if self.gather and self.training:
            most = largest(len(mine.one), mine.one.device)
            one, other, real = (gather(part, most=most) for part in (mine.one, mine.other, mine.real))
            mine = Keys(one, other, real, gather(mine.identity, UNKNOWN, most))
            first = rank() * most
        if not self.queue:
            return mine, first
        queued = Keys(self.queue_one, self.queue_other, self.queue_real, self.queue_identity)
        # A copy: the queue moves on before the backward pass reads this.
        return Keys(*(torch.cat([part, old]) for part, old in zip(mine, queued, strict=True))), first

    def _belongs(self, mine: Keys, keys: Keys, first: int) -> Bool[Tensor, "B K"]:
        """Which keys are a row's positives: its own, and those known to be the same thing."""
        own = torch.arange(len(mine.one), device=mine.real.device)[:, None] + first
        same = equal_rows(mine.identity, keys.identity) & keys.real[None, :]
        return same | (own == torch.arange(len(keys.one), device=own.device)[None, :])

    @torch.no_grad()
    def _enqueue(self, keys: Keys, fresh: int) -> None:
        """Write the first `fresh` keys that are real, the same ones on all ranks, from where the last write ended. What
        is not finite stays out: its step will not be made."""
        finite = keys.one[:fresh].isfinite().all(dim=1) & keys.other[:fresh].isfinite().all(dim=1)
        rows = (keys.real[:fresh] & finite).nonzero()[:, 0][-self.queue :]
        at = (self.pointer + torch.arange(len(rows), device=rows.device)) % self.queue
        self.queue_one[at], self.queue_other[at] = keys.one[rows], keys.other[rows]
        self.queue_identity[at], self.queue_real[at] = keys.identity[rows], True
        self.pointer.copy_((self.pointer + len(rows)) % self.queue)

    def scale(self) -> Float[Tensor, 1]:
        """What cosines are multiplied by: one over the temperature, inside its bounds."""
        low, high = self.bounds
        if self.log:
            low, high = (-math.log(high) if high < math.inf else -math.inf, -math.log(low) if low else math.inf)
        bounded: Tensor = _Bounded.apply(self.temperature, low, high)  # type: ignore[no-untyped-call]
        return bounded.exp() if self.log else 1 / bounded

    def _embed(self, model: MetaFormer, batch: Batch) -> None:
        """Leave both heads' embeddings in the batch's memo, a chunk at a time where the recipe says so."""
        if self.chunk is None or len(batch) <= self.chunk or batch.view is not None:
            return
        pieces = chunks(batch, self.chunk)
        if self.training:
            said = [cast(Said, checkpoint(self._say, model, piece, use_reentrant=False)) for piece in pieces]
        else:
            said = [self._say(model, piece) for piece in pieces]
        for i, name in enumerate(self.between):
            values, present = (torch.cat([piece[2 * i + k] for piece in said]) for k in (0, 1))
            batch.memo["head", name] = Prediction(values, present)

    def _say(self, model: MetaFormer, piece: Batch) -> Said:
        # Emptied: the second time it must compute, not remember.
        piece.memo.clear()
        one, other = (model.predict(piece, name) for name in self.between)
        piece.memo.clear()
        return *one, *other

    def count(self, model: MetaFormer, batch: Batch) -> dict[str, float]:
        one, other = (model.present(batch, name) for name in self.between)
        return {self.name: float((one & other).sum())}

    def updated(self, model: MetaFormer, whole: Whole) -> None:
        self.alpha.move_on()


Said = tuple[Tensor, Tensor, Tensor, Tensor]
"""Embeddings and presence of the one head, and of the other."""


class _Bounded(torch.autograd.Function):
    """A number kept inside bounds, whose gradient is let through where it leads back inside: a plain clamp would hold
    it outside for ever, and writing to the parameter does not reach an optimizer that keeps a copy."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, low: float, high: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.bounds = low, high
        return x.clamp(low, high)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (x,) = ctx.saved_tensors
        low, high = ctx.bounds
        # A descent moves against the gradient.
        outward = ((x >= high) & (grad < 0)) | ((x <= low) & (grad > 0))
        return grad.masked_fill(outward, 0.0), None, None


def embedding_size(heads: Mapping[str, Head], between: tuple[str, str], objective: str) -> int:
    """The common size of two heads' embeddings. Raises MetaformerError."""
    for name in between:
        if name not in heads:
            raise MetaformerError(f"objective {objective} reads head {name!r}", f"heads: {', '.join(heads)}")
        if heads[name].predicts != "embedding":
            found = f"no head of embeddings: it predicts {heads[name].predicts!r}"
            raise MetaformerError(f"objective {objective} reads head {name!r}", found, "use head projection")
    one, other = (heads[name] for name in between)
    if one.size != other.size:
        found = f"sizes {one.size} and {other.size}"
        raise MetaformerError(f"objective {objective} between {between}", found, "make them equal")
    return one.size
