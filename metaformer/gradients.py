"""The gradients that tasks leave on the encoders they share: how long each is, and whether two pull apart.

Source: the cosine between tasks' gradients as the sign of a conflict, arXiv 2001.06782. Ours differs: gradients are
looked at, never changed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import combinations
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, distributed

from metaformer.base import Objective
from metaformer.data.loader import isolated_rng
from metaformer.data.order import pass_seed
from metaformer.engine import Engine
from metaformer.model import MetaFormer, losses
from metaformer.recipe import Recipe
from metaformer.types import Batch

Share = tuple[dict[str, float], float]
"""What a task's losses of this rank weigh among those of all ranks: by name, and one that counts nothing."""


class TaskGradients:
    """Every so many steps, before the update: the gradient that each task's loss alone has on the trained parameters of
    the encoders, over the newest micro-batch of the task that every rank has had since the last look.

    A look leaves no trace: no gradient is accumulated, no update made, and buffers and random generators are put back.
    Asked on all ranks together. Needs whole parameters, so not ZeRO 3, and memory for one gradient per task."""

    def __init__(self, engine: Engine, every: int, seed: int) -> None:
        self._engine, self._every, self._seed = engine, every, seed
        named = engine.model.named_parameters()
        self.parameters = [p for name, p in named if name.startswith("encoders.") and p.requires_grad]
        self.step = 0
        """When the last look was taken; 0: not yet."""
        self.found: dict[str, float] = {}
        """What it showed."""
        self._newest: dict[str, Batch] = {}

    def follow(self, batches: Sequence[Batch], step: int, position: int) -> dict[str, float]:
        """Hear of this rank's micro-batches of a step that is about to be made; where a look is due, `grad_norm/TASK`
        and `grad_cosine/TASK,TASK`, without numbers that are not finite or not defined."""
        for batch in batches:
            self._newest[batch.task] = batch
        if step % self._every:
            return {}
        self.step, self.found = step, self._look(position)
        self._newest.clear()
        return self.found

    def summary(self) -> str:
        """The last look in one line."""
        norms = {key.removeprefix("grad_norm/"): v for key, v in self.found.items() if key.startswith("grad_norm/")}
        pairs = {key.removeprefix("grad_cosine/"): v for key, v in self.found.items() if key.startswith("grad_cosine/")}
        text = "  ".join(f"{task} {norm:.3g}" for task, norm in norms.items())
        if pairs:
            least = min(pairs, key=lambda key: pairs[key])
            against = sum(cosine < 0 for cosine in pairs.values())
            text += f"; {against} of {len(pairs)} pairs pull apart, lowest cosine {pairs[least]:+.2f} ({least})"
        return f"gradients on the encoders at step {self.step}: {text}"

    def _look(self, position: int) -> dict[str, float]:
        shares = self._shares()
        with _put_back(self._engine):
            gradients = {task: self._gradient(task, share, position) for task, share in shares.items()}
        norms = {task: float(torch.linalg.vector_norm(gradient)) for task, gradient in gradients.items()}
        found = {f"grad_norm/{task}": norm for task, norm in norms.items() if math.isfinite(norm)}
        for a, b in combinations(gradients, 2):
            lengths = norms[a] * norms[b]
            if math.isfinite(lengths) and lengths > 0:
                found[f"grad_cosine/{a},{b}"] = float(gradients[a] @ gradients[b]) / lengths
        return found

    def _shares(self) -> dict[str, Share]:
        """For every task of which any rank has a micro-batch: what makes the sum of the ranks' losses the mean over all
        that counts in them."""
        model, blanks, place = self._engine.model, self._engine.step_module.blanks, self._engine.place
        own = {task: _counts(model, batch) for task, batch in self._newest.items()}
        keys = [(task, name) for task, blank in blanks.items() for name in _counts(model, blank)]
        here = [float(task in own) for task in blanks]
        sums = place.total([*here, *(own.get(task, {}).get(name, 0.0) for task, name in keys)])
        ranks, totals = dict(zip(blanks, sums, strict=False)), dict(zip(keys, sums[len(blanks) :], strict=True))
        return {
            task: (
                {name: count / (totals[task, name] or 1.0) for name, count in own.get(task, {}).items()},
                1 / ranks[task] if task in own else 0.0,
            )
            for task in blanks
            if ranks[task]
        }

    def _gradient(self, task: str, share: Share, position: int) -> Float[Tensor, P]:
        """Of all encoder parameters end to end, summed over ranks. A rank without a micro-batch takes a blank one that
        weighs nothing: all ranks run the same modules, as in a step."""
        engine, step, place = self._engine, self._engine.step_module, self._engine.place
        batch = self._newest.get(task, step.blanks[task]).to(place.device)
        scale = engine.scale.value if engine.scale is not None else 1.0
        weights, alike = share
        number = list(step.blanks).index(task) * place.world + place.rank
        with isolated_rng(0):
            torch.manual_seed(pass_seed(self._seed, position, number))  # of accelerators as well
            with torch.autocast(place.device.type, step.autocast, enabled=step.autocast is not None):
                total = torch.zeros((), device=place.device)
                for name, loss, factor in losses(engine.model, task, batch):
                    total = total + loss * (factor * weights.get(name, alike))
            # Not `backward`: nothing is added to `grad`, and the hooks by which ZeRO takes gradients stay silent.
            parts = (
                torch.autograd.grad(total * scale, self.parameters, allow_unused=True)
                if total.requires_grad
                else [None] * len(self.parameters)
            )
        flat = [torch.zeros_like(p) if g is None else g for p, g in zip(self.parameters, parts, strict=True)]
        gradient = torch.cat([part.reshape(-1).float() for part in flat]) / scale
        if place.world > 1:
            distributed.all_reduce(gradient)
        return gradient


def watch(recipe: Recipe, engine: Engine, say: Callable[[str], None]) -> TaskGradients | None:
    """What the recipe's `observe:` asks for; None, with a word why, where there is nothing to see."""
    if recipe.observe.every is None:
        return None
    gradients = TaskGradients(engine, recipe.observe.every, recipe.seed)
    if not gradients.parameters:
        say("observe: nothing of the encoders is trained, so tasks leave no gradients there to look at")
        return None
    return gradients


def _counts(model: MetaFormer, batch: Batch) -> dict[str, float]:
    objectives = cast(Sequence[Objective], model.objectives[batch.task])
    return {name: count for objective in objectives for name, count in objective.count(model, batch).items()}


@contextmanager
def _put_back(engine: Engine) -> Iterator[None]:
    """Undo what forward passes do to buffers (running statistics, queues) and to an accelerator's generator."""
    kept = [(buffer, buffer.clone()) for buffer in engine.model.buffers()]
    device = engine.place.device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield
    with torch.no_grad():
        for buffer, before in kept:
            buffer.copy_(before)
