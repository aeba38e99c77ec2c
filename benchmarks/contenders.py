"""What `train_step.py` compares: each contender makes one training step of the same model on the same batch per call.

All start from the weights of one timm model, drawn by seed, and see the same pixels in [0, 1] and labels; all use
AdamW with one rate and neither weight decay nor clipping. Ours takes pixels as uint8 and scales them in the step.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

LR = 1e-4
STEPS = 1_000_000
"""Length of the schedule, which is constant: the parent decides when to stop."""


@dataclass(frozen=True)
class Options:
    """What is measured, and how."""

    batch: int = 8
    precision: str = "bf16"
    depth: int = 12
    dim: int = 768
    num_heads: int = 12
    num_classes: int = 1000
    image_size: int = 224
    threads: int = 2

    @property
    def dtype(self) -> torch.dtype:
        return torch.bfloat16 if self.precision == "bf16" else torch.float32


Step = Callable[[], float]
"""One training step; returns the loss."""


def pixels_and_labels(o: Options) -> tuple[Tensor, Tensor]:
    """uint8 [B 3 H W] and [B], the same for every contender."""
    draw = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (o.batch, 3, o.image_size, o.image_size), dtype=torch.uint8, generator=draw)
    return pixels, torch.randint(0, o.num_classes, (o.batch,), generator=draw)


def timm_model(o: Options) -> Any:
    import timm

    torch.manual_seed(0)
    shape = {"depth": o.depth, "embed_dim": o.dim, "num_heads": o.num_heads, "img_size": o.image_size}
    return timm.create_model("vit_base_patch16_224", num_classes=o.num_classes, **shape).train()


def start_timm(o: Options, fused: bool | None) -> Step:
    """The loop a timm user writes."""
    model = timm_model(o)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=0.0, fused=fused)
    pixels, labels = pixels_and_labels(o)
    images = pixels / 255

    def step() -> float:
        with torch.autocast("cpu", torch.bfloat16, enabled=o.precision == "bf16"):
            loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return step


def our_model(o: Options, trainable: str | tuple[str, ...]) -> Any:
    """The same model of our parts, with timm's weights."""
    from metaformer_plugin_image.tokenizer import ImageTokenizer

    from metaformer.encoders.transformer import TransformerEncoder
    from metaformer.heads.classification import ClassificationHead
    from metaformer.model import MetaFormer, Route
    from metaformer.objectives.supervised import CrossEntropy
    from metaformer.trainable import freeze

    source = timm_model(o).state_dict()
    tokenizer = ImageTokenizer(o.dim, image_size=o.image_size, normalize="none")
    encoder = TransformerEncoder(dim=o.dim, depth=o.depth, num_heads=o.num_heads, norm_eps=1e-6)
    head = ClassificationHead(o.dim, num_classes=o.num_classes)
    head.reads, head.norm.eps = "image", 1e-6
    tokenizer.load_state_dict(dict(tokenizer.translate(source)))
    encoder.load_state_dict({k: v for k, v in source.items() if k.startswith("blocks.")})
    parts = {"norm": head.norm, "head": head.linear}
    for name, part in parts.items():
        part.load_state_dict({k: source[f"{name}.{k}"] for k in ("weight", "bias")})
    route = {"image": Route(("image",), "shared")}
    model = MetaFormer({"image": tokenizer}, {"shared": encoder}, route, {}, {}, {"label": head})
    model.add_objectives("task", [CrossEntropy({"label": head}, head="label")])
    freeze(model, trainable)
    return model.train()


def our_recipe(o: Options, engine: str) -> Any:
    from metaformer.recipe import Recipe

    nothing = {"use": "nothing"}
    return Recipe.model_validate(
        {
            "name": "benchmark",
            "tokenizers": {"image": nothing},
            "tasks": {"task": {"data": {"train": nothing}, "objective": nothing}},
            "optimizer": {"lr": LR},
            "schedule": {"decay": "constant"},
            "steps": STEPS,
            "batch_size": o.batch,
            "engine": {"use": engine, "precision": o.precision, "threads": o.threads},
        }
    )


