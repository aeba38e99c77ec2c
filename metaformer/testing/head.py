"""Conformance of heads: what they say they predict is what comes out, for every row."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from metaformer.base import Head
from metaformer.testing import module as modules
from metaformer.testing import stream
from metaformer.testing.check import Check, Use, checks_of, component, require, require_close, same
from metaformer.types import TokenBatch

KINDS = ("class", "classes", "values", "embedding")
WORDS = 7
"""Size of the vocabulary of the stream `left`."""


def head_checks(make: Callable[[int], Head] | Use, *, dim: int = 32) -> Iterator[Check]:
    """Named checks of a head: of `(name, knobs)` as a recipe has them, or of a function of the stream's width."""
    wired = {"vocabularies": {"left": WORDS}}
    factory = make if callable(make) else lambda width: component("head", make, {**wired, "dim": width})
    return checks_of(_Kit(factory, dim), "head", make)


@dataclass(frozen=True)
class _Kit(modules.ModuleKit):
    make: Callable[[int], Head]
    dim: int

    def _make(self) -> Head:
        return self.make(self.dim)

    def _ready(self) -> Head:
        return self._make().eval()

    def _ask(self, module: nn.Module) -> Callable[[], Any]:
        tokens = stream.random_tokens(self.dim)
        return lambda: [module(tokens)]

    def predicts(self) -> None:
        """It says what it predicts and how much of it."""
        head = self.make(self.dim)
        says, size = getattr(head, "predicts", None), getattr(head, "size", None)
        require(says in KINDS, f"`predicts` is {says!r}, not one of {', '.join(KINDS)}")
        require(isinstance(size, int) and size > 0, f"`size` is {size!r}, not a number of classes or values")

    def output_shape(self) -> None:
        """Its predictions have the shape that `predicts` and `size` promise, at any width, with a prefix or not."""
        for dim in (self.dim, 2 * self.dim):
            head = self.make(dim).eval()
            for prefix in (0, 1):
                tokens = stream.random_tokens(dim, prefix=prefix)
                out = _run(head, tokens)
                rows, patches = tokens.mask.shape[0], tokens.mask.shape[1] - prefix
                expected = [rows, patches, head.size] if head.predicts == "classes" else [rows, head.size]
                promise = f"predicts = {head.predicts!r} and size = {head.size} promise {expected}"
                require(list(out.shape) == expected, f"{promise}; {list(out.shape)} comes out")
                if head.predicts == "embedding":
                    unit = torch.ones(rows)
                    require_close(out.float().norm(dim=1), unit, "embeddings are not of unit length")

    def padding_invariance(self) -> None:
        """What masked tokens hold does not change a prediction."""
        head = self._ready()
        for prefix in (0, 1):
            tokens = stream.random_tokens(self.dim, prefix=prefix)
            together = _run(head, tokens)
            for i in range(len(tokens.x)):
                alone = _run(head, stream.row(tokens, i))[0]
                padded = together[i][: len(alone)] if head.predicts == "classes" else together[i]
                require_close(padded, alone, f"padding leak: the prediction of row {i} differs alone and padded")

    def batch_order(self) -> None:
        """Samples in another order give the same predictions in that order."""
        head = self._ready()
        tokens = stream.random_tokens(self.dim)
        back = _run(head, stream.reverse(tokens)).flip(0)
        defect = "samples in reverse order give other predictions: something mixes the rows of a batch"
        require_close(back, _run(head, tokens), defect)

    def empty_row(self) -> None:
        """A row without any real token gives finite numbers and finite gradients."""
        head = self._ready()
        for prefix in (0, 1):
            tokens = stream.random_tokens(self.dim, prefix=prefix, empty_row=True)
            # Without a real token a stream may just as well be all zeros: unit length must not divide by that.
            for x in (tokens.x, tokens.x * tokens.mask[:, :, None]):
                out = head(tokens.with_x(x))
                require(bool(torch.isfinite(out).all()), "a row in which all is masked is not finite")
                if out.requires_grad:
                    modules.require_finite_gradients(head, modules.probe(out), "a row in which all is masked")

    def one_token(self) -> None:
        """A sequence of a single token gives finite numbers."""
        alone = stream.row(stream.random_tokens(self.dim), len(stream.LENGTHS) - 1)
        require(
            bool(torch.isfinite(_run(self._ready(), alone)).all()), "a sequence of one token gives numbers not finite"
        )

    def input_unchanged(self) -> None:
        """Several heads may read one stream: the forward pass leaves it as it is."""
        tokens = stream.random_tokens(self.dim)
        x, mask = tokens.x.clone(), tokens.mask.clone()
        _run(self._ready(), tokens)
        require(same(x, tokens.x) and same(mask, tokens.mask), "the forward pass writes into the tokens that it reads")

    def gradient_reach(self) -> None:
        """Every trainable parameter learns."""
        head = self.make(self.dim).train()
        if any(p.requires_grad for p in head.parameters()):
            loss = modules.probe(head(stream.random_tokens(self.dim)))
            modules.require_reach(head, loss, "take them away: some engines hang on parameters without gradient")

    def bf16_autocast(self) -> None:
        """Under bf16 autocast predictions are finite."""
        with torch.autocast("cpu", torch.bfloat16):
            out = _run(self._ready(), stream.random_tokens(self.dim, empty_row=True))
        require(bool(torch.isfinite(out).all()), "predictions under bf16 autocast are not finite")

    def meta_device(self) -> None:
        """It is built and run without memory, which `metaformer inspect` does to count FLOPs."""
        tokens = stream.random_tokens(self.dim)
        try:
            with torch.device("meta"):
                head = self.make(self.dim).eval()
            out = _run(head, stream.on_meta(tokens))
        except Exception as error:
            raise AssertionError(f"it does not run on the meta device, as `inspect` needs: {error}") from error
        require(out.is_meta, "built on the meta device, it allocates memory all the same")


def _run(head: Head, tokens: TokenBatch) -> Tensor:
    with torch.no_grad():
        out: Tensor = head(tokens)
    return out
