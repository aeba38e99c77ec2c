"""Conformance of bridges: one stream out of several, whichever of them a sample has, and whatever padding holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import nn

from metaformer.base import Bridge
from metaformer.errors import MetaformerError
from metaformer.testing import module as modules
from metaformer.testing import stream
from metaformer.testing.check import Check, Use, checks_of, component, require, require_close, same
from metaformer.types import TokenBatch

Streams = dict[str, TokenBatch]

COUNTS = ((6, 4, 1), (3, 1, 5), (1, 2, 4))
"""Real tokens of each row, by role: streams of a sample need not be of one length."""


def bridge_checks(make: Callable[[Mapping[str, int]], Bridge] | Use, widths: Mapping[str, int]) -> Iterator[Check]:
    """Named checks of a bridge: of `(name, knobs)` as a recipe has them, or of a function of the widths by role.

    `widths`: the roles it reads, and a width for each. Twice these widths are tried as well.
    """
    if not widths:
        raise MetaformerError("conformance checks of a bridge", "no roles", "say which it reads, and a width for each")
    factory = make if callable(make) else lambda wired: component("bridge", make, {"widths": wired})
    return checks_of(_Kit(factory, dict(widths)), "bridge", make)


@dataclass(frozen=True)
class _Kit(modules.ModuleKit):
    make: Callable[[Mapping[str, int]], Bridge]
    widths: Mapping[str, int]

    def _make(self) -> Bridge:
        return self.make(self.widths)

    def _ready(self) -> Bridge:
        return self._make().eval()

    def _streams(self, *, scale: int = 1, empty_row: bool = False) -> Streams:
        """A stream per role; the first has a class token."""
        return {
            role: stream.random_tokens(
                scale * width, prefix=int(i == 0), empty_row=empty_row, counts=COUNTS[i % len(COUNTS)], seed=11 + i
            )
            for i, (role, width) in enumerate(self.widths.items())
        }

    def _ask(self, module: nn.Module) -> Callable[[], Any]:
        streams = self._streams()
        return lambda: list(module(dict(streams))[:2])

    def declarations(self) -> None:
        """It says how wide its stream is."""
        dim = getattr(self._make(), "dim", None)
        require(isinstance(dim, int) and dim > 0, f"`dim` is {dim!r}, not the width of its stream")

    def output_shape(self) -> None:
        """x [B T dim] of the type of its weights, mask [B T], and what else is given fits, at any width."""
        for scale in (1, 2):
            bridge = self.make({role: scale * width for role, width in self.widths.items()}).eval()
            tokens = _run(bridge, self._streams(scale=scale))
            rows, shape = len(COUNTS[0]), list(tokens.x.shape)
            require(len(shape) == 3 and shape[0] == rows, f"{rows} samples give tokens of shape {shape}, not [B T D]")
            require(shape[2] == bridge.dim, f"tokens are {shape[2]} wide where `dim` is {bridge.dim}")
            require(list(tokens.mask.shape) == shape[:2], f"the mask is {list(tokens.mask.shape)}, not {shape[:2]}")
            require(tokens.mask.dtype == torch.bool, f"the mask is {tokens.mask.dtype}, not boolean")
            require(tokens.x.dtype == torch.float32, f"tokens are {tokens.x.dtype} where streams are float32")
            require(0 <= tokens.num_prefix <= shape[1], f"num_prefix is {tokens.num_prefix} of {shape[1]} tokens")
            if tokens.ids is not None:
                require(list(tokens.ids.shape) == shape[:2], f"ids are {list(tokens.ids.shape)}, not {shape[:2]}")
            if tokens.grid is not None:
                patches = shape[1] - tokens.num_prefix
                require(prod(tokens.grid) == patches, f"the grid {tokens.grid} does not hold {patches} patches")
            if tokens.positions is not None:
                fits = list(tokens.positions.shape) in (shape, shape[1:])
                require(fits, f"positions are {list(tokens.positions.shape)} beside tokens {shape}")

    def mask(self) -> None:
        """A sample that has a stream has real tokens; one that lacks every stream has none."""
        out = _run(self._ready(), self._streams(empty_row=True))
        there, last = out.mask.any(dim=1), len(out.mask) - 1
        lost = [i for i in range(last) if not there[i]]
        require(not lost, f"samples {lost} have no real token: is the mask upside down? True is real")
        invented = "a sample that lacks every stream has real tokens: heads and objectives would count it"
        require(not bool(there[last]), invented)

    def finite(self) -> None:
        """All tokens are finite, masked ones included: attention multiplies them by zero, which saves no NaN."""
        out = _run(self._ready(), self._streams())
        rows = [i for i, x in enumerate(out.x) if not torch.isfinite(x).all()]
        require(not rows, f"tokens of samples {rows} are not finite")

    def missing_stream(self) -> None:
        """A sample may lack any stream, and all: tokens and gradients stay finite, and other samples the same."""
        bridge, streams = self._ready(), self._streams()
        whole = _run(bridge, streams)
        for role in (*self.widths, ""):
            lacking = {name: stream.without(s, 0) if role in (name, "") else s for name, s in streams.items()}
            subject = f"a sample without the stream {role!r}" if role else "a sample without any stream"
            out: TokenBatch = bridge(dict(lacking))
            require(bool(torch.isfinite(out.x).all()), f"{subject} gives tokens that are not finite")
            if out.x.requires_grad:
                modules.require_finite_gradients(bridge, modules.probe(out.x), subject)
            for i in range(1, len(whole.x)):
                defect = f"{subject} changes the tokens of sample {i}"
                require_close(out.x[i][out.mask[i]], whole.x[i][whole.mask[i]], defect)

    def padding_invariance(self) -> None:
        """What pads a stream, whatever it holds, changes nothing, in the stream of any role."""
        bridge, streams = self._ready(), self._streams()
        for i in range(len(COUNTS[0])):
            bare = {role: stream.row(tokens, i) for role, tokens in streams.items()}
            alone = _run(bridge, bare)
            for role, tokens in streams.items():
                out = _run(bridge, {**bare, role: stream.only(tokens, i)})
                defect = f"padding leak: tokens of sample {i} differ when the stream {role!r} is padded"
                require_close(out.x[0][out.mask[0]], alone.x[0][alone.mask[0]], defect)

    def batch_independence(self) -> None:
        """A sample gives the same tokens alone and in a batch."""
        bridge, streams = self._ready(), self._streams()
        crowd = _run(bridge, streams)
        for i in range(len(COUNTS[0])):
            alone = _run(bridge, {role: stream.only(tokens, i) for role, tokens in streams.items()})
            defect = f"tokens of sample {i} differ alone and in a batch: something mixes the rows"
            require_close(crowd.x[i][crowd.mask[i]], alone.x[0][alone.mask[0]], defect)

    def batch_order(self) -> None:
        """Samples in another order give the same tokens in that order."""
        bridge, streams = self._ready(), self._streams()
        forth = _run(bridge, streams)
        back = _run(bridge, {role: stream.reverse(tokens) for role, tokens in streams.items()})
        defect = "samples in reverse order give other tokens: something mixes the rows of a batch"
        require(same(back.mask.flip(0), forth.mask), f"{defect} (the mask)")
        require_close(back.x.flip(0)[forth.mask], forth.x[forth.mask], defect)

    def role_order(self) -> None:
        """Streams are known by their roles: the order in which a recipe lists them does not matter."""
        bridge, streams = self._ready(), self._streams()
        forth, back = _run(bridge, streams), _run(bridge, dict(reversed(streams.items())))
        defect = "the order in which the roles are listed changes the tokens"
        require(same(back.mask, forth.mask), f"{defect} (the mask)")
        require_close(back.x[forth.mask], forth.x[forth.mask], defect)

    def one_token(self) -> None:
        """Streams of a single token give finite tokens."""
        streams = {
            role: stream.random_tokens(width, counts=(1,), seed=11 + i)
            for i, (role, width) in enumerate(self.widths.items())
        }
        finite = bool(torch.isfinite(_run(self._ready(), streams).x).all())
        require(finite, "streams of one token give tokens that are not finite")

    def input_unchanged(self) -> None:
        """Several parts may read one stream: the forward pass leaves it as it is."""
        streams = self._streams()
        _run(self._ready(), streams)
        fresh = self._streams()
        touched = [r for r in fresh if not same((streams[r].x, streams[r].mask), (fresh[r].x, fresh[r].mask))]
        require(not touched, f"the forward pass writes into the streams that it reads: {', '.join(touched)}")

    def gradient_reach(self) -> None:
        """Every trainable parameter learns."""
        bridge = self._make().train()
        if any(p.requires_grad for p in bridge.parameters()):
            out = bridge(self._streams())
            hint = "take them away: some engines hang on parameters without gradient"
            modules.require_reach(bridge, modules.probe(out.x[out.mask]), hint)

    def gradient_through(self) -> None:
        """Frozen, it still passes gradients on to the streams of every role, and to nothing that is masked."""
        bridge, streams = self._make().requires_grad_(False).eval(), self._streams()
        leaves = {role: tokens.x.clone().requires_grad_() for role, tokens in streams.items()}
        out = bridge({role: tokens.with_x(leaves[role]) for role, tokens in streams.items()})
        require(out.x.requires_grad, "frozen, it passes no gradient to what is before it: is it under no_grad?")
        modules.probe(out.x[out.mask]).backward()  # type: ignore[no-untyped-call]
        for role, x in leaves.items():
            mask = streams[role].mask
            reached = x.grad is not None and bool((x.grad.abs().sum(dim=2) * mask).sum(dim=1).gt(0).all())
            require(reached, f"no gradient reaches the stream {role!r}: is it detached, or not read?")
            assert x.grad is not None
            leak = float((x.grad * ~mask[:, :, None]).abs().max())
            require(leak <= 1e-6, f"padding leak: masked tokens of the stream {role!r} get a gradient of {leak:.3g}")

    def bf16_autocast(self) -> None:
        """Under bf16 autocast tokens are finite."""
        with torch.autocast("cpu", torch.bfloat16):
            out = _run(self._ready(), self._streams(empty_row=True))
        require(bool(torch.isfinite(out.x).all()), "tokens under bf16 autocast are not finite")

    def meta_device(self) -> None:
        """It is built and run without memory, which `metaformer inspect` does to count FLOPs."""
        try:
            with torch.device("meta"):
                bridge = self._make().eval()
            out = _run(bridge, {role: stream.on_meta(tokens) for role, tokens in self._streams().items()})
        except Exception as error:
            raise AssertionError(f"it does not run on the meta device, as `inspect` needs: {error}") from error
        require(out.x.is_meta, "built on the meta device, it allocates memory all the same")


def _run(bridge: Bridge, streams: Streams) -> TokenBatch:
    with torch.no_grad():
        out: TokenBatch = bridge(dict(streams))
    return out
