"""Which metric judges what: a head against a target of the sample, or two heads against one another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor

from metaformer.base import Metric, Objective
from metaformer.errors import Problem, RecipeError
from metaformer.metrics.standard import counting_rows
from metaformer.model import MetaFormer
from metaformer.recipe import Recipe
from metaformer.recipe_data import metric_name
from metaformer.recipe_file import metric_entry
from metaformer.registry import registry
from metaformer.schema import construct
from metaformer.types import Batch, Readout, Target


@dataclass(frozen=True)
class Judge:
    """A metric of a task, and what it compares."""

    name: str
    head: str
    """A head, or what an objective judges by itself."""
    against: str
    """The target, the other head of a pair, or nothing."""
    readout: Readout | None
    """Where an objective judges by itself."""
    form: Target | None
    """None: it judges a pair."""
    identity: str | None
    """The target that says which pairs are the same thing."""
    cls: type[Metric]
    knobs: Mapping[str, Any]

    def metric(self, model: MetaFormer) -> Metric:
        """A fresh metric, which has seen nothing."""
        wired = {"head": self.readout or model.heads[self.head], "target": self.form}
        return cast(Metric, construct(self.cls, self.knobs, wired))

    def update(self, metric: Metric, out: Mapping[str, Tensor], batch: Batch) -> None:
        """Let the metric see what counts of a batch, given what the step module returned."""
        if self.readout is not None:
            metric.update(out[f"judged/{self.head}"], out[f"right/{self.head}"])
            return
        value, present = out[f"predictions/{self.head}"], out[f"present/{self.head}"]
        if self.form is None:
            rows = present & out[f"present/{self.against}"]
            same = () if self.identity is None else (batch.targets[self.identity][rows],)
            metric.update(value[rows], out[f"predictions/{self.against}"][rows], *same)
            return
        target = batch.targets[self.against]
        if self.form.kind == "classes":
            value, target = value[:, : target.shape[1]], target[:, : value.shape[1]]
        rows = counting_rows(self.form, target, present)
        metric.update(value[rows], target[rows])


_Judged = tuple[str, Readout | None, Target | None, str | None]
"""What a head is compared with: see the fields of `Judge`."""


def judges(recipe: Recipe, model: MetaFormer, task: str) -> list[Judge]:
    """The metrics of a task. Raises RecipeError where it is not clear which head one judges."""
    objectives = cast(Sequence[Objective], model.objectives[task])
    targets: dict[str, _Judged] = {
        head: (target, None, form, None)
        for objective in objectives
        for head in objective.uses
        if head in model.heads
        for target, form in objective.targets.items()
        if form.kind != "identity"
    }
    for objective in objectives:
        targets |= {name: ("", readout, readout.target, None) for name, readout in objective.judged.items()}
    pairs: dict[str, _Judged] = {
        one: (other, None, None, objective.identity) for objective in objectives for one, other in objective.pairs
    }
    out, problems = [], []
    for i, item in enumerate(recipe.tasks[task].metrics):
        entry = metric_entry(item)
        cls: type[Metric] = registry().load("metric", entry.use)
        judged = pairs if cls.of_pairs else targets
        head = entry.head or (next(iter(judged)) if len(judged) == 1 else None)
        if head is None or head not in judged:
            found, do = f"judges head {head!r}", f"say `head:`, one of: {', '.join(judged) or 'none'}"
            problems.append(Problem(f"tasks.{task}.metrics.{i}", found, do))
            continue
        name = metric_name(item if isinstance(item, str) else item.model_dump())
        out.append(Judge(name, head, *judged[head], cls, entry.knobs))
    if problems:
        raise RecipeError("", problems)
    return out