def start_ours(o: Options, engine_name: str, trainable: str | tuple[str, ...]) -> dict[str, Step]:
    """Our engine in the training loop's order, and the bare loop over the very same model and optimizer."""
    from metaformer.data.order import pass_seed
    from metaformer.engine import find_place, start_engine
    from metaformer.model import Step as StepModule
    from metaformer.schedule import learning_rate
    from metaformer.session import seed_generators
    from metaformer.types import Batch

    recipe = our_recipe(o, engine_name)
    module = StepModule(our_model(o, trainable), {}, torch.bfloat16 if o.precision == "bf16" else None)
    engine = start_engine(module, recipe, find_place(o.threads))
    engine.model.train()
    pixels, labels = pixels_and_labels(o)
    present = {"image": torch.ones(o.batch, dtype=torch.bool)}
    batch = Batch("task", {"image": {"pixels": pixels}}, present, {"label": labels}, [str(i) for i in range(o.batch)])
    done = 0

    def step() -> float:
        nonlocal done
        engine.place.together(None, [0.0])
        seed_generators(pass_seed(0, done, 0))
        out = engine.forward(batch.to(engine.place.device))
        loss = out["loss"].item()
        wrong, _ = engine.place.total([float(not math.isfinite(loss)), loss])
        assert not wrong
        engine.backward(out["loss"])
        norm = engine.step(learning_rate(done, recipe.steps, recipe.optimizer.lr, recipe.schedule))
        assert math.isfinite(norm)
        done += 1
        return loss

    def bare() -> float:
        out = module(batch)
        out["loss"].backward()
        engine.optimizer.step()
        engine.optimizer.zero_grad()
        return out["loss"].item()

    return {"step": step, "bare": bare} if engine_name == "torch" else {"step": step}


def hugging_face_weights(source: dict[str, Tensor]) -> dict[str, Tensor]:
    """timm's ViT state dict in the keys of `ViTForImageClassification`."""
    names = {
        "cls_token": "vit.embeddings.cls_token",
        "pos_embed": "vit.embeddings.position_embeddings",
        "patch_embed.proj": "vit.embeddings.patch_embeddings.projection",
        "norm": "vit.layernorm",
        "head": "classifier",
        "norm1": "layernorm_before",
        "norm2": "layernorm_after",
        "attn.proj": "attention.o_proj",
        "mlp.fc1": "mlp.fc1",
        "mlp.fc2": "mlp.fc2",
    }
    out = {}
    for key, value in source.items():
        if key in names:
            out[names[key]] = value
            continue
        stem, leaf = key.rsplit(".", 1)
        if stem in names:
            out[f"{names[stem]}.{leaf}"] = value
            continue
        _, number, part = stem.split(".", 2)
        if part == "attn.qkv":
            for name, third in zip("qkv", value.chunk(3), strict=True):
                out[f"vit.layers.{number}.attention.{name}_proj.{leaf}"] = third
        else:
            out[f"vit.layers.{number}.{names[part]}.{leaf}"] = value
    return out


