"""The DeepSpeed engine: ZeRO stages 0 to 3, from one CPU process to many nodes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from metaformer.engine.base import (
    Batching,
    Engine,
    Write,
    clip_gradients,
    make_optimizer,
    set_lr,
    size_of,
    state_per_parameter,
)
from metaformer.engine.place import Place
from metaformer.engine.screen import screened
from metaformer.engine.settings import load_deepspeed, zero_settings
from metaformer.errors import CheckpointError, Problem, RecipeError
from metaformer.model import Step
from metaformer.recipe import Recipe
from metaformer.types import Batch

TAG = "engine"
"""Name of the folder that DeepSpeed makes for its files."""


class DeepSpeedEngine(Engine):
    """Wraps `deepspeed.initialize`; parameters, losses, schedules and files stay ours."""

    def __init__(self, step: Step, recipe: Recipe, place: Place, batching: Batching) -> None:
        super().__init__(step, recipe, place, batching)
        deepspeed = load_deepspeed()
        deepspeed.init_distributed(verbose=False)
        step.to(place.device)
        self._zero, self._clip, self._spec = recipe.engine.zero, recipe.engine.clip, recipe.optimizer
        self._deepspeed = deepspeed
        optimizer = make_optimizer(self.model, recipe.optimizer)
        try:
            self.engine, self.optimizer, _, _ = deepspeed.initialize(
                model=step,
                optimizer=optimizer,
                config=deepspeed_config(recipe, self.batching),
                dist_init_required=False,
            )
        except (AssertionError, ValueError, NotImplementedError) as error:
            # It checks combinations of settings only here.
            do = "change the settings that it names, or engine.zero"
            raise RecipeError(recipe.name, [Problem("engine", f"DeepSpeed refuses it: {error}", do)]) from error
        self._trained = [(name, p) for name, p in self.model.named_parameters() if p.requires_grad]

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        out: dict[str, Tensor] = self.engine(batch)
        return out

    def backward(self, loss: Tensor) -> None:
        if self.scale is not None and self._zero:
            self.optimizer.override_loss_scale(self.scale.value)
        elif self.scale is not None:
            loss = loss * self.scale.value
        self.engine.backward(loss)
        if not self.engine.is_gradient_accumulation_boundary():
            self.engine.step()

    def step(self, lr: float) -> float:
        set_lr(self.optimizer.param_groups, lr)
        if self._zero == 0:
            return self._step_without_zero()
        # ZeRO's own step looks at the norm first, and leaves everything as it was where it is not finite.
        self.engine.step()
        norm = self.engine.get_global_grad_norm()
        return math.nan if norm is None else float(norm)

    def _step_without_zero(self) -> float:
        # Without ZeRO, DeepSpeed neither says what the norm was nor looks whether it is finite.
        trained = [p for _, p in self._trained]
        if self.scale is not None:
            torch._foreach_div_([p.grad for p in trained if p.grad is not None], self.scale.value)
        norm = clip_gradients(trained, self._clip)
        if not math.isfinite(norm):
            # Parameters without a gradient are passed over; the engine's own counters go on.
            self.engine.zero_grad()
            for p in trained:
                p.grad = None
        self.engine.step()
        return norm

    def gradients(self) -> Iterator[tuple[str, Tensor]]:
        from deepspeed.utils import safe_get_full_grad

        for name, p in self._trained:
            gradient = p.grad if self._zero == 0 else safe_get_full_grad(p)
            if gradient is not None:
                yield name, gradient

    def save(self, folder: Path, write: Write) -> None:
        with _files(self.engine, write, folder):
            self.engine.save_checkpoint(
                str(folder),
                tag=TAG,
                save_latest=False,
                exclude_frozen_parameters=True,
                # Without this key, stages 1 and 2 refuse to be made into a universal checkpoint.
                client_state={"universal_checkpoint_info": {"universal_checkpoint_version": 0.2}},
            )

    def load(self, folder: Path, trust: bool = False) -> None:
        with _files(self.engine, None, folder, trust):
            path, _ = self.engine.load_checkpoint(str(folder), tag=TAG, load_module_strict=False)
        if path is None:
            raise CheckpointError(
                f"resume from {folder}",
                "DeepSpeed found nothing it can load there",
                "resume from an older checkpoint, or start anew with --resume never",
            )

    @contextmanager
    def whole(self, tensors: Sequence[Tensor], write: bool = False) -> Iterator[None]:
        if self._zero < 3:
            yield
            return
        partitioned = [tensor for tensor in tensors if hasattr(tensor, "ds_id")]
        with self._deepspeed.zero.GatheredParameters(partitioned, modifier_rank=0 if write else None):
            yield

    def state_bytes(self) -> int:
        trained = sum(size_of(p) for _, p in self._trained) * 4
        # The trained parameters once more, beside the moments; with ZeRO the master weights as well. Stage 3 keeps
        # parameters only as those.
        copies = 1 if self._zero in (0, 3) else 2
        return trained * (state_per_parameter(self._spec) + copies)


@contextmanager
def _files(engine: Any, write: Write | None, folder: Path, trust: bool = False) -> Iterator[None]:
    """Put ourselves in the place of DeepSpeed's reader and writer of files: it pickles to their final place at once,
    and unpickles whatever it finds."""
    from deepspeed.runtime.checkpoint_engine.checkpoint_engine import CheckpointEngine

    class Files(CheckpointEngine):  # type: ignore[misc]
        """Hands states over, reads plain data only."""

        def create(self, info: Any) -> None:
            return

        def save(self, state_dict: Any, path: str) -> None:
            assert write is not None
            write(Path(path).relative_to(folder).as_posix(), state_dict)

        def load(self, path: str, map_location: Any = None) -> Any:
            return screened(Path(path), map_location, trust)

        def commit(self, info: Any) -> bool:
            return True

    usual = engine.checkpoint_engine
    engine.checkpoint_engine = Files()
    # It also leaves a copy of its conversion script: our weights are safetensors already.
    engine._copy_recovery_script = lambda save_path: None
    try:
        yield
    finally:
        engine.checkpoint_engine = usual


def deepspeed_config(recipe: Recipe, batching: Batching) -> dict[str, Any]:
    """DeepSpeed's configuration for a recipe: what we set ourselves over what `engine.config` adds."""
    return {
        **recipe.engine.config,
        "train_micro_batch_size_per_gpu": batching.micro,
        "gradient_accumulation_steps": batching.accumulate,
        "train_batch_size": batching.total,
        "gradient_clipping": (recipe.engine.clip or 0.0) if recipe.engine.zero else 0.0,
        "zero_optimization": zero_settings(recipe.engine),
        # Our optimizer is torch's own, on CPU as well: no operator is compiled for it.
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 1_000_000_000,
        "wall_clock_breakdown": False,
    }
