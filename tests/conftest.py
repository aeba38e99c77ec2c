"""A tiny model made by hand: two streams of vectors, one shared encoder, two heads."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from metaformer.base import Dataset, Preprocess, Tokenizer
from metaformer.data.loader import Reader
from metaformer.encoders.transformer import TransformerEncoder
from metaformer.errors import DataError
from metaformer.heads.classification import ClassificationHead
from metaformer.heads.regression import RegressionHead
from metaformer.model import MetaFormer, Route
from metaformer.objectives.supervised import CrossEntropy, Regression
from metaformer.types import TokenBatch


class VectorPreprocess(Preprocess):
    """A list of numbers → {"values": [T], "mask": [T]}; noise in training."""

    def __call__(self, value, train):
        if "bad" in str(value):
            raise DataError("a list of numbers", repr(value))
        values = torch.tensor(value, dtype=torch.float32)
        if train:
            values = values + 0.1 * torch.randn_like(values)
        return {"values": values, "mask": torch.ones(len(value), dtype=torch.bool)}

    def blank(self):
        return {"values": torch.zeros(1), "mask": torch.ones(1, dtype=torch.bool)}


class VectorTokenizer(Tokenizer):
    """One token per number."""

    modality = "vector"

    def __init__(self, dim: int):
        super().__init__()
        self.preprocess = VectorPreprocess()
        self.linear = nn.Linear(1, dim)
        self.place = nn.Parameter(0.02 * torch.randn(16, dim))
        self.norm = nn.BatchNorm1d(dim)

    def forward(self, raw: dict[str, Tensor]) -> TokenBatch:
        positions = self.place[: raw["values"].shape[1]]
        x = self.linear(raw["values"].unsqueeze(-1)) + positions
        return TokenBatch(x, raw["mask"], self.modality, positions=positions)


class VectorDataset(Dataset):
    """Numbers, their class (sign of the sum) and their sum; every fifth sample lacks something."""

    classes = {"sign": ["minus", "plus"]}

    def __init__(self, stream: str = "left", size: int = 20, seed: int = 0, holes: bool = False):
        self.stream, self.holes = stream, holes
        generator = torch.Generator().manual_seed(seed)
        self.rows = [torch.randn(3 + i % 3, generator=generator).tolist() for i in range(size)]

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        row = self.rows[index]
        sample = {self.stream: row, "sign": "plus" if sum(row) > 0 else "minus", "total": sum(row)}
        if self.holes and index % 5 == 0:
            del sample[self.stream if index % 2 else "sign"]
        return sample


@pytest.fixture
def make_model():
    def make(dim=16, depth=2):
        torch.manual_seed(0)
        heads = {"sign": ClassificationHead(dim, num_classes=2), "total": RegressionHead(dim)}
        heads["sign"].reads, heads["total"].reads = "left", "right"
        model = MetaFormer(
            {"left": VectorTokenizer(dim), "right": VectorTokenizer(dim)},
            {"shared": TransformerEncoder(dim=dim, depth=depth, num_heads=4)},
            {"left": Route(("left",), "shared"), "right": Route(("right",), "shared")},
            {},
            {},
            heads,
        )
        model.add_objectives("signs", [CrossEntropy(heads, head="sign")])
        model.add_objectives("totals", [Regression(heads, head="total")])
        return model

    return make


@pytest.fixture
def make_reader():
    def make(model, task="signs", train=True, **options):
        stream = {"signs": "left", "totals": "right"}[task]
        dataset = VectorDataset(stream, **options)
        (objective,) = model.objectives[task]
        preprocess = {stream: model.tokenizers[stream].preprocess}
        return Reader(task, dataset, preprocess, objective.targets, dataset.classes, train)

    return make
