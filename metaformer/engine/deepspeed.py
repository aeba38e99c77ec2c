"""The DeepSpeed engine: ZeRO stages 0 to 3, from one CPU process to many nodes. The only room that imports it."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from metaformer.engine.base import Batching, Engine, Place, clip_gradients, make_optimizer, set_lr
from metaformer.errors import CheckpointError
from metaformer.model import Step
from metaformer.recipe import Recipe
from metaformer.types import Batch

_TAG = "engine"


class DeepSpeedEngine(Engine):
    """Wraps `deepspeed.initialize`; parameters, losses and schedules stay ours."""

    def __init__(self, step: Step, recipe: Recipe, place: Place) -> None:
        super().__init__(step, recipe, place)
        os.environ.setdefault("DS_ACCELERATOR", place.device.type)
        with _without_compiler_noise():
            import deepspeed
        # Its log is a page per start; what matters is in our own record.
        logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
        # Its shared-memory all-reduce is for inference, and building it needs a compiler and a minute.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        deepspeed.init_distributed(verbose=False)
        step.to(place.device)
        self._zero, self._clip = recipe.engine.zero, recipe.engine.clip
        self._deepspeed = deepspeed
        self.engine, self.optimizer, _, _ = deepspeed.initialize(
            model=step,
            optimizer=make_optimizer(self.model, recipe.optimizer),
            config=deepspeed_config(recipe, self.batching),
            dist_init_required=False,
        )

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        out: dict[str, Tensor] = self.engine(batch)
        return out

    def backward(self, loss: Tensor) -> None:
        self.engine.backward(loss)
        if not self.engine.is_gradient_accumulation_boundary():
            self.engine.step()

    def step(self, lr: float, measure: bool = True) -> float | None:
        set_lr(self.optimizer.param_groups, lr)
        if self._zero == 0:
            # Without ZeRO, DeepSpeed clips but does not say what the norm was.
            trained = [p for p in self.model.parameters() if p.requires_grad]
            norm = clip_gradients(trained, self._clip, measure)
            self.engine.step()
            return norm
        self.engine.step()
        norm = self.engine.get_global_grad_norm()
        return None if norm is None else float(norm)

    def save(self, folder: Path) -> None:
        self.engine.save_checkpoint(str(folder), tag=_TAG, save_latest=False, exclude_frozen_parameters=True)

    def load(self, folder: Path) -> None:
        path, _ = self.engine.load_checkpoint(str(folder), tag=_TAG, load_module_strict=False)
        if path is None:
            raise CheckpointError(
                f"resume from {folder}",
                "DeepSpeed found nothing it can load there",
                "resume from an older checkpoint, or start anew with --resume never",
            )

    @contextmanager
    def whole(self) -> Iterator[None]:
        if self._zero < 3:
            yield
            return
        with self._deepspeed.zero.GatheredParameters(list(self.model.parameters())):
            yield


@contextmanager
def _without_compiler_noise() -> Iterator[None]:
    """On import DeepSpeed tries out which operators could be built, and the linker's failures go to the terminal of
    people who did nothing wrong. Python's own errors come as exceptions and are not affected."""
    sys.stderr.flush()
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(nowhere)
        os.close(kept)


def deepspeed_config(recipe: Recipe, batching: Batching) -> dict[str, Any]:
    """DeepSpeed's configuration for a recipe: what we set ourselves over what `engine.config` adds."""
    extra = dict(recipe.engine.config)
    zero = {"stage": recipe.engine.zero, **extra.pop("zero_optimization", {})}
    return {
        **extra,
        "train_micro_batch_size_per_gpu": batching.micro,
        "gradient_accumulation_steps": batching.accumulate,
        "train_batch_size": batching.total,
        "gradient_clipping": (recipe.engine.clip or 0.0) if recipe.engine.zero else 0.0,
        "zero_optimization": zero,
        # Our optimizer is torch's own, on CPU as well: no operator is compiled for it.
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 1_000_000_000,
        "wall_clock_breakdown": False,
    }
