"""The recipe: one YAML file that is the whole truth about a run. This file is its shape; imports no torch."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Name = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
"""Names of streams, encoders, heads and tasks: they become parts of parameter names, so no dots."""


class Shape(BaseModel):
    """Base of every fixed part of a recipe: unknown keys are errors, values are not changed later."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=False)


class Entry(BaseModel):
    """A component and its knobs: `{use: NAME, knob: value, ...}`. Knobs are checked against the component."""

    model_config = ConfigDict(extra="allow", frozen=True)
    use: str
    """Registered name, or `distribution:name` where two distributions offer the same."""

    @property
    def knobs(self) -> dict[str, Any]:
        """Everything but the wiring."""
        return dict(self.model_extra or {})


class WeightedEntry(Entry):
    weights: str | None = None
    """Where pretrained weights come from: `timm:`, `hf:`, `openclip:`, `file:`, `run:RUN#part`."""
    allow_missing: tuple[str, ...] = ()
    """Globs over parameter names that the weights may lack."""


class BridgeEntry(WeightedEntry):
    reads: dict[Name, Name]
    """Role → stream."""


class HeadEntry(WeightedEntry):
    reads: Name
    """Stream it reads."""


class ObjectiveEntry(Entry):
    weight: Annotated[float, Field(gt=0)] = 1.0
    """Factor of its losses, beside the task's other objectives."""


class MetricEntry(Entry):
    head: Name | None = None
    """Head it judges; default: the only one the task's objectives read."""


class Pass(Shape):
    """Which streams go through which encoder, together as one sequence where there are several."""

    reads: tuple[Name, ...] | None = None
    """Streams, joined in this order; default: the stream of the pass's own name."""
    encoder: Name | None = "shared"
    """None sends the stream past every encoder."""
    types: bool = False
    """Add a learned vector to the tokens of each stream it reads, one per stream, before the encoder."""
    expert: Name | None = None
    """Which expert an encoder with experts takes in its top layers; default: it decides by the streams."""
    weights: str | None = None
    """Where pretrained type vectors come from."""
    allow_missing: tuple[str, ...] = ()
    """Globs over parameter names that the weights may lack."""


class Data(Shape):
    train: Entry | None = None
    """Default: the task is evaluated, and trains nothing."""
    valid: Entry | None = None


class Task(Shape):
    data: Data
    objective: ObjectiveEntry | tuple[ObjectiveEntry, ...]
    metrics: tuple[str | MetricEntry, ...] = ()
    weight: Annotated[float, Field(gt=0)] = 1.0
    """Share of micro-batches, relative to the other tasks."""

    @property
    def objectives(self) -> tuple[ObjectiveEntry, ...]:
        return self.objective if isinstance(self.objective, tuple) else (self.objective,)


class Group(Shape):
    """A learning-rate group: parameters whose names match take these settings. The first match wins."""

    match: str | tuple[str, ...]
    lr_scale: Annotated[float, Field(ge=0)] = 1.0
    weight_decay: Annotated[float, Field(ge=0)] | None = None


class Optimizer(Shape):
    use: Literal["adamw", "sgd"] = "adamw"
    lr: Annotated[float, Field(gt=0)] = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Applied to matrices only: parameters with fewer than two axes are never decayed."""
    betas: tuple[float, float] = (0.9, 0.999)
    eps: Annotated[float, Field(gt=0)] = 1e-8
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """For sgd."""
    groups: tuple[Group, ...] = ()


class Schedule(Shape):
    warmup: Annotated[int, Field(ge=0)] = 0
    """Steps of linear warm-up from zero."""
    decay: Literal["cosine", "linear", "constant", "polynomial"] = "cosine"
    floor: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Final learning rate as a share of the peak."""
    power: Annotated[float, Field(gt=0)] = 2.0
    """For polynomial decay."""


class Lora(Shape):
    rank: Annotated[int, Field(gt=0)] = 8
    alpha: Annotated[float, Field(gt=0)] = 16.0
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    targets: tuple[str, ...] = ("encoders.*.attn.qkv", "encoders.*.attn.proj")
    """Globs over names of linear layers."""


class Offload(Shape):
    """Where DeepSpeed keeps what does not fit the device. `nvme` needs `path` and the libaio library."""

    optimizer: Literal["cpu", "nvme"] | None = None
    """Optimizer state and master weights; ZeRO 1 to 3, `nvme` with ZeRO 3 only."""
    parameters: Literal["cpu", "nvme"] | None = None
    """Parameters, trained and frozen; ZeRO 3 only."""
    path: str | None = None
    """Folder on a fast local disk, for `nvme`."""
    pin_memory: bool = False


class Engine(Shape):
    use: Literal["deepspeed", "torch"] = "deepspeed"
    zero: Literal[0, 1, 2, 3] = 0
    offload: Offload = Offload()
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """bf16 and fp16 by autocast over fp32 weights; fp16 with a dynamic loss scale."""
    micro_batch: Annotated[int, Field(gt=0)] | None = None
    """Samples per forward pass and rank; default: what `batch_size` leaves for one."""
    accumulate: Annotated[int, Field(gt=0)] | None = None
    """Forward passes per rank and step; default: what `batch_size` leaves."""
    clip: Annotated[float, Field(gt=0)] | None = None
    """Largest global gradient norm."""
    threads: Annotated[int, Field(gt=0)] | None = None
    """CPU threads per rank; default: torch's."""
    activation_checkpointing: bool = False
    """Recompute the encoders' blocks in the backward pass instead of keeping what is inside them."""
    compile: bool = False
    """Compile the encoders' blocks, each on its own; not with ZeRO 3."""
    timeout: Annotated[float, Field(gt=0)] = 1800.0
    """Seconds that a rank waits for the others before it gives up."""
    config: dict[str, Any] = {}
    """Further DeepSpeed settings, passed through; keys the recipe sets itself are refused."""


