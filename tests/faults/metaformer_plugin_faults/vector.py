"""Vectors of numbers: a modality as small as can be, and a data set with every fault a data set can have."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from metaformer.base import Dataset, Preprocess, Tokenizer
from metaformer.errors import DataError
from metaformer.types import Raw, Sample, TokenBatch


class VectorPreprocess(Preprocess):
    """Numbers → {"values": [T], "mask": [T]}, with a little noise in training."""

    def __call__(self, value: Any, train: bool) -> Raw:
        if isinstance(value, str):
            raise DataError("a list of numbers", repr(value), "give numbers")
        values = torch.as_tensor(value, dtype=torch.float32)
        if train:
            values = values + 0.1 * torch.randn_like(values)
        return {"values": values, "mask": torch.ones(len(value), dtype=torch.bool)}

    def blank(self) -> Raw:
        return {"values": torch.zeros(1), "mask": torch.ones(1, dtype=torch.bool)}


class VectorTokenizer(Tokenizer):
    """{"values": [B T]} → TokenBatch [B T D]; with running statistics, as BatchNorm has them."""

    def __init__(self, dim: int, *, batch_norm: bool = False) -> None:
        super().__init__()
        self.preprocess = VectorPreprocess()
        self.linear = nn.Linear(1, dim)
        self.place = nn.Parameter(0.02 * torch.randn(16, dim))
        self.norm = nn.BatchNorm1d(dim) if batch_norm else None

    def forward(self, raw: Raw) -> TokenBatch:
        x: Tensor = self.linear(raw["values"].unsqueeze(-1)) + self.place[: raw["values"].shape[1]]
        if self.norm is not None:
            x = self.norm(x.transpose(1, 2)).transpose(1, 2)
        return TokenBatch(x, raw["mask"], "vector")


class Vectors(Dataset):
    """`size` vectors of 3 to 5 numbers, their sign (a class), their sum, and both as a text. Faults are told by index:
    `bad` cannot be read, `nan` are not finite, `huge` are fifty times too large, `slow` take `seconds`, `kill` end the
    process that reads them, `hold` wait until a file appears; `log` names a folder in which each read leaves a mark."""

    classes = {"sign": ["minus", "plus"]}

    def __init__(
        self,
        *,
        size: int = 64,
        seed: int = 0,
        bad: tuple[int, ...] = (),
        nan: tuple[int, ...] = (),
        huge: tuple[int, ...] = (),
        slow: tuple[int, ...] = (),
        kill: tuple[int, ...] = (),
        seconds: float = 60.0,
        rank: int | None = None,
        log: str | None = None,
        opening: float = 0.0,
    ) -> None:
        """`rank`: only there are samples slow or deadly. `opening`: seconds that making the data set takes."""
        if log is not None:
            (Path(log) / "opening").touch()
        time.sleep(opening)
        generator = torch.Generator().manual_seed(seed)
        self.rows = [torch.randn(3 + i % 3, generator=generator).tolist() for i in range(size)]
        self.bad, self.nan, self.huge, self.slow, self.kill = map(frozenset, (bad, nan, huge, slow, kill))
        self.seconds, self.log = seconds, log
        self.here = rank is None or os.environ.get("RANK", "0") == str(rank)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Sample:
        row = self.rows[index]
        if self.log is not None:
            (Path(self.log) / str(index)).touch()
        if self.here and index in self.slow:
            time.sleep(self.seconds)
        if self.here and index in self.kill:
            os.kill(os.getpid(), signal.SIGKILL)
        sign, total = ("plus" if sum(row) > 0 else "minus"), sum(row)
        values: Any = row
        if index in self.bad:
            values = "bad value"
        elif index in self.nan:
            values = [float("nan")] * len(row)
        elif index in self.huge:
            total *= 50.0
        return {"vector": values, "sign": sign, "total": total, "words": f"{sign} {abs(total):.1f}"}

    def fingerprint(self) -> str:
        return f"vectors:{len(self)}"
