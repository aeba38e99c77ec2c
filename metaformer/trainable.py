"""What is trained and what is frozen: globs over parameter names, and presets that stand for globs.

Idea: big_vision's and open_clip's freezing by name. Everything that no glob matches is frozen; a frozen part's
buffers do not change either, because it stays in eval mode.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from metaformer.errors import FreezeError, Problem, RecipeError
from metaformer.layers.lora import LoraLinear
from metaformer.recipe import Group, Lora

_AROUND = ("tokenizers.*", "passes.*", "bridges.*", "heads.*", "objectives.*")
"""Everything but the encoders."""

PRESETS: dict[str, str] = {
    "frozen": "everything but the encoders",
    "norm": "frozen, and the encoders' norms",
    "bitfit": "frozen, and the encoders' biases",
    "last-N": "frozen, and the last N blocks of every encoder with its final norm",
    "lora": "frozen, and low-rank updates inside the encoders (see `lora:`)",
    "tuned": "everything",
}


def is_preset(word: str) -> bool:
    """Whether a word of `trainable:` is a preset."""
    return word in PRESETS or bool(re.fullmatch(r"last-[1-9]\d*", word))


def expand(word: str, model: nn.Module) -> tuple[str, ...]:
    """The globs a word of `trainable:` stands for; a glob stands for itself."""
    if word == "tuned":
        return ("*",)
    if word == "frozen":
        return _AROUND
    if word == "norm":
        return (*_AROUND, "encoders.*norm*")
    if word == "bitfit":
        return (*_AROUND, "encoders.*.bias")
    if word == "lora":
        return (*_AROUND, "encoders.*.lora_?")
    if re.fullmatch(r"last-[1-9]\d*", word):
        last = int(word.removeprefix("last-"))
        encoders: nn.ModuleDict = model.get_submodule("encoders")  # type: ignore[assignment]
        globs = [
            f"encoders.{name}.blocks.{i}.*"
            for name, encoder in encoders.items()
            for i in range(len(encoder.blocks))[-last:]  # type: ignore[arg-type]
        ]
        return (*_AROUND, *globs, "encoders.*.norm_out.*")
    return (word,)


def words(trainable: str | Sequence[str]) -> tuple[str, ...]:
    """`trainable:` as a tuple of words."""
    return (trainable,) if isinstance(trainable, str) else tuple(trainable)


def matches(name: str, globs: Iterable[str]) -> bool:
    """Whether a parameter name matches any of the globs; `*` crosses dots."""
    return any(fnmatchcase(name, glob) for glob in globs)


def freeze(model: nn.Module, trainable: str | Sequence[str]) -> None:
    """Set `requires_grad` of every parameter by the recipe's words. A glob that matches nothing is an error."""
    names = [name for name, _ in model.named_parameters()]
    globs: list[str] = []
    problems = []
    for i, word in enumerate(words(trainable)):
        path = "trainable" if isinstance(trainable, str) else f"trainable.{i}"
        if not is_preset(word) and not any(fnmatchcase(name, word) for name in names):
            problems.append(_unmatched(path, word, names))
        globs += expand(word, model)
    if problems:
        raise RecipeError("", problems)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(parameter.is_floating_point() and matches(name, globs))


def _unmatched(path: str, glob: str, names: Sequence[str]) -> Problem:
    tops = sorted({".".join(name.split(".")[:2]) for name in names})
    return Problem(
        path,
        f"the glob {glob!r} matches no parameter",
        f"match full names, which begin with: {', '.join(f'{top}.*' for top in tops)}",
    )


def insert_lora(model: nn.Module, lora: Lora) -> list[str]:
    """Replace the linear layers that `lora.targets` name; returns their names."""
    found = [name for name, m in model.named_modules() if isinstance(m, nn.Linear) and matches(name, lora.targets)]
    if not found:
        linears = [name for name, m in model.named_modules() if isinstance(m, nn.Linear)]
        do = f"linear layers are, for example: {', '.join(linears[:6])}"
        raise RecipeError("", [Problem("lora.targets", f"{lora.targets!r} names no linear layer", do)])
    for name in found:
        parent, _, leaf = name.rpartition(".")
        linear = model.get_submodule(name)
        assert isinstance(linear, nn.Linear)
        setattr(model.get_submodule(parent), leaf, LoraLinear.replace(linear, lora.rank, lora.alpha, lora.dropout))
    return found