class Loader(Shape):
    workers: Annotated[int, Field(ge=0)] = 0
    prefetch: Annotated[int, Field(gt=0)] = 2
    timeout: Annotated[float, Field(ge=0)] = 0.0
    """Seconds a worker may take for a batch; 0 waits for ever."""
    bad_samples: Literal["raise", "skip", "substitute"] = "raise"
    """`skip` counts the sample in `bad_samples.jsonl` and treats all its streams and targets as missing;
    `substitute` counts it and reads another one, drawn from seed, epoch and sample, in its place."""
    max_bad_fraction: Annotated[float, Field(ge=0, le=1)] = 0.01
    """With `skip` and `substitute`: more than this share of bad samples (and more than ten) ends the run."""


class Guard(Shape):
    """What happens to a step whose numbers are wrong, on all ranks alike and before any weight changes."""

    nonfinite: Literal["stop", "skip"] = "stop"
    """A loss or gradient that is not finite: end the run, or leave this step's update out."""
    max_skipped: Annotated[int, Field(ge=0)] = 10
    """With `skip`: more than so many steps left out in a row end the run."""
    spike: Literal["off", "warn", "skip", "rollback"] = "warn"
    """A loss far above those before it: say so, leave the update out, or go back to the newest checkpoint and pass
    over the samples seen since."""
    threshold: Annotated[float, Field(gt=0)] = 20.0
    """How far: in robust deviations of the last `window` losses of the task."""
    window: Annotated[int, Field(ge=8)] = 64
    max_rollbacks: Annotated[int, Field(ge=0)] = 3


class Observe(Shape):
    """What is looked at beside losses while a run trains; it changes no number of the run."""

    every: Annotated[int, Field(gt=0)] | None = None
    """Steps between looks at the gradient that each task alone has on the encoders' trained parameters: its norm, and
    the cosine between every two tasks'. Default: never. Not with ZeRO 3."""


class Best(Shape):
    metric: str
    """`task/metric`, as printed."""
    mode: Literal["max", "min"] | None = None
    """Default: what the metric says."""


Control = Literal["none", "random", "shuffled"]


class Recipe(Shape):
    name: Name
    requires: tuple[str, ...] = ()
    """Distributions that must be installed."""
    seed: Annotated[int, Field(ge=0)] = 0
    tokenizers: dict[Name, WeightedEntry] = Field(min_length=1)
    """Stream → tokenizer."""
    streams: dict[Name, Name] = {}
    """Further stream → the stream whose tokenizer reads it as well: two pictures of one kind."""
    encoders: dict[Name, WeightedEntry] = {}
    passes: dict[Name, Pass] = {}
    """Stream → pass. Default: every stream alone through `shared`."""
    bridges: dict[Name, BridgeEntry] = {}
    """New stream → bridge, in order: a bridge may read the streams of those above it."""
    heads: dict[Name, HeadEntry] = {}
    tasks: dict[Name, Task] = Field(min_length=1)
    trainable: str | tuple[str, ...] = "tuned"
    """Presets (`frozen`, `norm`, `bitfit`, `last-N`, `lora`, `tuned`) and globs over parameter names;
    everything else is frozen."""
    lora: Lora | None = None
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    steps: Annotated[int, Field(gt=0)]
    batch_size: Annotated[int, Field(gt=0)] | None = None
    """Samples per step over all ranks; default: micro_batch x accumulate x ranks."""
    engine: Engine = Engine()
    loader: Loader = Loader()
    guard: Guard = Guard()
    eval_every: Annotated[int, Field(gt=0)] | None = None
    """Steps between evaluations; there is always one at the end."""
    eval_batch: Annotated[int, Field(gt=0)] | None = None
    """Samples per forward pass of an evaluation; default: micro_batch."""
    save_every: Annotated[int, Field(gt=0)] | None = None
    """Steps between checkpoints; there is always one at the end."""
    log_every: Annotated[int, Field(gt=0)] = 10
    observe: Observe = Observe()
    keep_last: Annotated[int, Field(gt=0)] = 2
    """Newest checkpoints that stay."""
    keep_best: Annotated[int, Field(gt=0)] = 1
    """Checkpoints that stay because they were the best when they were made; the newest of these is `best`."""
    save_async: bool = False
    """Write checkpoints while training goes on: takes a copy of weights and optimizer state in host memory."""
    best: Best | None = None
    """What the best checkpoint is chosen by; default: the first metric of the first task."""
    control: Control | None = None
    """Replace the encoder: by nothing, by a frozen random one, by one that sees shuffled tokens."""
    controls: tuple[Control, ...] = ()
    """Controls to train after the run itself and to report beside it."""
    output: str = "runs"
    """Folder that run directories are made in: `OUTPUT/NAME/DATE-ID`."""