def serve_hugging_face(o: Options, link: Connection) -> None:
    """`Trainer` runs its own loop; a callback holds it until the parent asks for a step, and reports the step's time.
    Fetching the batch lies outside of what is timed, in its favour."""
    import tempfile

    from torch.utils.data import SequentialSampler
    from transformers import Trainer, TrainerCallback, TrainingArguments, ViTConfig, ViTForImageClassification

    config = ViTConfig(
        hidden_size=o.dim,
        intermediate_size=4 * o.dim,
        num_hidden_layers=o.depth,
        num_attention_heads=o.num_heads,
        image_size=o.image_size,
        num_labels=o.num_classes,
        layer_norm_eps=1e-6,
        hidden_dropout_prob=0.0,
    )
    model = ViTForImageClassification(config)
    model.load_state_dict(hugging_face_weights(timm_model(o).state_dict()))
    pixels, labels = pixels_and_labels(o)
    rows = [{"pixel_values": p / 255, "labels": y} for p, y in zip(pixels, labels, strict=True)]

    class Sequential(Trainer):  # type: ignore[misc]
        loss = 0.0

        def _get_train_sampler(self, *args: Any) -> Any:
            return SequentialSampler(rows)  # the same batch in the same order, as everyone

        def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
            loss: Tensor = super().training_step(*args, **kwargs)
            self.loss = loss.item()
            return loss

    class Gate(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 0:
                link.send("ready")
            if link.recv() == "stop":
                raise EOFError
            self.began = clocks()

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            link.send((*(b - a for a, b in zip(self.began, clocks(), strict=True)), trainer.loss))

    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            use_cpu=True,
            bf16=o.precision == "bf16",
            per_device_train_batch_size=o.batch,
            max_steps=STEPS,
            learning_rate=LR,
            lr_scheduler_type="constant",
            max_grad_norm=0.0,
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        trainer = Sequential(model, arguments, train_dataset=rows, callbacks=[Gate()])
        try:
            trainer.train()
        except EOFError:
            return


def products(o: Options) -> Iterator[tuple[str, int, int, int]]:
    """(segment, rows, inputs, outputs) of every linear layer, in order."""
    patches = o.batch * (o.image_size // 16) ** 2
    tokens, d = patches + o.batch, o.dim
    yield "tokenizer", patches, 3 * 16 * 16, d
    for _ in range(o.depth):
        for inputs, outputs in ((d, 3 * d), (d, d), (d, 4 * d), (4 * d, d)):
            yield "encoder", tokens, inputs, outputs
    yield "head", o.batch, d, o.num_classes


PASSES = {
    "tuned": {"tokenizer": "fw", "encoder": "fxw", "head": "fxw"},
    "middle": {"tokenizer": "fw", "encoder": "fx", "head": "fxw"},
    "prefix": {"tokenizer": "f", "encoder": "f", "head": "fw"},
}
"""Products of a step by segment: forward, gradient of the input (x), of the weight (w)."""


def flops(o: Options, mode: str) -> int:
    """Of the linear layers and of attention's products in one step."""
    linear = sum(2 * n * i * k * len(PASSES[mode][s]) for s, n, i, k in products(o))
    tokens = (o.image_size // 16) ** 2 + 1
    attention = 2 * 2 * o.batch * tokens**2 * o.dim * o.depth
    return linear + attention * (1 if mode == "prefix" else 3)


def start_products(o: Options) -> dict[str, Step]:
    """Nothing but the step's matrix products, attention's included: the limit by what the kernels can do."""
    shapes = [(s, n, torch.randn(k, i).to(o.dtype)) for s, n, i, k in products(o)]
    data = {(n, w.shape[d]): torch.randn(n, w.shape[d]).to(o.dtype) for _, n, w in shapes for d in (0, 1)}
    tokens = (o.image_size // 16) ** 2 + 1
    scores = torch.randn(o.batch * o.num_heads, tokens, tokens).to(o.dtype)
    values = torch.randn(o.batch * o.num_heads, tokens, o.dim // o.num_heads).to(o.dtype)

    @torch.no_grad()
    def run(mode: str) -> float:
        for segment, n, weight in shapes:
            x, g = data[n, weight.shape[1]], data[n, weight.shape[0]]
            for kind in PASSES[mode][segment]:
                if kind == "f":
                    F.linear(x, weight)
                elif kind == "x":
                    g @ weight
                else:
                    g.t() @ x
        for _ in range(o.depth * (1 if mode == "prefix" else 3)):
            torch.bmm(values, values.transpose(1, 2))
            torch.bmm(scores, values)
        return 0.0

    return {mode: lambda mode=mode: run(mode) for mode in PASSES}


STARTS: dict[str, Callable[[Options], dict[str, Step]]] = {
    "tuned": lambda o: start_ours(o, "torch", "tuned"),
    "tuned-deepspeed": lambda o: start_ours(o, "deepspeed", "tuned"),
    "middle": lambda o: start_ours(o, "torch", "frozen"),
    "prefix": lambda o: start_ours(o, "torch", ("heads.*",)),
    "timm": lambda o: {"step": start_timm(o, None)},
    "timm-fused": lambda o: {"step": start_timm(o, True)},
    "limit": start_products,
}
NAMES = (*STARTS, "huggingface")


def clocks() -> tuple[float, float]:
    """Wall and processor seconds (all threads of this process)."""
    return time.perf_counter(), time.process_time()


def serve(name: str, o: Options, link: Connection) -> None:
    """A contender's process: one step per request, until told to stop."""
    torch.set_num_threads(o.threads)
    if name == "huggingface":
        serve_hugging_face(o, link)
        return
    kinds = STARTS[name](o)
    link.send("ready")
    while (kind := link.recv()) != "stop":
        began = clocks()
        loss = kinds[kind]()
        link.send((*(b - a for a, b in zip(began, clocks(), strict=True)), loss))
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
