"""Compiled blocks: the same losses, the same names, and an end to compiling.

Measured in a process of its own: torch cannot compile the run-time checks of shapes that the tests have switched on.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from torch._dynamo.utils import counters

from metaformer.encoders.transformer import TransformerEncoder
from metaformer.layers.compile import compile_blocks, missing_compiler
from metaformer.layers.recompute import recompute
from metaformer.types import TokenBatch
from tests.faulty import ROOT
from tests.selected import selected, thorough

KINDS = ["compiled", "recomputed"]


def make(recomputed: bool = False, backend: str | None = None, **options) -> TransformerEncoder:
    torch.manual_seed(0)
    encoder = TransformerEncoder(dim=16, num_heads=2, **{"depth": 1, **options})
    if recomputed:
        recompute(encoder.blocks)
    if backend is not None:
        compile_blocks(encoder.blocks, backend)
    return encoder


def losses(encoder: TransformerEncoder, shapes: list[tuple[int, int, bool]]) -> list[float]:
    """Steps of plain descent over batches of these sizes and lengths, padded or not."""
    out = []
    for i, (size, length, padded) in enumerate(shapes):
        mask = torch.ones(size, length, dtype=torch.bool)
        mask[0, length - 1] = not padded
        x = torch.randn(size, length, encoder.dim, generator=torch.Generator().manual_seed(i))
        loss = (encoder(TokenBatch(x, mask, "test")).x.square() * mask[..., None]).mean()
        loss.backward()
        with torch.no_grad():
            for p in encoder.parameters():
                p -= 0.01 * p.grad
        encoder.zero_grad()
        out.append(float(loss.detach()))
    return out


def outputs(encoder: TransformerEncoder) -> list[float]:
    x = torch.randn(3, 5, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return encoder.eval()(TokenBatch(x, torch.ones(3, 5, dtype=torch.bool), "test")).x.flatten().tolist()


def programs(recomputed: bool) -> list[int]:
    """How many there are after the first batches of many kinds, and after more of them. Without code generation, which
    takes long and decides nothing about how often there is something to compile."""
    torch._dynamo.reset()
    counters.clear()
    encoder = make(recomputed, "eager", depth=3, drop=0.1, drop_path=0.3)
    losses(encoder, [(4, 5, True), (4, 7, False), (4, 5, False), (3, 9, True), (6, 4, False), (4, 12, True)])
    first = counters["stats"]["unique_graphs"]
    losses(encoder, [(4, 8, True), (7, 6, False), (5, 13, False), (4, 3, True)])
    assert not counters["graph_break"]
    return [first, counters["stats"]["unique_graphs"]]


STEADY = [(3, 5, True)] * 4


def measure(names: list[str]) -> dict[str, object]:
    out: dict[str, object] = {}
    for name in names:
        recomputed = name == "recomputed"
        encoder = make(recomputed, "inductor")
        out[name] = losses(encoder, STEADY)
        out[f"{name} names"] = list(encoder.state_dict())
        out[f"{name} outputs"] = outputs(make(recomputed, "eager"))
        out[f"{name} programs"] = programs(recomputed)
    return out


@pytest.fixture(scope="module")
def measured(request):
    if missing_compiler() is not None:
        pytest.skip("no C++ compiler")
    command = [sys.executable, "-m", "tests.test_compile", *sorted(selected(request, "name"))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "recompile_limit" not in done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", thorough(KINDS, ["compiled"]))
def test_compiled_blocks_give_the_losses_of_uncompiled_ones(measured, name):
    assert measured[name] == pytest.approx(losses(make(), STEADY), rel=1e-5)
    assert measured[f"{name} outputs"] == pytest.approx(outputs(make()), rel=1e-5, abs=1e-6)
    assert measured[f"{name} names"] == list(make().state_dict())


@pytest.mark.parametrize("name", thorough(KINDS, ["compiled"]))
def test_lengths_masks_and_drop_rates_end_in_few_programs(measured, name):
    first, later = measured[f"{name} programs"]
    assert 0 < first == later < 64


def test_a_missing_compiler_is_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert missing_compiler() == "no-such-compiler"


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1:])))
