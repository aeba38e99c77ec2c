"""Everything a run holds while it goes: what all its parts work on."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch

from metaformer import build
from metaformer.data.order import Order
from metaformer.data.stream import BatchStream
from metaformer.engine import Engine, Place
from metaformer.engine.base import LossScale
from metaformer.gradients import TaskGradients
from metaformer.guard import Spikes
from metaformer.recipe import Recipe
from metaformer.registry import registry
from metaformer.report.console import Console
from metaformer.run import Run
from metaformer.saver import Saver
from metaformer.stopping import StopSignal
from metaformer.trainable import Certificate, digest, frozen_tensors
from metaformer.types import Batch


@dataclass
class Progress:
    """How far a run is: what a checkpoint keeps beside weights and optimizer state."""

    done: int = 0
    """Steps made, those included whose update was left out."""
    position: int = 0
    """Which step's samples come next: `done`, and one more for every step that a rollback passed over."""
    seen: int = 0
    """Samples, over all ranks."""
    bad: int = 0
    """Of these, unreadable ones."""
    evaluated: int | None = None
    """The step after which the last evaluation was finished."""
    best: float | None = None
    left_out: int = 0
    """Updates left out in a row."""
    rollbacks: int = 0
    losses: dict[str, list[float]] = field(default_factory=dict)
    """Recent losses of each task, for the spike guard."""
    scale: tuple[float, int] | None = None
    """The loss scale of fp16, and how many steps it has held."""
    seconds: float = 0.0
    """That the run has taken, over all its parts."""


@dataclass(frozen=True)
class Options:
    """What the command line may say about going on."""

    trust: bool = False
    """Read optimizer state that holds more than plain data: it may run code."""
    drift: bool = False
    """Go on although the recipe's meaning or the data have changed."""


@dataclass
class Session:
    """Everything the loop holds while it runs."""

    run: Run
    place: Place
    console: Console
    stop: StopSignal
    engine: Engine
    data: dict[str, build.TaskData]
    order: Order
    certificate: Certificate
    saver: Saver
    spikes: Spikes
    losses: list[tuple[str, str]]
    """(task, loss name) of everything that is counted, in one order on all ranks."""
    progress: Progress = field(default_factory=Progress)
    batches: BatchStream | None = None
    current: Batch | None = None
    """The micro-batch in work, for messages."""
    gradients: TaskGradients | None = None
    """Looks at what tasks do to the encoders, where the recipe's `observe` asks for it."""
    began: float = field(default_factory=time.perf_counter)
    """When this part of the run began."""
    earlier: float = 0.0
    """Seconds that the parts of the run before this one took, up to the checkpoint that it goes on from."""
    failed: Exception | None = None
    """What went wrong in work of this rank alone; raised on all ranks when they agree the next time."""

    @property
    def recipe(self) -> Recipe:
        """The recipe the run follows."""
        return self.run.recipe

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Work of one rank (files, plugins, the terminal): its failure waits for the next agreement of all."""
        try:
            yield
        except Exception as error:
            self.failed = self.failed or error

    def state(self) -> dict[str, Any]:
        """For a checkpoint's `state.json`."""
        progress, cut, engine = self.progress, self.engine.batching, self.recipe.engine
        progress.losses = self.spikes.seen
        progress.seconds = self.earlier + time.perf_counter() - self.began
        progress.scale = (self.engine.scale.value, self.engine.scale.good) if self.engine.scale else None
        return {
            "progress": asdict(progress),
            "world": self.place.world,
            "engine": engine.use,
            "zero": engine.zero,
            "cut": {"micro": cut.micro, "per_step": cut.per_step},
            "frozen": {"tensors": len(self.certificate.digests), "sha256": self.certificate.summary},
            "plugins": registry().save_states(self.run) if self.place.leads else {},
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` said, but for the engine's own."""
        known = {key: value for key, value in state["progress"].items() if key in Progress.__dataclass_fields__}
        self.progress = Progress(**known)
        guard = self.recipe.guard
        self.spikes = Spikes(guard.window, guard.threshold, self.progress.losses)
        if self.engine.scale is not None and self.progress.scale is not None:
            self.engine.scale = LossScale(*self.progress.scale)

    def open_stream(self) -> None:
        """(Re)open the stream of batches at the run's position."""
        if self.batches is not None:
            self.batches.close()
        loader, place = self.recipe.loader, self.place
        self.batches = BatchStream(
            {task: spec.train for task, spec in self.data.items() if spec.train},
            self.order.rank_stream(self.progress.position, place.rank, place.world),
            workers=loader.workers,
            prefetch=loader.prefetch,
            timeout=loader.timeout,
        )


def seed_everything(seed: int, rank: int) -> None:
    """Seed the global generators of python, numpy and torch for this rank."""
    entropy = int(np.random.SeedSequence([seed, 4, rank]).generate_state(1)[0])
    seed_generators(entropy)


def seed_generators(entropy: int) -> None:
    """Seed python's, numpy's and torch's global generators."""
    random.seed(entropy)
    np.random.seed(entropy)
    torch.manual_seed(entropy)


def certify(session: Session, checkpoint: str | None = None) -> None:
    """Prove that what was frozen did not change, and write it into the run's record: for a checkpoint, or, without a
    name, for the end of the run. Raises FreezeError on all ranks."""
    digests = {}
    for name, tensor in frozen_tensors(session.engine.model).items():
        # One after the other: under ZeRO-3 each is gathered from all ranks.
        with session.engine.whole([tensor]):
            if session.place.leads:
                digests[name] = digest(tensor)
    now = Certificate(digests) if session.place.leads else session.certificate
    with session.alone():
        session.certificate.verify(now)
    session.place.together(session.failed)
    if not session.place.leads:
        return
    record = session.run.read_json("freeze.json") or {"start": session.certificate.summary, "checkpoints": {}}
    record["tensors"] = now.digests
    if checkpoint is None:
        record["end"] = now.summary
    else:
        record.setdefault("checkpoints", {})[checkpoint] = now.summary
    session.run.write_json("freeze.json", record)
    if checkpoint is None and now.digests:
        session.console.say(
            f"frozen stayed frozen: {len(now.digests)} tensors bitwise unchanged, sha256 {now.summary[:12]}"
        )
