"""Classification and regression metrics.

Source: torchmetrics; ours only choose the right form for what the head predicts and leave missing targets out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from metaformer.base import Head, Metric
from metaformer.errors import MetaformerError
from metaformer.types import Readout, Target

if TYPE_CHECKING:
    import torchmetrics

_MISSING = -1
"""Stands for a missing entry of a multilabel target: torchmetrics wants an integer."""


class TorchMetric(Metric):
    """Holds one torchmetrics object and feeds it rows that count."""

    def __init__(self, inner: torchmetrics.Metric, multilabel: bool = False) -> None:
        self.inner = inner
        self.multilabel = multilabel
        self.seen = 0

    def update(self, prediction: Tensor, target: Tensor) -> None:
        if self.multilabel:
            target = target.nan_to_num(nan=_MISSING).long()
        self.seen += len(target)
        self.inner.to(prediction.device)
        if len(target):
            self.inner.update(prediction, target)

    def compute(self) -> float:
        return float(self.inner.compute())


def _multilabel(target: Target) -> bool:
    return target.kind == "multilabel"


def _torchmetrics(name: str, *arguments: Any, **settings: Any) -> Any:
    """A metric of torchmetrics, whose import takes seconds: only where a metric is really computed."""
    import torchmetrics

    owner = torchmetrics.classification if name.startswith("Multi") else torchmetrics
    return getattr(owner, name)(*arguments, **settings)


class Accuracy(TorchMetric):
    """Share of right answers, 0 to 1: `top_k` counts a class as right if it is among the k likeliest;
    multilabel counts every label, at probability 0.5."""

    higher_is_better: ClassVar[bool] = True

    def __init__(
        self,
        head: Head | Readout,
        target: Target,
        *,
        top_k: Annotated[int, Field(gt=0)] = 1,
        average: Literal["micro", "macro"] = "micro",
    ) -> None:
        if _multilabel(target):
            inner = _torchmetrics("MultilabelAccuracy", head.size, average=average, ignore_index=_MISSING)
        else:
            inner = _torchmetrics("MulticlassAccuracy", head.size, top_k=min(top_k, head.size), average=average)
        super().__init__(inner, _multilabel(target))


class F1(TorchMetric):
    """Harmonic mean of precision and recall, 0 to 1, averaged over classes."""

    higher_is_better: ClassVar[bool] = True

    def __init__(self, head: Head | Readout, target: Target, *, average: Literal["micro", "macro"] = "macro") -> None:
        if _multilabel(target):
            inner = _torchmetrics("MultilabelF1Score", head.size, average=average, ignore_index=_MISSING)
        else:
            inner = _torchmetrics("MulticlassF1Score", head.size, average=average)
        super().__init__(inner, _multilabel(target))


class AUROC(TorchMetric):
    """Area under the receiver operating characteristic, 0 to 1, mean over classes."""

    higher_is_better: ClassVar[bool] = True

    def __init__(self, head: Head | Readout, target: Target) -> None:
        if _multilabel(target):
            inner = _torchmetrics("MultilabelAUROC", head.size, ignore_index=_MISSING)
        else:
            inner = _torchmetrics("MulticlassAUROC", head.size)
        super().__init__(inner, _multilabel(target))


class AveragePrecision(TorchMetric):
    """Area under precision over recall, 0 to 1, mean over classes."""

    higher_is_better: ClassVar[bool] = True

    def __init__(self, head: Head | Readout, target: Target) -> None:
        if _multilabel(target):
            inner = _torchmetrics("MultilabelAveragePrecision", head.size, ignore_index=_MISSING)
        else:
            inner = _torchmetrics("MulticlassAveragePrecision", head.size)
        super().__init__(inner, _multilabel(target))


class IoU(TorchMetric):
    """Intersection over union of what was said and what is, 0 to 1, mean over the classes that occur in either."""

    higher_is_better: ClassVar[bool] = True

    def __init__(self, head: Head | Readout) -> None:
        super().__init__(_torchmetrics("MulticlassJaccardIndex", head.size, average="macro"))


class Score(Metric):
    """Mean of what the target gives the likeliest class, 0 to 1: the accuracy of VQA v2, whose answers score by how
    many people gave them. Ranks are joined by their sums."""

    higher_is_better: ClassVar[bool] = True

    def __init__(self, target: Target) -> None:
        if target.kind not in ("scores", "multilabel"):
            do = "use an objective with scores, or metric accuracy"
            raise MetaformerError("metric score", f"a target of kind {target.kind!r}", do)
        self.total = torch.zeros(2, dtype=torch.float64)

    def update(self, prediction: Tensor, target: Tensor) -> None:
        won = target.gather(1, prediction.argmax(dim=1, keepdim=True)).nan_to_num()
        self.total += torch.tensor([float(won.sum()), float(len(won))], dtype=torch.float64)

    def compute(self) -> float:
        total = self.total.clone()
        if torch.distributed.is_initialized():
            every: list[Any] = [None] * torch.distributed.get_world_size()
            torch.distributed.all_gather_object(every, total)
            total = torch.stack(every).sum(dim=0)
        return float(total[0] / total[1])


class _Regression(TorchMetric):
    """Values [B C] against values [B C]; rows with any missing value are left out."""

    def update(self, prediction: Tensor, target: Tensor) -> None:
        whole = ~target.isnan().any(dim=1)
        super().update(prediction[whole].float(), target[whole].float())


class MAE(_Regression):
    """Mean absolute error, in units of the target."""

    higher_is_better: ClassVar[bool] = False

    def __init__(self) -> None:
        super().__init__(_torchmetrics("MeanAbsoluteError"))


class RMSE(_Regression):
    """Root of the mean squared error, in units of the target."""

    higher_is_better: ClassVar[bool] = False

    def __init__(self) -> None:
        super().__init__(_torchmetrics("MeanSquaredError", squared=False))


class MSE(_Regression):
    """Mean squared error, in squared units of the target."""

    higher_is_better: ClassVar[bool] = False

    def __init__(self) -> None:
        super().__init__(_torchmetrics("MeanSquaredError"))


class R2(_Regression):
    """Share of the variance explained; 1 is perfect, 0 is the mean."""

    higher_is_better: ClassVar[bool] = True

    def __init__(self, head: Head | Readout) -> None:
        super().__init__(_torchmetrics("R2Score"))
        self.outputs = head.size

    def update(self, prediction: Tensor, target: Tensor) -> None:
        # torchmetrics wants a vector for one output and a matrix for several.
        whole = ~target.isnan().any(dim=1)
        prediction, target = prediction[whole].float(), target[whole].float()
        if self.outputs == 1:
            prediction, target = prediction.squeeze(1), target.squeeze(1)
        TorchMetric.update(self, prediction, target)


def counting_rows(target: Target, values: Tensor, present: Tensor) -> Tensor:
    """Which rows (or, for `classes`, which tokens [B T]) of a target tensor count."""
    if target.kind == "class":
        return present & (values >= 0)
    if target.kind == "classes":
        return present[:, None] & (values >= 0)
    return present & ~torch.isnan(values).all(dim=1)
