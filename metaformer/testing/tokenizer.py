"""Conformance of tokenizers: shapes, masks, padding, determinism, gradients, and what workers and engines need."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import nn

from metaformer.base import Preprocess, Tokenizer
from metaformer.data.loader import isolated_rng
from metaformer.errors import DataError, MetaformerError
from metaformer.testing import module as modules
from metaformer.testing.check import (
    Check,
    Use,
    checks_of,
    component,
    moved_generators,
    offline,
    require,
    require_close,
    round_trip,
    same,
)
from metaformer.types import Raw, TokenBatch

NEAR = 0.05
"""How far bf16 may be from fp32, in units of the largest number: its own rounding is a tenth of that."""


def tokenizer_checks(
    make: Callable[[int], Tokenizer] | Use, samples: Sequence[Any], *, dim: int = 32, bad: Sequence[Any] = ()
) -> Iterator[Check]:
    """Named checks of a tokenizer: of `(name, knobs)` as a recipe has them, or of a function of the width.

    `samples` are raw values as `preprocess` gets them (paths where it reads files), better of several lengths and
    with every feature that has parameters of its own (a gap, an empty cell): together they must reach all of
    them. `bad` are values that cannot be used. `dim` and twice `dim` are the widths that are tried.
    """
    if not samples:
        raise MetaformerError("conformance checks of a tokenizer", "no samples", "give some, of several lengths")
    factory = make if callable(make) else lambda width: component("tokenizer", make, {"dim": width})
    return checks_of(_Kit(factory, tuple(samples), tuple(bad), dim), "tokenizer", make)


@dataclass(frozen=True)
class _Kit(modules.ModuleKit):
    make: Callable[[int], Tokenizer]
    samples: tuple[Any, ...]
    bad: tuple[Any, ...]
    dim: int

    def _make(self) -> Tokenizer:
        return self.make(self.dim)

    def _ready(self) -> Tokenizer:
        """A fresh tokenizer, fitted to the samples, in eval mode."""
        tokenizer = self._make()
        if tokenizer.fits:
            tokenizer.fit(iter(self.samples))
        return tokenizer.eval()

    def _raws(self, tokenizer: Tokenizer) -> list[Raw]:
        return [tokenizer.preprocess(value, False) for value in self.samples]

    def _all_tokens(self) -> tuple[Tokenizer, TokenBatch]:
        tokenizer = self._ready()
        return tokenizer, _tokens(tokenizer, self._raws(tokenizer))

    def _ask(self, module: nn.Module) -> Callable[[], Any]:
        raw = self._collated(module)
        return lambda: _tensors(module(raw))

    def _collated(self, module: nn.Module) -> Raw:
        assert isinstance(module, Tokenizer)
        return module.preprocess.collate(self._raws(module))

    def declarations(self) -> None:
        """It has a preprocess that is no module, and describes itself in one line."""
        tokenizer = self._make()
        preprocess = getattr(tokenizer, "preprocess", None)
        require(isinstance(preprocess, Preprocess), "`preprocess` is not a metaformer.base.Preprocess")
        require(not isinstance(preprocess, nn.Module), "`preprocess` is a module: it cannot go to data workers")
        require("\n" not in tokenizer.describe(), "`describe` gives more than one line")

    def offline(self) -> None:
        """Neither construction nor reading nor tokenizing uses the network."""
        with offline():
            self._all_tokens()

    def output_shape(self) -> None:
        """x [B T D] of the wired width, mask [B T], and what else is given fits."""
        for dim in (self.dim, 2 * self.dim):
            tokenizer = self.make(dim).eval()
            tokens = _tokens(tokenizer, self._raws(tokenizer))
            rows, shape = len(self.samples), list(tokens.x.shape)
            require(len(shape) == 3 and shape[0] == rows, f"{rows} samples give tokens of shape {shape}, not [B T D]")
            require(shape[2] == dim, f"tokens are {shape[2]} wide where the encoder is {dim}")
            require(list(tokens.mask.shape) == shape[:2], f"the mask is {list(tokens.mask.shape)}, not {shape[:2]}")
            if tokens.ids is not None:
                require(list(tokens.ids.shape) == shape[:2], f"ids are {list(tokens.ids.shape)}, not {shape[:2]}")
            require(0 <= tokens.num_prefix <= shape[1], f"num_prefix is {tokens.num_prefix} of {shape[1]} tokens")
            if tokens.grid is not None:
                patches = shape[1] - tokens.num_prefix
                require(prod(tokens.grid) == patches, f"the grid {tokens.grid} does not hold {patches} patches")

    def output_dtype(self) -> None:
        """x is floating-point as the weights are, mask is boolean, ids are whole numbers."""
        tokenizer, tokens = self._all_tokens()
        weights = {p.dtype for p in tokenizer.parameters() if p.is_floating_point()} or {torch.float32}
        require(tokens.x.dtype in weights, f"tokens are {tokens.x.dtype}; the weights are {weights}")
        require(tokens.mask.dtype == torch.bool, f"the mask is {tokens.mask.dtype}, not boolean")
        if tokens.ids is not None:
            require(not tokens.ids.is_floating_point(), f"ids are {tokens.ids.dtype}, not whole numbers")

    def mask(self) -> None:
        """Every sample has a real token."""
        tokenizer = self._ready()
        for i, raw in enumerate(self._raws(tokenizer)):
            tokens = _tokens(tokenizer, [raw])
            require(bool(tokens.mask.any()), f"sample {i} has no real token: is the mask upside down? True is real")

    def finite(self) -> None:
        """All tokens are finite, masked ones included: attention multiplies them by zero, which saves no NaN."""
        _, tokens = self._all_tokens()
        rows = [i for i, x in enumerate(tokens.x) if not torch.isfinite(x).all()]
        require(not rows, f"tokens of samples {rows} are not finite")

    def padding_invariance(self) -> None:
        """A sample's real tokens are the same alone and beside longer and shorter ones."""
        tokenizer = self._ready()
        raws = self._raws(tokenizer)
        crowd = _tokens(tokenizer, [*raws, tokenizer.preprocess.example(), tokenizer.preprocess.blank()])
        for i, raw in enumerate(raws):
            alone = _tokens(tokenizer, [raw])
            few, many = int(alone.mask.sum()), int(crowd.mask[i].sum())
            require(few == many, f"padding leak: sample {i} has {few} real tokens alone and {many} beside longer ones")
            defect = f"padding leak: tokens of sample {i} differ alone and beside longer ones"
            require_close(crowd.x[i][crowd.mask[i]], alone.x[0][alone.mask[0]], defect)

    def batch_order(self) -> None:
        """Samples in another order give the same tokens in that order."""
        tokenizer = self._ready()
        raws = [*self._raws(tokenizer), tokenizer.preprocess.blank()]
        forth, back = _tokens(tokenizer, raws), _tokens(tokenizer, raws[::-1])
        defect = "samples in reverse order give other tokens: something mixes the rows of a batch"
        require(same(back.mask.flip(0), forth.mask), f"{defect} (the mask)")
        require_close(back.x.flip(0)[forth.mask], forth.x[forth.mask], defect)

    def blank(self) -> None:
        """The stand-in for a missing value collates with real samples and is finite, and so are its gradients."""
        tokenizer = self._ready()
        blank = tokenizer.preprocess.blank()
        alone = tokenizer(tokenizer.preprocess.collate([blank]))
        require(alone.x.shape[1] > 0, "the blank has no token at all: one is the least")
        require(bool(torch.isfinite(alone.x).all()), "tokens of the blank are not finite")
        if alone.x.requires_grad:
            modules.require_finite_gradients(tokenizer, alone.x.sum(), "the blank")
        beside = _tokens(tokenizer, [*self._raws(tokenizer), blank])
        require(bool(torch.isfinite(beside.x).all()), "tokens of the blank beside real samples are not finite")

    def example(self) -> None:
        """The sample of the largest size is as long as any that was given."""
        tokenizer, tokens = self._all_tokens()
        largest = _tokens(tokenizer, [tokenizer.preprocess.example()])
        most, here = int(tokens.mask.sum(dim=1).max()), largest.x.shape[1]
        require(here >= most, f"`example` has {here} tokens, and a sample has {most}: costs would be counted too low")

    def preprocess_determinism(self) -> None:
        """In evaluation a value always gives the same tensors, on the CPU and without gradients."""
        preprocess = self._make().preprocess
        for i, value in enumerate(self.samples):
            with isolated_rng(1):
                first = preprocess(value, False)
            with isolated_rng(2):
                second = preprocess(value, False)
            require(same(first, second), f"sample {i} is preprocessed to other tensors the second time")
            odd = [key for key, tensor in first.items() if tensor.requires_grad or tensor.device.type != "cpu"]
            require(not odd, f"sample {i} is preprocessed to tensors with gradients or off the CPU: {odd}")

    def preprocess_pickle(self) -> None:
        """The preprocess goes to data workers and does the same there."""
        preprocess = self._make().preprocess
        try:
            copy = round_trip(preprocess)
        except Exception as error:
            raise AssertionError(f"the preprocess cannot be pickled, as data workers need: {error}") from error
        for i, value in enumerate(self.samples):
            equal = same(copy(value, False), preprocess(value, False))
            require(equal, f"a pickled copy of the preprocess does something else with sample {i}")
        require(same(copy.blank(), preprocess.blank()), "a pickled copy of the preprocess has another blank")

    def preprocess_random_state(self) -> None:
        """Evaluation neither draws from global random generators nor seeds them."""
        preprocess = self._make().preprocess
        for value in self.samples:
            moved = moved_generators(lambda value=value: preprocess(value, False))  # type: ignore[misc]
            require(not moved, f"preprocessing for evaluation moves the global random state of {', '.join(moved)}")

    def augmentation(self) -> None:
        """In training the global generators alone decide, and what comes out can be tokenized."""
        tokenizer = self._ready()
        passes = []
        for _ in range(2):
            with isolated_rng(5):
                passes.append([tokenizer.preprocess(value, True) for value in self.samples])
        defect = "equal seeds give other training samples: something draws from a generator of its own"
        require(same(passes[0], passes[1]), defect)
        finite = bool(torch.isfinite(_tokens(tokenizer, passes[0]).x).all())
        require(finite, "tokens of training samples are not finite")

    def fit(self) -> None:
        """The same values give the same statistics on every rank; asked for only where `fits` says so."""
        if not self._make().fits:
            own = type(self._make()).fit is not Tokenizer.fit
            require(not own, "it defines `fit`, which is never called: set `fits = True`")
            return
        with isolated_rng(1):
            first = self._ready()
        with isolated_rng(1):
            moved = modules.changed(modules.snapshot(first), self._ready())
        require(not moved, f"two fits to the same values differ in: {', '.join(moved)}")

    def input_unchanged(self) -> None:
        """Several passes may read one batch: the forward pass leaves it as it is."""
        tokenizer = self._ready()
        raw = tokenizer.preprocess.collate(self._raws(tokenizer))
        before = {key: tensor.clone() for key, tensor in raw.items()}
        with torch.no_grad():
            tokenizer(raw)
        require(same(before, dict(raw)), "the forward pass writes into the batch that it reads")

    def gradient_reach(self) -> None:
        """Every trainable parameter learns from one of the samples."""
        tokenizer = self._ready().train()
        tokens = tokenizer(tokenizer.preprocess.collate(self._raws(tokenizer)))
        hint = "give a sample that uses them, or take them away: some engines hang on parameters without gradient"
        if any(p.requires_grad for p in tokenizer.parameters()):
            modules.require_reach(tokenizer, modules.probe(tokens.x[tokens.mask]), hint)

    def own_weights(self) -> None:
        """`translate` leaves the tokenizer's own tensors as they are: weights of an earlier run must load."""
        tokenizer = self._ready()
        state = dict(tokenizer.state_dict())
        theirs = dict(tokenizer.translate(state))
        equal = theirs.keys() == state.keys() and all(same(theirs[key], state[key]) for key in state)
        require(equal, "`translate` does not hand on the tokenizer's own tensors")

    def bf16_autocast(self) -> None:
        """Under bf16 autocast tokens are finite and near those of fp32."""
        tokenizer, exact = self._all_tokens()
        with torch.autocast("cpu", torch.bfloat16):
            rough = _tokens(tokenizer, self._raws(tokenizer))
        require(bool(torch.isfinite(rough.x).all()), "tokens under bf16 autocast are not finite")
        require(same(rough.mask, exact.mask), "the mask under bf16 autocast is another")
        defect = "tokens under bf16 autocast are far from those in fp32: are ids or raw values cast to bf16?"
        require_close(rough.x[rough.mask], exact.x[exact.mask], defect, NEAR)

    def meta_device(self) -> None:
        """It is built and run without memory, which `metaformer inspect` does to count tokens and FLOPs."""
        tokenizer = self._make().eval()
        raw = tokenizer.preprocess.collate([tokenizer.preprocess.example()])
        real = _tokens(tokenizer, [tokenizer.preprocess.example()])
        try:
            with torch.device("meta"):
                bare = self._make().eval()
            with torch.no_grad():
                tokens = bare({key: tensor.to("meta") for key, tensor in raw.items()})
        except Exception as error:
            raise AssertionError(f"it does not run on the meta device, as `inspect` needs: {error}") from error
        require(tokens.x.is_meta, "built on the meta device, it allocates memory all the same")
        same_shape = tokens.x.shape == real.x.shape
        require(same_shape, f"on the meta device tokens are {list(tokens.x.shape)}, not {list(real.x.shape)}")

    def positions(self) -> None:
        """`positions`, where given, are what was added: they broadcast to x and can be taken off again."""
        _, tokens = self._all_tokens()
        if tokens.positions is None:
            return
        shape, whole = list(tokens.positions.shape), list(tokens.x.shape)
        require(shape in (whole, whole[1:]), f"positions are {shape}: neither [T D] nor [B T D] beside tokens {whole}")
        left = tokens.x - tokens.positions
        require(bool(torch.isfinite(left).all()), "tokens without their positions are not finite")

    def contents(self) -> None:
        """`contents`, where offered, are finite numbers of every token after the prefix, which no weight and no padding
        changes."""
        tokenizer, tokens = self._all_tokens()
        if not tokenizer.num_contents:
            own = type(tokenizer).contents is not Tokenizer.contents
            require(not own, "it defines `contents`, which is never asked for: set `num_contents`")
            return
        raws = self._raws(tokenizer)
        found = tokenizer.contents(tokenizer.preprocess.collate(raws))
        rows, patches = len(raws), tokens.x.shape[1] - tokens.num_prefix
        expected = [rows, patches, tokenizer.num_contents]
        require(list(found.shape) == expected, f"`contents` has shape {list(found.shape)}, not [B P E] = {expected}")
        require(
            found.is_floating_point() and not found.requires_grad, "`contents` must be plain floating-point numbers"
        )
        require(bool(torch.isfinite(found).all()), "`contents` are not finite")
        other = self._ready().contents(tokenizer.preprocess.collate(raws))
        require(
            same(other, found), "`contents` depend on initial weights: they are what a token is made of, not tokens"
        )
        preprocess = tokenizer.preprocess
        everyone = [*raws, preprocess.example(), preprocess.blank()]
        crowd, crowd_mask = tokenizer.contents(preprocess.collate(everyone)), _tokens(tokenizer, everyone).mask
        for i, raw in enumerate(raws):
            alone, own_mask = tokenizer.contents(preprocess.collate([raw])), _tokens(tokenizer, [raw]).mask[0]
            mine, here = own_mask[tokens.num_prefix :], crowd_mask[i][tokens.num_prefix :]
            defect = f"padding leak: `contents` of sample {i} differ alone and beside longer ones"
            require_close(crowd[i][here], alone[0][mine], defect)

    def bad_values(self) -> None:
        """Values that cannot be used raise DataError, which says what was wanted and what was found."""
        preprocess = self._make().preprocess
        for i, value in enumerate(self.bad):
            try:
                preprocess(value, False)
            except DataError as error:
                require(bool(error.asked and error.found), f"the DataError of bad value {i} lacks a part: {error}")
            except Exception as error:
                found = f"{type(error).__name__}: {error}"
                raise AssertionError(f"bad value {i} ({value!r:.60}) raises no DataError, but {found}") from error
            else:
                raise AssertionError(f"bad value {i} ({value!r:.60}) is taken for a good one")


def _tokens(tokenizer: Tokenizer, raws: Sequence[Raw]) -> TokenBatch:
    with torch.no_grad():
        tokens: TokenBatch = tokenizer(tokenizer.preprocess.collate(raws))
    return tokens


def _tensors(tokens: TokenBatch) -> Any:
    optional = (tokens.ids, tokens.positions)
    return [tokens.x, tokens.mask, *(tensor for tensor in optional if tensor is not None)]
