"""Forward and backward of self-attention by kernel, dtype and length: where the constants of layers/attention.py
come from.

Prints processor milliseconds, the smallest of several rounds: with one thread they hardly depend on what else the
machine does. On a GPU it times the device instead.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn import functional as F

from metaformer.layers import attention

Kernel = Callable[[Tensor, Tensor, Tensor], Tensor]


def whole(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The formula, all scores at once."""
    return attention.attention_weights(q, k) @ v


def blocked(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    out: Tensor = attention._Blocked.apply(q, k, v, None)
    return out


@contextmanager
def constants(block: int, keep: int) -> Iterator[None]:
    before = attention._BLOCK_BYTES, attention._KEEP_CELLS
    attention._BLOCK_BYTES, attention._KEEP_CELLS = block, keep
    try:
        yield
    finally:
        attention._BLOCK_BYTES, attention._KEEP_CELLS = before


EVERYTHING = 1 << 40
KERNELS: dict[str, tuple[Kernel, int, int]] = {
    "whole": (whole, 0, 0),
    "fused": (F.scaled_dot_product_attention, 0, 0),
    "blocks 1 MiB": (blocked, 1 << 20, EVERYTHING),
    "blocks 2 MiB": (blocked, 2 << 20, EVERYTHING),
    "blocks 4 MiB": (blocked, 4 << 20, EVERYTHING),
    "2 MiB, again": (blocked, 2 << 20, 0),
    "attend": (attention.attend, attention._BLOCK_BYTES, attention._KEEP_CELLS),
}


def milliseconds(kernel: Kernel, qkv: Tensor, grad: Tensor, rounds: int) -> float:
    """Smallest time of one forward and backward pass, from the projection's output to its gradient."""
    best = float("inf")
    for _ in range(rounds + 1):
        qkv.grad = None
        if qkv.is_cuda:
            torch.cuda.synchronize()
        began = time.perf_counter() if qkv.is_cuda else time.process_time()
        q, k, v = (x.transpose(1, 2) for x in qkv.unbind(2))
        kernel(q, k, v).transpose(1, 2).flatten(2).backward(grad)
        if qkv.is_cuda:
            torch.cuda.synchronize()
        ended = time.perf_counter() if qkv.is_cuda else time.process_time()
        best = min(best, ended - began)
    return 1e3 * best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, nargs="+", default=[17, 50, 197, 577, 1024, 1569, 3136])
    parser.add_argument("--samples", type=int, help="default: as many as make 1576 tokens, at least one")
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--width", type=int, default=64, help="of a head")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dtype", nargs="+", default=["bfloat16", "float32"])
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    print(f"{'dtype':9s} {'samples x tokens':>16s} " + " ".join(f"{name:>13s}" for name in KERNELS))
    for name in args.dtype:
        for tokens in args.tokens:
            samples = args.samples or max(1576 // tokens, 1)
            like = {"dtype": getattr(torch, name), "device": args.device}
            qkv = torch.randn(samples, tokens, 3, args.heads, args.width, **like).requires_grad_()
            grad = torch.randn(samples, tokens, args.heads * args.width, **like)
            cells = []
            for kernel, block, keep in KERNELS.values():
                with constants(block, keep):
                    cells.append(f"{milliseconds(kernel, qkv, grad, args.rounds):13.2f}")
            print(f"{name:9s} {f'{samples} x {tokens}':>16s} " + " ".join(cells), flush=True)


if __name__ == "__main__":
    main()