def set_mode(module: nn.Module, training: bool) -> None:
    """`module.train(training)`, except that frozen modules stay in eval mode: their dropout sleeps and their
    running statistics do not move. A module is frozen when it has parameters and none is trained; one without
    parameters follows its parent."""
    module.train(training)
    if training:
        _eval_frozen(module)


def _eval_frozen(module: nn.Module) -> None:
    parameters = list(module.parameters())
    if parameters and not any(p.requires_grad for p in parameters):
        module.eval()
        return
    for child in module.children():
        _eval_frozen(child)


def frozen_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Every frozen parameter, and every buffer of a frozen module, by name."""
    out: dict[str, Tensor] = {name: p for name, p in model.named_parameters() if not p.requires_grad}
    for prefix, module in model.named_modules():
        parameters = list(module.parameters())
        if parameters and not any(p.requires_grad for p in parameters):
            for name, buffer in module.named_buffers():
                out[f"{prefix}.{name}" if prefix else name] = buffer
    return out


def digest(tensor: Tensor) -> str:
    """sha256 over a tensor's dtype, shape and bytes."""
    data = tensor.detach().cpu().contiguous()
    head = f"{data.dtype}{tuple(data.shape)}".encode()
    flat = data.reshape(-1).view(torch.uint8) if data.numel() else data.new_empty(0, dtype=torch.uint8)
    hasher = hashlib.sha256(head)
    hasher.update(flat.numpy().data)
    return hasher.hexdigest()


@dataclass(frozen=True)
class Certificate:
    """Digests of everything frozen at one moment; two of them prove that frozen stayed frozen."""

    digests: dict[str, str]

    @classmethod
    def of(cls, model: nn.Module) -> Certificate:
        """Taken now. Parameters must be whole (gathered) on the calling rank."""
        return cls({name: digest(tensor) for name, tensor in frozen_tensors(model).items()})

    @property
    def summary(self) -> str:
        """One digest over all, in name order."""
        lines = "".join(f"{name}={value}\n" for name, value in sorted(self.digests.items()))
        return hashlib.sha256(lines.encode()).hexdigest()

    def verify(self, later: Certificate) -> None:
        """Raise FreezeError naming every tensor that changed, appeared or vanished."""
        moved = sorted(
            name
            for name in self.digests.keys() | later.digests.keys()
            if self.digests.get(name) != later.digests.get(name)
        )
        if moved:
            raise FreezeError(
                "frozen parameters and buffers must not change during a run",
                f"{len(moved)} changed: {', '.join(moved[:8])}{' ...' if len(moved) > 8 else ''}",
                "find what writes to them (an in-place initialisation, a BatchNorm in training mode, a hook), "
                "or add them to `trainable:` if they are meant to change",
            )


def parameter_groups(model: nn.Module, groups: Sequence[Group], weight_decay: float) -> list[dict[str, object]]:
    """Optimizer groups of the trained parameters by (learning-rate scale, weight decay).

    The first matching group wins. Parameters with fewer than two axes (biases, norms, gains, class tokens of one
    row) are never decayed. Each group has `params`, `names`, `lr_scale`, `weight_decay`.
    """
    table: dict[tuple[float, float], tuple[list[str], list[nn.Parameter]]] = {}
    used = [False] * len(groups)
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        scale, decay = 1.0, weight_decay
        for i, group in enumerate(groups):
            if matches(name, words(group.match)):
                used[i] = True
                scale = group.lr_scale
                decay = weight_decay if group.weight_decay is None else group.weight_decay
                break
        if parameter.ndim < 2:
            decay = 0.0
        names, parameters = table.setdefault((scale, decay), ([], []))
        names.append(name)
        parameters.append(parameter)
    idle = [i for i, hit in enumerate(used) if not hit]
    if idle:
        raise RecipeError(
            "",
            [
                Problem(
                    f"optimizer.groups.{i}.match",
                    f"{groups[i].match!r} is first to match no trained parameter",
                    "correct the glob, move the group up, or remove it",
                )
                for i in idle
            ],
        )
    return [
        {"params": parameters, "names": names, "lr_scale": scale, "weight_decay": decay}
        for (scale, decay), (names, parameters) in sorted(table.items(), key=lambda item: item[0])
    ]
