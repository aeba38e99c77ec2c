"""Conformance of encoders: as many tokens out as in, padding without influence, gradients through frozen weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from metaformer.base import Encoder
from metaformer.testing import module as modules
from metaformer.testing import stream
from metaformer.testing.check import Check, Use, checks_of, component, require, require_close, same
from metaformer.types import TokenBatch


def encoder_checks(make: Callable[[], Encoder] | Use) -> Iterator[Check]:
    """Named checks of an encoder: of `(name, knobs)` as a recipe has them, or of a function that makes one."""
    return checks_of(_Kit(make if callable(make) else lambda: component("encoder", make, {})), "encoder", make)


@dataclass(frozen=True)
class _Kit(modules.ModuleKit):
    make: Callable[[], Encoder]

    def _make(self) -> Encoder:
        return self.make()

    def _ready(self) -> Encoder:
        return self._make().eval()

    def _ask(self, module: nn.Module) -> Callable[[], Any]:
        assert isinstance(module, Encoder)
        tokens = stream.random_tokens(module.dim)
        return lambda: [module(tokens).x]

    def declarations(self) -> None:
        """It says how wide it is and which blocks it has."""
        encoder = self.make()
        dim, blocks = getattr(encoder, "dim", None), getattr(encoder, "blocks", None)
        require(isinstance(dim, int) and dim > 0, f"`dim` is {dim!r}, not the width of its tokens")
        require(isinstance(blocks, nn.ModuleList), "`blocks` is no ModuleList: presets such as last-2 count its items")

    def same_shape(self) -> None:
        """x keeps shape and type; whatever else the tokens carry is handed on."""
        encoder = self._ready()
        ids = torch.zeros(3, 6, dtype=torch.long)
        tokens = stream.random_tokens(encoder.dim, prefix=1)._replace(ids=ids, grid=(5,))
        out = _run(encoder, tokens)
        shape = list(tokens.x.shape)
        require(list(out.x.shape) == shape, f"tokens {shape} come out as {list(out.x.shape)}")
        require(out.x.dtype == tokens.x.dtype, f"tokens {tokens.x.dtype} come out as {out.x.dtype}")
        lost = [
            name
            for name in ("mask", "modality", "ids", "grid", "num_prefix", "positions")
            if not same(getattr(out, name), getattr(tokens, name))
        ]
        require(not lost, f"it does not hand on {', '.join(lost)} as it came: use `tokens.with_x`")

    def padding_invariance(self) -> None:
        """Masked tokens, whatever they hold, do not influence the others."""
        encoder = self._ready()
        tokens = stream.random_tokens(encoder.dim)
        together = _run(encoder, tokens)
        for i in range(len(tokens.x)):
            alone = _run(encoder, stream.row(tokens, i))
            defect = f"padding leak: tokens of row {i} differ alone and padded"
            require_close(together.x[i][tokens.mask[i]], alone.x[0], defect)

    def batch_order(self) -> None:
        """Samples in another order give the same tokens in that order."""
        encoder = self._ready()
        tokens = stream.random_tokens(encoder.dim)
        forth, back = _run(encoder, tokens), _run(encoder, stream.reverse(tokens))
        defect = "samples in reverse order give other tokens: something mixes the rows of a batch"
        require_close(back.x.flip(0)[tokens.mask], forth.x[tokens.mask], defect)

    def empty_row(self) -> None:
        """A row without any real token is finite and leaves the others as they are, gradients included."""
        encoder = self._ready()
        tokens = stream.random_tokens(encoder.dim, empty_row=True)
        x = tokens.x.clone().requires_grad_()
        out = encoder(tokens.with_x(x))
        require(bool(torch.isfinite(out.x).all()), "a row in which all is masked gives tokens that are not finite")
        modules.probe(out.x[tokens.mask]).backward()  # type: ignore[no-untyped-call]
        wrong = [name for name, p in encoder.named_parameters() if p.grad is not None and not p.grad.isfinite().all()]
        finite = x.grad is not None and bool(torch.isfinite(x.grad).all()) and not wrong
        require(finite, "a row in which all is masked makes gradients that are not finite")
        without = _run(encoder, stream.random_tokens(encoder.dim))
        mask = tokens.mask[:-1]
        require_close(out.x[:-1][mask], without.x[mask], "a row in which all is masked changes the other rows", 1e-4)

    def one_token(self) -> None:
        """A sequence of a single token is finite."""
        encoder = self._ready()
        alone = stream.row(stream.random_tokens(encoder.dim), len(stream.LENGTHS) - 1)
        require(bool(torch.isfinite(_run(encoder, alone).x).all()), "a sequence of one token gives numbers not finite")

    def input_unchanged(self) -> None:
        """Several passes may read one stream: the forward pass leaves it as it is."""
        encoder = self._ready()
        tokens = stream.random_tokens(encoder.dim)
        x, mask = tokens.x.clone(), tokens.mask.clone()
        _run(encoder, tokens)
        require(same(x, tokens.x) and same(mask, tokens.mask), "the forward pass writes into the tokens that it reads")

    def gradient_reach(self) -> None:
        """Every trainable parameter learns."""
        encoder = self.make().train()
        tokens = stream.random_tokens(encoder.dim)
        if any(p.requires_grad for p in encoder.parameters()):
            loss = modules.probe(encoder(tokens).x[tokens.mask])
            modules.require_reach(encoder, loss, "take them away: some engines hang on parameters without gradient")

    def gradient_through(self) -> None:
        """Frozen, it still passes gradients on to every real token, and from no masked one."""
        encoder = self.make().requires_grad_(False).eval()
        tokens = stream.random_tokens(encoder.dim)
        x = tokens.x.clone().requires_grad_()
        out = encoder(tokens.with_x(x)).x
        require(out.requires_grad, "frozen, it passes no gradient to the tokenizer before it: is it under no_grad?")
        modules.probe(out[tokens.mask]).backward()  # type: ignore[no-untyped-call]
        assert x.grad is not None
        dead = tokens.mask & ~x.grad.any(dim=2)
        require(not bool(dead.any()), f"no gradient reaches {int(dead.sum())} of the real tokens")
        leak = float(x.grad[~tokens.mask].abs().max())
        require(leak <= 1e-6, f"padding leak: masked tokens get a gradient of {leak:.3g}")

    def bf16_autocast(self) -> None:
        """Under bf16 autocast tokens are finite."""
        encoder = self._ready()
        tokens = stream.random_tokens(encoder.dim, empty_row=True)
        with torch.autocast("cpu", torch.bfloat16):
            finite = bool(torch.isfinite(_run(encoder, tokens).x).all())
        require(finite, "tokens under bf16 autocast are not finite")

    def meta_device(self) -> None:
        """It is built and run without memory, which `metaformer inspect` does to count FLOPs."""
        try:
            with torch.device("meta"):
                encoder = self.make().eval()
            tokens = stream.random_tokens(encoder.dim)
            out = _run(encoder, stream.on_meta(tokens))
        except Exception as error:
            raise AssertionError(f"it does not run on the meta device, as `inspect` needs: {error}") from error
        require(out.x.is_meta, "built on the meta device, it allocates memory all the same")


def _run(encoder: Encoder, tokens: TokenBatch) -> TokenBatch:
    with torch.no_grad():
        out: TokenBatch = encoder(tokens)
    return out
