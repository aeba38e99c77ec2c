"""Checks that hold for every component with weights: a tokenizer, an encoder, a bridge, a head, an objective."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from metaformer.data.loader import isolated_rng
from metaformer.testing.check import moved_generators, require, require_close, same


class ModuleKit(ABC):
    """Checks that need to know only how a component is made, and how it is asked."""

    @abstractmethod
    def _make(self) -> nn.Module:
        """A new component."""

    def _ready(self) -> nn.Module:
        """A new component as it is when it answers."""
        return self._make().eval()

    @abstractmethod
    def _ask(self, module: nn.Module) -> Callable[[], Any]:
        """What runs the forward pass over the kit's inputs, which are ready then, and gives a list of tensors.

        Untyped, because checks of types at run time draw from python's `random` to look into a list."""

    def construction(self) -> None:
        """Equal seeds give equal initial weights."""
        require_seeded(self._make)

    def eval_mode(self) -> None:
        """Evaluation repeats itself and changes neither weights nor buffers."""
        module = self._ready()
        require_still(module, self._ask(module))

    def random_state(self) -> None:
        """Evaluation neither draws from global random generators nor seeds them."""
        module = self._ready()
        with torch.no_grad():
            moved = moved_generators(self._ask(module))
        require(not moved, f"a forward pass in eval mode moves the global random state of {', '.join(moved)}")

    def frozen(self) -> None:
        """Weights that were loaded and frozen stay, bit by bit, through loading, `train`, `eval` and passes."""
        source, module = self._ready(), self._make()
        copy_weights(source, module)
        module.requires_grad_(False)
        with torch.no_grad():
            for mode in (True, False):
                module.train(mode)
                self._ask(module)()
        loaded = dict(source.named_parameters())
        drawn = [name for name, p in module.named_parameters() if name in loaded and not same(p, loaded[name])]
        require(not drawn, f"weights that were loaded and frozen become others: {', '.join(drawn)}")

    def state_dict(self) -> None:
        """A copy with the same state dict, which has seen nothing else, gives the same answers."""
        first, second = self._ready(), self._make().eval()
        copy_weights(first, second)
        with torch.no_grad():
            require_round_trip(self._ask(first)(), self._ask(second)())

    def empty_parameters(self) -> None:
        """No parameter is without elements."""
        require_no_empty(self._make())


def snapshot(module: nn.Module) -> dict[str, Tensor]:
    """Copies of all parameters and buffers, those that are not saved included."""
    tensors = [*module.named_parameters(), *module.named_buffers()]
    return {name: tensor.detach().clone() for name, tensor in tensors}


def changed(before: Mapping[str, Tensor], module: nn.Module) -> list[str]:
    """Names of the tensors that are not bitwise what they were."""
    after = snapshot(module)
    return [name for name in before.keys() | after.keys() if not same(before.get(name), after.get(name))]


def require_no_empty(module: nn.Module) -> None:
    """ZeRO-3 cannot partition a parameter without elements."""
    empty = [name for name, p in module.named_parameters() if p.numel() == 0]
    require(not empty, f"parameters without elements, which ZeRO-3 cannot partition: {', '.join(empty)}; use None")


def require_seeded(make: Callable[[], nn.Module]) -> None:
    """Equal seeds give equal initial weights, and construction draws from torch's global generator alone."""
    with isolated_rng(1):
        first = snapshot(make())
    with isolated_rng(1):
        moved = changed(first, make())
    require(not moved, f"two constructions from one seed differ in: {', '.join(sorted(moved))}")


def require_still(module: nn.Module, act: Callable[[], Iterable[Tensor]]) -> None:
    """In eval mode: nothing changes in the module, no global generator decides, and the results repeat."""
    module.eval()
    before = snapshot(module)
    with torch.no_grad():
        with isolated_rng(1):
            first = [tensor.clone() for tensor in act()]
        moved = changed(before, module)
        require(not moved, f"a forward pass in eval mode changes: {', '.join(sorted(moved))}")
        with isolated_rng(2):
            second = list(act())
    for one, other in zip(first, second, strict=True):
        require(same(one, other), "two forward passes in eval mode differ: something is drawn, or kept between passes")


def require_reach(module: nn.Module, loss: Tensor, hint: str) -> None:
    """Every trainable parameter gets a gradient, finite and not zero throughout."""
    module.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    named = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    broken = [name for name, p in named if p.grad is not None and not torch.isfinite(p.grad).all()]
    require(not broken, f"the gradient is not finite in: {', '.join(broken)}")
    idle = [name for name, p in named if p.grad is None or not p.grad.any()]
    require(not idle, f"no gradient reaches: {', '.join(idle)}; {hint}")


def require_finite_gradients(module: nn.Module, loss: Tensor, subject: str) -> None:
    """Zero times a loss must be zero for every gradient, which one NaN spoils."""
    module.zero_grad()
    (0.0 * loss).backward()  # type: ignore[no-untyped-call]
    broken = [name for name, p in module.named_parameters() if p.grad is not None and not torch.isfinite(p.grad).all()]
    require(not broken, f"{subject} gives gradients that are not finite in: {', '.join(broken)}")


def copy_weights(source: nn.Module, target: nn.Module) -> None:
    """`source`'s weights into `target`, by name, strictly."""
    target.load_state_dict({name: tensor.clone() for name, tensor in source.state_dict().items()}, strict=True)


def require_round_trip(first: Iterable[Tensor], second: Iterable[Tensor]) -> None:
    """What two components of equal weights say is equal."""
    for one, other in zip(first, second, strict=True):
        defect = "a copy with the same state dict answers differently: something is kept outside of it"
        require_close(other, one, defect, 0.0)


def probe(x: Tensor) -> Tensor:
    """A scalar that every entry of `x` moves, each with its own weight (a plain sum is blind behind a norm)."""
    weights = torch.randn(x.shape, generator=torch.Generator().manual_seed(3)).to(x.device)
    return (x.float() * weights).sum()
